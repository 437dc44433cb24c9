"""Linear attention: the scan equals the sums over all keys, in both backends.

scan(q, k, v) = quadratic(q, k, v) = the paper's recurrence in loops        decode(x[:n]) ++ decode(x[n:]) = scan(x)
"""

from __future__ import annotations

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
from attention.spec.errors import DTypeError, KernelRefused, MaskError, OptionError, ShapeError, UnknownName
from attention.spec.layers.linear_forms import CHUNK, features, ratio
from parity_tests.support.backends import JAX, TORCH, Backend, close, each_backend, numbers, wide

B, T, S, M, H, K, D, E = 2, 5, 7, 10, 4, 2, 6, 3
CAUSAL = spec.LinearAttention(M, H, K, head_dim=D, value_dim=E, causal=True, eps=0.01)
WHOLE = replace(CAUSAL, causal=False, feature_map="relu", eps=0.0)
CONTRACTS = {"causal": CAUSAL, "whole": WHOLE}
each_contract = pytest.mark.parametrize("name", CONTRACTS)
LENGTHS = {"right": [5, 2], "left": [4, 3]}


def weights_of(c: spec.LinearAttention, dtype: str = "float64") -> spec.Weights:
    return spec.cast({name: 0.5 * numbers(i, *p.shape) for i, (name, p) in enumerate(c.params.items())}, dtype)


def loaded(backend: Backend, c: spec.LinearAttention, dtype: str = "float64") -> Any:
    layer = c.build(backend.name, dtype=dtype)
    layer.load_weights(weights_of(c, dtype))
    return layer


def judged(c: spec.LinearAttention, x: np.ndarray, **call: Any) -> np.ndarray:
    arrays = {"query": x}
    return c.formula(np, weights_of(c), arrays, c.resolve(arrays, **call))["output"]


def program(backend: Backend, layer: Any, **options: Any) -> Callable[..., Any]:
    """Return the layer as a function; in JAX a compiled one."""
    return (
        jax.jit(lambda x, call: layer(x, **call, **options)) if backend is JAX else lambda x, call: layer(x, **call, **options)
    )


def chosen(c: spec.LinearAttention, dtype: str, name: str) -> Probe:
    return next(probe for probe in probes(c, dtype) if probe.name == name)


