"""Latent attention: the absorbed form equals the expanded one, and decoding with a cache equals the whole sequence.

decode(x[:n]) ++ decode(x[n:]) = absorbed(x) = expanded(x) = the paper's equations in loops
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attention import spec
from attention.parity.contracts import backends
from attention.parity.contracts.check import check_probe, expect, verdicts
from attention.parity.contracts.probes import Probe, probes
from attention.parity.results.report import Report
from attention.spec.errors import DTypeError, MaskError, OptionError, PositionError, ShapeError
from attention.spec.layers.contract import BACKENDS as MODULES
from attention.spec.layers.latent_forms import absorb, expand
from attention.spec.norms import RMSNorm
from attention.spec.positions import DynamicNTKScaling, YarnScaling
from attention.spec.scores import heads_first
from parity_tests.support.backends import JAX, TORCH, Backend, close, each_backend, numbers, wide

B, T = 3, 7
SIZES: dict[str, Any] = {"embed_dim": 10, "num_heads": 2, "kv_rank": 7, "nope_dim": 5, "rope_dim": 4, "value_dim": 6}
WHOLE = spec.LatentAttention(
    **SIZES, q_rank=8, down_bias=True, q_bias=True, out_bias=True, mask=spec.Causal(), dropout_rate=0.3, norm=RMSNorm(1e-3)
)
PLAIN = spec.LatentAttention(
    **SIZES, positions=spec.Rotary(base=300.0, scaling=YarnScaling(40, 16, mscale=0.7, mscale_all_dim=1))
)
WINDOW = replace(WHOLE, mask=spec.Causal() & spec.Window(before=2, after=0), dropout_rate=0.0)
CONTRACTS = {"whole": WHOLE, "plain": PLAIN}
CACHES = {"torch": "attention.torch_impl.cache", "jax": "attention.jax_impl.cache"}


@dataclass(frozen=True)
class Absorbed(spec.LatentAttention):
    """The same contract, whose formula and layers take the absorbed form: what the proof is asked to judge."""

    def formula(self, *given: Any, **options: Any) -> dict[str, Any]:
        return super().formula(*given, **options, form="absorbed")

    def build(self, backend: str, *, weights: Any = None, **options: Any) -> Any:
        layer = absorbed_layer(backend)(self, **options)
        if weights is not None:
            layer.load_weights(weights)
        return layer


@cache
def absorbed_layer(backend: str) -> type:
    kind: Any = importlib.import_module(MODULES[backend]).LatentAttention
    name = "forward" if backend == "torch" else "__call__"

    def call(self: Any, *given: Any, **options: Any) -> Any:
        return getattr(kind, name)(self, *given, **{"form": "absorbed", **options})

    return type("Absorbed", (kind,), {name: call})


def absorbed(c: spec.LatentAttention) -> Absorbed:
    return Absorbed(**{field.name: getattr(c, field.name) for field in fields(c)})


def weights_of(c: spec.LatentAttention, dtype: str = "float64") -> spec.Weights:
    return spec.cast({name: 0.5 * numbers(i, *p.shape) for i, (name, p) in enumerate(c.params.items())}, dtype)


def loaded(backend: Backend, c: spec.LatentAttention, dtype: str = "float64") -> Any:
    layer = c.build(backend.name, dtype=dtype)
    layer.load_weights(weights_of(c, dtype))
    layer.eval()
    return layer


def judged(c: spec.LatentAttention, x: np.ndarray, form: str = "expanded", **call: Any) -> dict[str, np.ndarray]:
    return c.formula(np, weights_of(c), {"x": x}, c.resolve({"x": x}, **call), form=form)


def empty(backend: Backend, kind: str, c: spec.LatentAttention, batch: int = B, dtype: str = "float64") -> Any:
    module = importlib.import_module(CACHES[backend.name])
    if kind == "PagedCache":
        return module.PagedCache.make([[5, 0, 3], [2, 6, 1], [4, 8, 7]], 9, 3, *c.cache_sizes, dtype=dtype)
    return getattr(module, kind).make(batch, T, *c.cache_sizes, dtype=dtype)


def program(backend: Backend, layer: Any, **options: Any) -> Callable[..., Any]:
    """Return the layer as a function: in JAX a compiled one, for op by op each shape costs a compilation of every op."""
    return (
        jax.jit(lambda x, call: layer(x, **call, **options)) if backend is JAX else lambda x, call: layer(x, **call, **options)
    )


def decode(backend: Backend, layer: Any, held: Any, x: Any, parts: list[int], form: str = "auto", positions: Any = None) -> Any:
    """Return the outputs of all chunks, one after the other, and the cache with all of them in it."""
    made, start, step = [], 0, program(backend, layer, form=form)
    for size in parts:
        where = None if positions is None else positions[:, start : start + size]
        output, held = step(x[:, start : start + size], {"cache": held, "positions": where})
        made.append(backend.numpy(output))
        start += size
    return np.concatenate(made, axis=1), held


def chosen(c: spec.LatentAttention, dtype: str, *names: str) -> list[Probe]:
    return [probe for probe in probes(c, dtype) if probe.name in names]


class TestLaws:
    @settings(max_examples=25)
    @given(
        sizes=st.tuples(*[st.integers(1, 4)] * 5),
        q_rank=st.none() | st.integers(1, 4),
        batch=st.sampled_from([(), (2,), (2, 3)]),
        lengths=st.booleans(),
    )
    def test_the_absorbed_form_is_the_expanded_one(self, sizes: Any, q_rank: Any, batch: Any, lengths: bool) -> None:
        m, h, r, n, e = sizes
        c = spec.LatentAttention(m, h, r, n, 4, e, q_rank=q_rank, down_bias=True, mask=spec.Causal())
        x = numbers(1, *batch, 5, m)
        mask = spec.Lengths(kv=np.full(batch, 3), q=np.full(batch, 4)) if lengths else None
        one, other = (judged(c, x, form, mask=mask) for form in ("expanded", "absorbed"))
        for intermediate in ("output", "weights", "logsumexp", "context"):
            close(other[intermediate], one[intermediate], 1e-13)

    @pytest.mark.parametrize("name", CONTRACTS)
    @each_backend
    def test_both_forms_of_a_layer_are_the_formula(self, backend: Backend, name: str) -> None:
        c, x = CONTRACTS[name], numbers(9, B, T, 10)
        call = {"mask": spec.Lengths(kv=[7, 5, 0], q=[7, 5, 0]), "positions": np.array([[3], [0], [8190]]) + np.arange(T)}
        wanted = judged(c, x, **call)
        with wide(x):
            layer = loaded(backend, c)
            for form in ("expanded", "absorbed"):
                asked = program(backend, layer, form=form, return_intermediates=("weights", "logsumexp", "context"))
                output, intermediates = asked(backend.array(x), call)
                close(backend.numpy(output), wanted["output"], 1e-13)
                for intermediate, value in intermediates.items():
                    close(backend.numpy(value), wanted[intermediate], 1e-13)

    @pytest.mark.parametrize(
        ("kind", "form", "parts"),
        [
            ("StaticCache", "auto", [4, 1, 1, 1]),
            ("StaticCache", "expanded", [1] * 7),
            ("RollingCache", "auto", [1, 3, 3]),
            ("PagedCache", "auto", [1, 3, 3]),
        ],
    )
    @each_backend
    def test_a_decode_is_the_whole_sequence(self, backend: Backend, kind: str, form: str, parts: list[int]) -> None:
        x = numbers(9, B, T, 10)
        wanted = judged(WINDOW, x)["output"]
        with wide(x):
            got, held = decode(
                backend, loaded(backend, WINDOW), empty(backend, kind, WINDOW), backend.array(x), parts, form=form
            )
            close(got, wanted, 1e-13)
            assert backend.numpy(held.value).shape[-2:] == (1, 7), "one latent a token, whatever the heads"

    @each_backend
    def test_absent_tokens_of_a_chunk_influence_nothing(self, backend: Backend) -> None:
        x = numbers(9, B, T, 10)
        places = np.array([[0, 1, 2, 3, 4, 5, 6], [-1, -1, 0, 1, 2, 3, 4], [-1, 0, 1, 2, -1, 3, 4]])
        poisoned = np.where((places < 0)[..., None], np.nan, x)
        with wide(x):
            layer = loaded(backend, WHOLE)
            got, _ = decode(
                backend,
                layer,
                empty(backend, "StaticCache", WHOLE),
                backend.array(poisoned),
                [1] * 7,
                positions=backend.array(places),
            )
        for row, there in enumerate(places >= 0):
            close(got[row][there], judged(WHOLE, x[row][there])["output"], 1e-13)

    @each_backend
    def test_rotary_sees_distances_alone(self, backend: Backend) -> None:
        x = numbers(9, B, T, 10)
        with wide(x):
            layer = program(backend, loaded(backend, WHOLE))
            near, far = (backend.numpy(layer(backend.array(x), {"positions": np.arange(T) + first})) for first in (0, 900))
        close(far, near, 1e-11)


class TestValues:
    def test_the_formula_is_the_papers_in_loops(self) -> None:
        x, w = numbers(9, T, 10), weights_of(WINDOW)
        angle = np.arange(T)[:, None] * 10_000.0 ** (-np.arange(0, 4, 2) / 4)

        def turned(v: np.ndarray, t: int) -> np.ndarray:
            pairs = (v[0::2] + 1j * v[1::2]) * np.exp(1j * angle[t])
            return np.stack([pairs.real, pairs.imag], -1).reshape(-1)

        def normed(v: np.ndarray, scale: np.ndarray) -> np.ndarray:
            return v / np.sqrt((v**2).mean() + 1e-3) * scale

        latents, keys = [], []
        for t in range(T):
            down = x[t] @ w["kv_down.kernel"] + w["kv_down.bias"]
            latents.append(normed(down[:7], w["kv_norm.scale"]))
            keys.append(turned(down[7:], t))
        wanted = np.tile(w["out_proj.bias"], (T, 1))
        for t, h in np.ndindex(T, 2):
            down = normed(x[t] @ w["q_down.kernel"] + w["q_down.bias"], w["q_norm.scale"])
            q = down @ w["q_up.kernel"][:, h] + w["q_up.bias"][h]
            seen = range(max(0, t - 2), t + 1)
            made = {s: latents[s] @ w["kv_up.kernel"][:, h] for s in seen}
            raised = np.exp([(q[:5] @ made[s][:5] + turned(q[5:], t) @ keys[s]) / 3 for s in seen])
            for s, weight in zip(seen, raised / raised.sum(), strict=True):
                wanted[t] += weight * made[s][5:] @ w["out_proj.kernel"][h]
        close(judged(WINDOW, x)["output"], wanted, 1e-13)

    def test_absorption_moves_a_matrix_across_a_dot_product(self) -> None:
        kernel, nope, latent = numbers(1, 7, 2, 11), numbers(2, 3, 2, 5), numbers(3, 3, 7)
        made = np.einsum("sr,rhd->shd", latent, kernel)
        close(
            absorb(np, kernel, nope) @ latent.T,
            heads_first(np, heads_first(np, nope) @ made[..., :5].transpose(1, 2, 0)),
            1e-13,
        )
        close(expand(np, kernel, np.repeat(latent[:, None], 2, 1), 5), made[..., 5:], 1e-13)

    def test_first_weights_are_the_same_bits_everywhere(self) -> None:
        ours = WHOLE.init(5)
        for backend in (TORCH, JAX):
            theirs = WHOLE.build(backend.name, seed=5).weights()
            assert all(np.array_equal(ours[name], theirs[name]) for name in ours)

    def test_only_what_is_asked_for_is_learned(self) -> None:
        assert set(PLAIN.params) == {"q_proj.kernel", "kv_down.kernel", "kv_norm.scale", "kv_up.kernel", "out_proj.kernel"}
        assert len(WHOLE.params) == 11

    def test_a_torch_layer_survives_its_state_dict(self) -> None:
        first, second = WHOLE.build("torch", seed=1), WHOLE.build("torch", seed=2)
        _ = second.load_state_dict(first.state_dict())
        assert all(np.array_equal(a, b) for a, b in zip(first.weights().values(), second.weights().values(), strict=True))


class TestProof:
    """Of the absorbed form; the expanded one is a case of `spec.cases`, which `test_parity.py` judges."""

    def test_both_backends_stay_within_the_budget(self) -> None:
        (probe,) = chosen(absorbed(WHOLE), "float32", "padding")
        Report(tuple(check_probe("latent", probe, backends.BACKENDS))).assert_ok()

    def test_bfloat16_stays_within_its_own(self) -> None:
        (probe,) = chosen(absorbed(WHOLE), "bfloat16", "padding")
        Report(tuple(check_probe("latent", probe, ("torch", "jax")))).assert_ok()

    @pytest.mark.parametrize("form", [lambda c: c, absorbed], ids=["expanded", "absorbed"])
    def test_float64_gradients_are_the_formulas_to_1e_13(self, form: Callable[[Any], Any]) -> None:
        (probe,) = chosen(form(WHOLE), "float64", "padding")
        wanted = expect(probe, runs=2).value
        largest = max(np.abs(g).max() for g in wanted.values())
        for side in backends.BACKENDS:
            got = backends.find(side).run(probe, "auto").results
            assert set(got) == set(wanted)
            for name, value in got.items():
                np.testing.assert_allclose(value, wanted[name], rtol=0, atol=1e-13 * largest, err_msg=name)


# name: what is turned wrongly, in a contract with the same parameters
MUTANTS: dict[str, Callable[[spec.LatentAttention], spec.LatentAttention]] = {
    "rotary half for interleaved": lambda c: replace(c, positions=spec.Rotary(style="half")),
    "base of the rotary": lambda c: replace(c, positions=spec.Rotary(base=10_100.0, style="interleaved")),
    "scale of the nope part alone": lambda c: replace(c, score=spec.ScaledDot(c.nope_dim**-0.5)),
    "scale wrong by 0.003 %": lambda c: replace(c, score=spec.ScaledDot(c.width**-0.5 * 1.00003)),
    "eps of the norms": lambda c: replace(c, norm=RMSNorm(1e-6)),
    "norm scale stored from 1": lambda c: replace(c, norm=RMSNorm(1e-3, offset=True)),
    "mask forgotten": lambda c: replace(c, mask=None),
    "dropout forgotten": lambda c: replace(c, dropout_rate=0.0),
}


class TestMutants:
    @pytest.mark.parametrize("name", MUTANTS)
    def test_a_wrongly_turned_knob_is_outside_the_budget(self, name: str) -> None:
        probe, expected = judge()
        right = backends.find("torch").run(probe, "auto")
        assert all(verdict.agrees for verdict in verdicts(right.results, expected))
        wrong = backends.find("torch").run(replace(probe, contract=MUTANTS[name](probe.contract)), "auto")  # type: ignore[arg-type]
        assert not all(verdict.agrees for verdict in verdicts(wrong.results, expected))


@cache
def judge() -> tuple[Probe, Any]:
    (probe,) = chosen(WHOLE, "float32", "dropout")
    return probe, expect(probe, backends.find("torch").run(probe, "auto").rounds)


class TestTransforms:
    def test_jax_maps_and_differentiates(self) -> None:
        x, layer = jnp.asarray(numbers(9, B, T, 10, dtype="float32")), loaded(JAX, WINDOW, "float32")
        call = program(JAX, layer)
        np.testing.assert_allclose(jax.vmap(call, (0, None))(x, {}), call(x, {}), atol=1e-5)
        slopes = [jax.grad(lambda x, f=form: program(JAX, layer, form=f)(x, {}).sum())(x) for form in ("expanded", "absorbed")]
        np.testing.assert_allclose(*slopes, atol=1e-4)

    def test_torch_compiles_maps_and_differentiates(self) -> None:
        torch.compiler.reset()
        x, layer = torch.from_numpy(numbers(9, B, T, 10, dtype="float32")), loaded(TORCH, WINDOW, "float32")
        whole, held = layer(x), empty(TORCH, "StaticCache", WINDOW, dtype="float32")
        compiled = torch.compile(layer, fullgraph=True, backend="eager", dynamic=False)
        torch.testing.assert_close(compiled(x, form="absorbed"), whole, atol=1e-5, rtol=0)
        with torch.no_grad():
            first, held = compiled(x[:, :1], cache=held)
            second, _ = compiled(x[:, 1:2], cache=held)
        torch.testing.assert_close(torch.cat([first, second], 1), whole[:, :2], atol=1e-5, rtol=0)
        torch.testing.assert_close(torch.func.vmap(layer)(x), whole, atol=1e-5, rtol=0)
        assert torch.func.grad(lambda x: layer(x).sum())(x).isfinite().all()


class TestDropout:
    @each_backend
    def test_training_draws_and_evaluation_does_not(self, backend: Backend) -> None:
        x = backend.array(numbers(9, B, T, 10, dtype="float32"))
        layer = loaded(backend, WHOLE, "float32")
        still = [backend.numpy(layer(x)) for _ in range(2)]
        layer.train()
        drawn = [backend.numpy(layer(x)) for _ in range(2)]
        assert np.array_equal(still[0], still[1])
        assert not np.allclose(drawn[0], drawn[1])

    @each_backend
    def test_both_forms_drop_the_same_weights(self, backend: Backend) -> None:
        x = numbers(9, B, T, 10)
        with wide(x):
            layer = loaded(backend, WHOLE)
            layer.train()
            for form in ("expanded", "absorbed"):
                got = program(backend, layer, form=form, dropout_seed=7)(backend.array(x), {})
                close(backend.numpy(got), judged(WHOLE, x, dropout_seed=7)["output"], 1e-13)


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "error", "text"),
        [
            ({"kv_rank": 0}, OptionError, "kv_rank 0 must be a positive int"),
            ({"q_rank": 2.5}, OptionError, "q_rank 2.5 must be a positive int, or None"),
            ({"out_bias": 1}, OptionError, "out_bias 1 must be True or False"),
            ({"rope_dim": 3}, OptionError, "Rotary rotary_dim 3 must be even and at most head_dim = 3"),
            ({"norm": None}, OptionError, "norm None must be RMSNorm(...)"),
            ({"score": None}, OptionError, "score None must be ScaledDot(...) or Dot(...)"),
            ({"dropout_rate": 1.0}, OptionError, "dropout_rate 1.0 must be in [0, 1)"),
            (
                {"mask": spec.Lengths(kv=[1])},
                MaskError,
                f"mask {spec.Lengths(kv=[1])!r} must be structure without arrays: pass lengths and arrays with the call",
            ),
        ],
    )
    def test_a_contract_out_of_range(self, options: dict[str, Any], error: type[Exception], text: str) -> None:
        with pytest.raises(error) as raised:
            _ = spec.LatentAttention(**{**SIZES, **options})
        assert (type(raised.value), str(raised.value)) == (error, text)

    @pytest.mark.parametrize(
        ("call", "error", "text"),
        [
            ({"x": (3, 7, 9)}, ShapeError, "x (3, 7, 9) must be (*batch, T, M) with M = 10"),
            ({"form": "absorb"}, OptionError, "form 'absorb' must be one of 'auto', 'expanded', 'absorbed'"),
            ({"positions": np.ones(T)}, PositionError, "positions float64 must be an array of integers"),
            ({"positions": np.arange(5)}, ShapeError, "positions (5,) must broadcast to (*batch, T) = (3, 7)"),
            ({"cache": {}}, DTypeError, "cache dict must be a StaticCache, RollingCache or PagedCache"),
        ],
    )
    @each_backend
    def test_a_call_that_does_not_fit(self, backend: Backend, call: dict[str, Any], error: type[Exception], text: str) -> None:
        call = dict(call)
        x = backend.array(np.zeros(call.pop("x", (B, T, 10)), np.float32))
        with pytest.raises(error) as raised:
            _ = WHOLE.build(backend.name)(x, **call)
        assert (type(raised.value), str(raised.value)) == (error, text)

    @each_backend
    def test_a_cache_that_does_not_fit(self, backend: Backend) -> None:
        x, other = backend.array(np.zeros((B, T, 10), np.float32)), {TORCH: JAX, JAX: TORCH}[backend]
        layer, held = WINDOW.build(backend.name), empty(backend, "StaticCache", WINDOW, dtype="float32")
        with pytest.raises(ShapeError, match=r"^cache of batch \(2,\) must have batch = \(3,\) as x has$"):
            _ = layer(x, cache=empty(backend, "StaticCache", WINDOW, batch=2, dtype="float32"))
        with pytest.raises(DTypeError, match=r"cache\.StaticCache must be of the framework of x$"):
            _ = layer(x, cache=empty(other, "StaticCache", WINDOW, dtype="float32"))
        with pytest.raises(MaskError, match=r"^Lengths kv \[9, 7, 7\] must be in 0..S = 7$"):
            _ = layer(x, cache=held, mask=spec.Lengths(kv=[9, 7, 7]))
        with pytest.raises(OptionError, match=r"^mask None must hide later keys"):
            _ = PLAIN.build(backend.name)(x, cache=held)
        with pytest.raises(OptionError, match="a cache of window 7 keeps fewer"):
            _ = replace(WINDOW, mask=spec.Causal()).build(backend.name)(
                x, cache=empty(backend, "RollingCache", WINDOW, dtype="float32")
            )
        grows = replace(WHOLE, positions=spec.Rotary(scaling=DynamicNTKScaling(2.0, 16)))
        with pytest.raises(OptionError, match="must not depend on the length"):
            _ = grows.build(backend.name)(x, cache=held)
