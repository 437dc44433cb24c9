"""Differential attention: common attention of a pair of heads cancels, equally in both backends.

output = W_o (1 - initial) norm(softmax(q1 k1) v - strength softmax(q2 k2) v) = the paper's equations in loops
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from attention import spec
from attention.parity.contracts import backends
from attention.parity.contracts.check import check_probe, expect, verdicts
from attention.parity.contracts.probes import Probe, probes
from attention.parity.results.report import Report
from attention.spec.errors import MaskError, OptionError, PositionError, ShapeError
from attention.spec.layers.differential import LAMBDAS, strength
from attention.spec.norms import RMSNorm
from parity_tests.support.backends import JAX, TORCH, Backend, close, each_backend, numbers, wide

B, T, S, M, H, K, D = 2, 5, 7, 10, 4, 2, 6
WHOLE = spec.DifferentialAttention(
    M,
    H,
    depth=3,
    num_kv_heads=K,
    head_dim=D,
    qkv_bias=True,
    out_bias=True,
    norm=RMSNorm(1e-2),
    mask=spec.Causal(align="end"),
    positions=spec.Rotary(base=300.0),
    dropout_rate=0.3,
)
PLAIN = spec.DifferentialAttention(16, H, depth=0)
PLACED: dict[str, Any] = {"query_positions": np.arange(T) + 2, "key_positions": np.arange(S)}


def weights_of(c: spec.DifferentialAttention, dtype: str = "float64") -> spec.Weights:
    return spec.cast({name: 0.5 * numbers(i, *p.shape) for i, (name, p) in enumerate(c.params.items())}, dtype)


def loaded(backend: Backend, c: spec.DifferentialAttention, dtype: str = "float64") -> Any:
    layer = c.build(backend.name, dtype=dtype)
    layer.load_weights(weights_of(c, dtype))
    layer.eval()
    return layer


def inputs() -> dict[str, np.ndarray]:
    return {"query": numbers(7, B, T, M), "key": numbers(8, B, S, M), "value": numbers(9, B, S, M)}


def judged(c: spec.DifferentialAttention, arrays: dict[str, np.ndarray], **call: Any) -> dict[str, np.ndarray]:
    return c.formula(np, weights_of(c), arrays, c.resolve(arrays, **call))


def program(backend: Backend, layer: Any, **options: Any) -> Callable[..., Any]:
    """Return the layer as a function of arrays by name; in JAX a compiled one."""
    return jax.jit(lambda given: layer(**given, **options)) if backend is JAX else lambda given: layer(**given, **options)


def chosen(c: spec.DifferentialAttention, dtype: str, name: str) -> Probe:
    return next(probe for probe in probes(c, dtype) if probe.name == name)


class TestLaws:
    @each_backend
    def test_a_pair_of_equal_heads_leaves_one_less_the_strength(self, backend: Backend) -> None:
        # Both attentions are then one, so that the norm undoes all but the sign of 1 - strength.
        w = weights_of(PLAIN)
        for name in ("q_proj.kernel", "k_proj.kernel"):
            w[name][:, 1::2] = w[name][:, 0::2]
        x = numbers(7, B, T, 16)
        q, k, v = (np.einsum("btm,mhd->bthd", x, w[f"{n}_proj.kernel"]) for n in "qkv")
        context = spec.attend(np, q[..., 0::2, :], k[..., 0::2, :], v, scale=2**-0.5)["context"]
        factor = 1 - float(strength(np, PLAIN, w)[0])
        wanted = PLAIN.norm.normalise(np, {"scale": w["norm.scale"]}, factor * context) * 0.8
        with wide(x):
            layer = PLAIN.build(backend.name, dtype="float64")
            layer.load_weights(w)
            close(backend.numpy(layer(backend.array(x))), np.einsum("bthe,hem->btm", wanted, w["out_proj.kernel"]), 1e-13)

    @each_backend
    def test_rotary_sees_distances_alone(self, backend: Backend) -> None:
        given = inputs()
        with wide(*given.values()):
            call, given = program(backend, loaded(backend, WHOLE)), {name: backend.array(x) for name, x in given.items()}
            near, far = (backend.numpy(call({**given, **{n: p + by for n, p in PLACED.items()}})) for by in (0, 900))
        close(far, near, 1e-11)

    def test_deep_layers_take_away_more(self) -> None:
        # Of the paper: lambda_init = 0.8 - 0.6 exp(-0.3 (l - 1)), l counted from 1.
        initials = [replace(PLAIN, depth=layer - 1).initial for layer in (1, 2, 12)]
        np.testing.assert_allclose(initials, [0.2, 0.355509, 0.777870], atol=1e-6)


class TestValues:
    @each_backend
    def test_float64_is_the_formula_to_1e_13(self, backend: Backend) -> None:
        given, mask = inputs(), spec.Lengths(kv=[7, 3], q=[5, 0])
        wanted = judged(WHOLE, given, mask=mask, **PLACED)
        with wide(*given.values()):
            layer = program(
                backend, loaded(backend, WHOLE), mask=mask, return_intermediates=("weights", "logsumexp", "context")
            )
            output, intermediates = layer({name: backend.array(x) for name, x in given.items()} | PLACED)
            close(backend.numpy(output), wanted["output"], 1e-13)
            for intermediate, value in intermediates.items():
                close(backend.numpy(value), wanted[intermediate], 1e-13)

    @each_backend
    def test_both_attentions_drop_weights_of_their_own(self, backend: Backend) -> None:
        given = inputs()
        wanted = judged(WHOLE, given, dropout_seed=7, **PLACED)
        with wide(*given.values()):
            layer = loaded(backend, WHOLE)
            layer.train()
            output = program(backend, layer, dropout_seed=7)({name: backend.array(x) for name, x in given.items()} | PLACED)
            close(backend.numpy(output), wanted["output"], 1e-13)
        kept = WHOLE.resolve(given, dropout_seed=7, **PLACED)["keep"]
        assert not np.array_equal(kept["first"], kept["second"])

    def test_the_formula_is_the_papers_in_loops(self) -> None:
        given, w = inputs(), weights_of(WHOLE)
        c = replace(WHOLE, positions=None)
        q, k, v = (
            np.einsum("btm,mhd->bthd", x, w[f"{n}_proj.kernel"]) + w[f"{n}_proj.bias"]
            for n, x in zip("qkv", given.values(), strict=True)
        )
        initial = 0.8 - 0.6 * math.exp(-0.9)
        lam = math.exp(w["lambda_q1"] @ w["lambda_k1"]) - math.exp(w["lambda_q2"] @ w["lambda_k2"]) + initial
        wanted = np.tile(w["out_proj.bias"], (B, T, 1))
        for b, t, h in np.ndindex(B, T, H):
            seen, g = range(t + S - T + 1), h // (H // K)
            maps = []
            for i in (0, 1):
                raised = np.exp([q[b, t, 2 * h + i] @ k[b, s, 2 * g + i] / math.sqrt(D) for s in seen])
                maps.append(raised / raised.sum())
            context = (maps[0] - lam * maps[1]) @ v[b, : len(seen), g]
            normed = context / np.sqrt((context**2).mean() + 1e-2) * w["norm.scale"]
            wanted[b, t] += (1 - initial) * normed @ w["out_proj.kernel"][h]
        close(judged(c, given)["output"], wanted, 1e-13)

    def test_first_weights_are_the_same_bits_everywhere(self) -> None:
        ours = WHOLE.init(5)
        for backend in (TORCH, JAX):
            theirs = WHOLE.build(backend.name, seed=5).weights()
            assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
        assert all(0 < np.abs(ours[name]).max() < 0.1 * math.sqrt(3) for name in LAMBDAS)

    def test_a_torch_layer_survives_its_state_dict(self) -> None:
        first, second = WHOLE.build("torch", seed=1), WHOLE.build("torch", seed=2)
        _ = second.load_state_dict(first.state_dict())
        assert all(np.array_equal(a, b) for a, b in zip(first.weights().values(), second.weights().values(), strict=True))


class TestProof:
    @pytest.mark.parametrize("name", ["padding", "intermediates"])
    def test_both_backends_stay_within_the_budget(self, name: str) -> None:
        Report(tuple(check_probe("differential", chosen(WHOLE, "float32", name)))).assert_ok()

    def test_float64_gradients_are_the_formulas_to_1e_13(self) -> None:
        probe = chosen(WHOLE, "float64", "padding")
        wanted = expect(probe, runs=2).value
        largest = max(np.abs(g).max() for g in wanted.values())
        for side in backends.BACKENDS:
            got = backends.find(side).run(probe, "auto").results
            assert set(got) == set(wanted)
            for name, value in got.items():
                np.testing.assert_allclose(value, wanted[name], rtol=0, atol=1e-13 * largest, err_msg=name)


# name: what is turned wrongly, in a contract with the same parameters
MUTANTS: dict[str, Callable[[spec.DifferentialAttention], spec.DifferentialAttention]] = {
    "depth counted from 1": lambda c: replace(c, depth=c.depth + 1),
    "eps of the norm": lambda c: replace(c, norm=RMSNorm(1e-5)),
    "norm scale stored from 1": lambda c: replace(c, norm=RMSNorm(1e-2, offset=True)),
    "scale of the doubled width": lambda c: replace(c, score=spec.ScaledDot((2 * c.width) ** -0.5)),
    "scale wrong by 0.003 %": lambda c: replace(c, score=spec.ScaledDot(c.width**-0.5 * 1.00003)),
    "rotary forgotten": lambda c: replace(c, positions=None),
    "rotary interleaved for half": lambda c: replace(c, positions=spec.Rotary(base=300.0, style="interleaved")),
    "mask forgotten": lambda c: replace(c, mask=None),
    "dropout forgotten": lambda c: replace(c, dropout_rate=0.0),
}


class TestMutants:
    @pytest.mark.parametrize("name", MUTANTS)
    def test_a_wrongly_turned_knob_is_outside_the_budget(self, name: str) -> None:
        probe, expected = self.judge()
        wrong: Any = MUTANTS[name](WHOLE)
        results = backends.find("torch").run(replace(probe, contract=wrong.pinned()), "auto").results
        assert not all(verdict.agrees for verdict in verdicts(results, expected))

    def test_halves_for_neighbours_is_outside_the_budget(self) -> None:
        # DiffLlama in transformers keeps all first heads before all second ones.
        probe, expected = self.judge()
        order = np.arange(2 * H).reshape(H, 2).T.reshape(-1)
        moved = {n: probe.weights[n].take(order, -2) for n in ("q_proj.kernel", "q_proj.bias")}
        results = backends.find("torch").run(replace(probe, weights={**probe.weights, **moved}), "auto").results
        assert not all(verdict.agrees for verdict in verdicts({"output": results["output"]}, expected))

    @staticmethod
    @cache
    def judge() -> tuple[Probe, Any]:
        probe = chosen(WHOLE, "float32", "dropout")
        right = backends.find("torch").run(probe, "auto")
        expected = expect(probe, right.rounds)
        assert all(verdict.agrees for verdict in verdicts(right.results, expected))
        return probe, expected


class TestTransforms:
    def test_jax_compiles_maps_and_differentiates(self) -> None:
        x, layer = jnp.asarray(numbers(7, B, T, 16, dtype="float32")), loaded(JAX, PLAIN, "float32")
        call = jax.jit(layer)
        np.testing.assert_allclose(jax.vmap(call)(x), call(x), atol=1e-5)
        assert jnp.isfinite(jax.grad(lambda x: call(x).sum())(x)).all()

    def test_torch_compiles_maps_and_differentiates(self) -> None:
        torch.compiler.reset()
        x, layer = torch.from_numpy(numbers(7, B, T, 16, dtype="float32")), loaded(TORCH, PLAIN, "float32")
        compiled = torch.compile(layer, fullgraph=True, backend="eager")
        for call in (compiled, torch.func.vmap(layer)):
            torch.testing.assert_close(call(x), layer(x), atol=1e-5, rtol=0)
        assert torch.func.grad(lambda x: layer(x).sum())(x).isfinite().all()


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "error", "text"),
        [
            ({"embed_dim": 0}, OptionError, "embed_dim 0 must be a positive int"),
            ({"depth": -1}, OptionError, "depth -1 must be an int >= 0, the layers before this one"),
            ({"embed_dim": 12}, OptionError, "2 num_heads = 8 must divide embed_dim = 12, or head_dim be given"),
            ({"num_kv_heads": 3}, OptionError, "num_kv_heads 3 must divide num_heads = 4"),
            ({"qkv_bias": 1}, OptionError, "qkv_bias 1 must be True or False"),
            ({"norm": None}, OptionError, "norm None must be RMSNorm(...)"),
            ({"positions": 3}, OptionError, "positions 3 must be Rotary(...) or AxialRotary(...) or None"),
            ({"dropout_rate": 1.0}, OptionError, "dropout_rate 1.0 must be in [0, 1)"),
        ],
    )
    def test_a_contract_out_of_range(self, options: dict[str, Any], error: type[Exception], text: str) -> None:
        with pytest.raises(error) as raised:
            _ = replace(PLAIN, **options)
        assert (type(raised.value), str(raised.value)) == (error, text)

    @each_backend
    def test_a_call_that_does_not_fit(self, backend: Backend) -> None:
        layer, x = WHOLE.build(backend.name), backend.array(np.zeros((B, T, M), np.float32))
        few = x[:, :3]
        with pytest.raises(ShapeError, match=r"^query \(2, 5, 9\) must be \(\*batch, T, M\) with M = 10$"):
            _ = layer(x[..., :9])
        with pytest.raises(PositionError, match=r"^query_positions None must be given: T = 3 queries and S = 5 keys differ$"):
            _ = layer(few, x)
        with pytest.raises(MaskError, match="must be a Mask"):
            _ = layer(x, mask=np.ones((T, T), bool))