class TestLaws:
    @each_contract
    @each_backend
    def test_the_scan_is_the_quadratic_form(self, backend: Backend, name: str) -> None:
        # Three chunks, the last of them begun.
        c, x = CONTRACTS[name], numbers(7, B, 2 * CHUNK + 9, M)
        with wide(x):
            layer = loaded(backend, c)
            scan, quadratic = (
                program(backend, layer, implementation=form)(backend.array(x), {}) for form in ("scan", "quadratic")
            )
            close(backend.numpy(scan), backend.numpy(quadratic), 1e-13)
        close(backend.numpy(scan), judged(c, x), 1e-13)

    @each_backend
    def test_both_forms_have_the_same_gradients(self, backend: Backend) -> None:
        x, along = numbers(7, B, CHUNK + 3, M), numbers(8, B, CHUNK + 3, M)
        with wide(x):
            layer, direction = loaded(backend, CAUSAL), backend.array(along)
            scan, quadratic = (
                backend.numpy(
                    backend.grad(lambda x, f=f: (program(backend, layer, implementation=f)(x, {}) * direction).sum(), [x])[0]
                )
                for x, f in ((backend.array(x), "scan"), (backend.array(x), "quadratic"))
            )
        close(scan, quadratic, 1e-13)

    @each_backend
    def test_a_decode_is_the_whole_sequence(self, backend: Backend) -> None:
        x = numbers(7, B, T, M)
        with wide(x):
            step = program(backend, loaded(backend, CAUSAL), return_state=True)
            output, state = step(backend.array(x[:, :1]), {})
            made = [backend.numpy(output)]
            for token in range(1, T):
                output, state = step(backend.array(x[:, token : token + 1]), {"state": state})
                made.append(backend.numpy(output))
            assert state.shape == (B, K, D, E + 1)
            _, once = step(backend.array(x), {})
            close(backend.numpy(state), backend.numpy(once), 1e-13)
        close(np.concatenate(made, axis=1), judged(CAUSAL, x), 1e-13)

    @pytest.mark.parametrize("padding", LENGTHS)
    @pytest.mark.parametrize("queries", [False, True], ids=["keys alone", "both"])
    @each_contract
    @each_backend
    def test_padding_holds_nothing(self, backend: Backend, name: str, queries: bool, padding: str) -> None:
        c, x, kv = CONTRACTS[name], numbers(7, B, T, M), np.array(LENGTHS[padding])
        mask = spec.Lengths(kv=kv, q=kv if queries else None, padding=padding)
        wanted = judged(c, x, mask=mask)
        place = np.arange(T) if padding == "right" else np.arange(T)[::-1]
        gone = (place >= kv[:, None])[..., None]
        poisoned = np.where(gone, np.nan, x)
        with wide(x):
            got = backend.numpy(loaded(backend, c)(backend.array(poisoned), mask=mask, implementation="scan"))
        # A padded token that may ask is NaN where it sees anything, and nothing else is.
        asks = gone & ~(queries or (padding == "left" and c.causal))
        close(np.where(asks, 0, got), np.where(asks, 0, wanted), 1e-13)

    @each_backend
    def test_an_empty_row_is_the_bias_of_the_output(self, backend: Backend) -> None:
        x = numbers(7, B, T, M)
        with wide(x):
            layer = loaded(backend, CAUSAL)
            for form in ("scan", "quadratic"):
                got = backend.numpy(layer(backend.array(x), mask=spec.Lengths(kv=[5, 0]), implementation=form))
                np.testing.assert_array_equal(got[1], np.broadcast_to(weights_of(CAUSAL)["out_proj.bias"], (T, M)))


class TestValues:
    def test_the_formula_is_the_papers_recurrence_in_loops(self) -> None:
        x, w = numbers(7, B, T, M), weights_of(CAUSAL)
        q, k, v = (np.einsum("btm,mhd->bthd", x, w[f"{n}_proj.kernel"]) + w[f"{n}_proj.bias"] for n in "qkv")
        wanted = np.tile(w["out_proj.bias"], (B, T, 1))
        for b, h in np.ndindex(B, H):
            total, below, g = np.zeros((D, E)), np.zeros(D), h // (H // K)
            for t in range(T):
                f_q, f_k = (np.where(y > 0, y, np.expm1(y)) + 1 for y in (q[b, t, h], k[b, t, g]))
                total, below = total + np.outer(f_k, v[b, t, g]), below + f_k
                wanted[b, t] += (f_q @ total) / (f_q @ below + 0.01) @ w["out_proj.kernel"][h]
        close(judged(CAUSAL, x), wanted, 1e-13)

    def test_the_weights_of_a_row_sum_to_one(self) -> None:
        c = replace(CAUSAL, eps=0.0)
        weights = weights_of(c)
        weights["v_proj.kernel"][:], weights["v_proj.bias"][:] = 0, 1
        x = {"query": numbers(7, B, T, M)}
        np.testing.assert_allclose(c.formula(np, weights, x, c.resolve(x))["mixed"], 1, atol=1e-13)

    def test_features_keep_the_digits_of_a_very_negative_number(self) -> None:
        x = np.array([-50.0, -1.0, 0.0, 2.0, 1000.0], np.float32)
        np.testing.assert_allclose(features(np, "elu+1", x), [np.exp(-50.0), np.exp(-1.0), 1, 3, 1001], rtol=1e-6)
        np.testing.assert_array_equal(features(np, "relu", x), [0, 0, 0, 2, 1000])

    def test_a_query_that_answers_to_no_key_gives_zero(self) -> None:
        np.testing.assert_array_equal(ratio(np, np.array([[0.0, 0.0], [3.0, 2.0]]), 0.0), [[0.0], [1.5]])

    @each_backend
    def test_the_state_is_in_the_compute_dtype(self, backend: Backend) -> None:
        x = backend.array(spec.cast({"x": numbers(7, B, T, M)}, "bfloat16")["x"])
        output, state = CAUSAL.build(backend.name, dtype="bfloat16")(x, return_state=True)
        assert [str(backend.numpy(y).dtype) for y in (output, state)] == ["bfloat16", "float32"]

    def test_first_weights_are_the_same_bits_everywhere(self) -> None:
        ours = CAUSAL.init(5)
        for backend in (TORCH, JAX):
            theirs = CAUSAL.build(backend.name, seed=5).weights()
            assert all(np.array_equal(ours[name], theirs[name]) for name in ours)

    def test_a_torch_layer_survives_its_state_dict(self) -> None:
        first, second = CAUSAL.build("torch", seed=1), CAUSAL.build("torch", seed=2)
        _ = second.load_state_dict(first.state_dict())
        assert all(np.array_equal(a, b) for a, b in zip(first.weights().values(), second.weights().values(), strict=True))


class TestProof:
    @pytest.mark.parametrize("probe", ["padding", "packed"])
    @each_contract
    def test_both_backends_stay_within_the_budget(self, name: str, probe: str) -> None:
        Report(tuple(check_probe("linear", chosen(CONTRACTS[name], "float32", probe)))).assert_ok()

    @each_contract
    def test_float64_gradients_are_the_formulas_to_1e_13(self, name: str) -> None:
        probe = chosen(CONTRACTS[name], "float64", "padding")
        wanted = expect(probe, runs=2).value
        largest = max(np.abs(g).max() for g in wanted.values())
        for side in backends.BACKENDS:
            got = backends.find(side).run(probe, "scan").results
            assert set(got) == set(wanted)
            for result, value in got.items():
                np.testing.assert_allclose(value, wanted[result], rtol=0, atol=1e-13 * largest, err_msg=result)


# name: what is turned wrongly, in a contract with the same parameters
MUTANTS: dict[str, Callable[[spec.LinearAttention], spec.LinearAttention]] = {
    "relu for elu + 1": lambda c: replace(c, feature_map="relu"),
    "eps forgotten": lambda c: replace(c, eps=0.0),
    "eps of the authors": lambda c: replace(c, eps=1e-6),
    "causal forgotten": lambda c: replace(c, causal=False),
}


class TestMutants:
    @pytest.mark.parametrize("name", MUTANTS)
    def test_a_wrongly_turned_knob_is_outside_the_budget(self, name: str) -> None:
        probe, expected = self.judge()
        wrong: Any = MUTANTS[name](CAUSAL)
        results = backends.find("torch").run(replace(probe, contract=wrong.pinned()), "auto").results
        assert not all(verdict.agrees for verdict in verdicts(results, expected))

    @staticmethod
    @cache
    def judge() -> tuple[Probe, Any]:
        probe = chosen(CAUSAL, "float32", "plain")
        right = backends.find("torch").run(probe, "auto")
        expected = expect(probe)
        assert all(verdict.agrees for verdict in verdicts(right.results, expected))
        return probe, expected


class TestTransforms:
    def test_jax_compiles_maps_and_differentiates(self) -> None:
        x, layer = jnp.asarray(numbers(7, B, T, M, dtype="float32")), loaded(JAX, CAUSAL, "float32")
        call = jax.jit(layer)
        np.testing.assert_allclose(jax.vmap(call)(x), call(x), atol=1e-5)
        assert jnp.isfinite(jax.grad(lambda x: call(x).sum())(x)).all()

    def test_torch_compiles_maps_and_differentiates(self) -> None:
        torch.compiler.reset()
        x, layer = torch.from_numpy(numbers(7, B, T, M, dtype="float32")), loaded(TORCH, CAUSAL, "float32")
        compiled = torch.compile(layer, fullgraph=True, backend="eager")
        for call in (compiled, torch.func.vmap(layer)):
            torch.testing.assert_close(call(x), layer(x), atol=1e-5, rtol=0)
        assert torch.func.grad(lambda x: layer(x).sum())(x).isfinite().all()


class TestHidden:
    @each_backend
    @pytest.mark.parametrize("causal", [False, True], ids=["whole", "causal"])
    @pytest.mark.parametrize("padding", ["left", "right"])
    def test_a_key_that_no_query_reads_may_hold_anything(self, backend: Backend, causal: bool, padding: str) -> None:
        layer = backend.module.LinearAttention(spec.LinearAttention(6, 2, causal=causal))
        x, mask = numbers(9, 2, 5, 6, dtype="float32"), spec.Lengths(kv=[4, 3], q=[2, 0], padding=padding)
        wanted, keys = backend.numpy(layer(backend.array(x), mask=mask)), x.copy()
        # Nobody reads in the second row; in the first, nobody reads on after the two queries that stand first.
        keys[1] = np.nan
        if causal and padding == "right":
            keys[0, 2:] = np.nan
        np.testing.assert_array_equal(backend.numpy(layer(backend.array(x), backend.array(keys), mask=mask)), wanted)


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"embed_dim": 0}, "embed_dim 0 must be a positive int"),
            ({"num_kv_heads": 3}, "num_kv_heads 3 must divide num_heads = 4"),
            ({"causal": 1}, "causal 1 must be True or False"),
            ({"feature_map": "exp"}, "feature_map 'exp' must be one of 'elu+1', 'relu'"),
            ({"eps": -1e-6}, "eps -1e-06 must be a finite number >= 0"),
        ],
    )
    def test_a_contract_out_of_range(self, options: dict[str, Any], text: str) -> None:
        with pytest.raises(OptionError) as raised:
            _ = replace(CAUSAL, **options)
        assert str(raised.value) == text

    @each_backend
    def test_a_call_that_does_not_fit(self, backend: Backend) -> None:
        layer, x = CAUSAL.build(backend.name), backend.array(np.zeros((B, T, M), np.float32))
        segments = spec.Segments(kv=[[0, 0, 1, 1, 1]] * B)
        with pytest.raises(UnknownName, match=r"^implementation 'flash' must be one of 'auto', 'scan', 'quadratic'$"):
            _ = layer(x, implementation="flash")
        with pytest.raises(
            KernelRefused, match=r"^kernel 'scan' refuses: sums over keys that are there or not, not over Segments"
        ):
            _ = layer(x, mask=segments, implementation="scan")
        with pytest.raises(KernelRefused, match=r"^kernel 'scan' refuses"):
            _ = layer(x, mask=segments, return_state=True)
        with pytest.raises(KernelRefused, match=r"^kernel 'quadratic' refuses: carries no state$"):
            _ = layer(x, return_state=True, implementation="quadratic")
        with pytest.raises(MaskError, match=r"^Causal with T = 3 queries and S = 5 keys must say"):
            _ = layer(x[:, :3], x)
        with pytest.raises(MaskError, match=r"^Lengths kv \[9, 1\] must be in 0\.\.S = 5$"):
            _ = layer(x, mask=spec.Lengths(kv=[9, 1]))

    @each_backend
    def test_a_state_that_does_not_fit(self, backend: Backend) -> None:
        x, state = backend.array(np.zeros((B, T, M), np.float32)), backend.array(np.zeros((B, K, D, E + 1), np.float32))
        half = backend.array(spec.cast({"state": np.zeros((B, K, D, E + 1))}, "float16")["state"])
        with pytest.raises(ShapeError, match=r"^state \(2, 2, 6, 3\) must be \(\*batch, K, D, E \+ 1\) = \(2, 2, 6, 4\)$"):
            _ = CAUSAL.build(backend.name)(x, state=state[..., :3])
        with pytest.raises(DTypeError, match=r"^state float16 must be float32, in which float32 computes$"):
            _ = CAUSAL.build(backend.name)(x, state=half)
        with pytest.raises(OptionError, match=r"^state must be None, and not returned, where causal is False"):
            _ = WHOLE.build(backend.name)(x, return_state=True)
