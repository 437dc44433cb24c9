"""Alignment attention with every score, in both backends.

weights[t, s] = softmax_s(cap(score(q[t], k[s])))        context[t] = sum_s weights[t, s] v[s]

The reference is loops that share no line with the formula. They run on complex numbers too, so that Im f(x + ih) / h is the
derivative to all digits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from attention import jax_impl, parity, spec, torch_impl
from attention.parity.contracts import backends
from attention.parity.contracts.probes import Probe
from attention.spec.errors import AttentionError, DTypeError, KernelRefused, MaskError, OptionError, ShapeError, UnknownName
from attention.spec.random import keep
from parity_tests.support.backends import JAX, TORCH, Backend, close, each_backend, numbers, wide

B, T, S = 2, 3, 5
WITHIN = 1e-13
STEP = 1e-200
WIDTHS: dict[str, Any] = {"query_dim": 7, "key_dim": 11, "value_dim": 13}

CONTRACTS = {
    "dot": spec.AlignmentAttention(7, value_dim=13, score=spec.Dot()),
    "scaled dot": spec.AlignmentAttention(**WIDTHS, score=spec.ScaledDot(), attn_dim=17),
    "general": spec.AlignmentAttention(**WIDTHS, score=spec.General()),
    "concat": spec.AlignmentAttention(**WIDTHS, score=spec.Concat(hidden=3, bias=True)),
    "additive": spec.AlignmentAttention(**WIDTHS, score=spec.Additive(hidden=5, bias=True), softcap=0.5),
    "chunked": spec.AlignmentAttention(**WIDTHS, score=spec.Additive(chunk_size=2), attn_dim=3),
    "cosine": spec.AlignmentAttention(7, value_dim=13, score=spec.Cosine(), softcap=4.0),
}
each_contract = pytest.mark.parametrize("contract", CONTRACTS.values(), ids=CONTRACTS)
each_side = pytest.mark.parametrize("side", ["torch", "jax_eager"])
ARTICLE = spec.AlignmentAttention(256, score=spec.ScaledDot(), attn_dim=256)


def probe(contract: spec.AlignmentAttention, query: tuple[int, ...], key: tuple[int, ...], **call: Any) -> Probe:
    """Return a float64 call with random numbers for all arrays, weights and cotangents; shapes without the width."""
    shapes = dict(zip(contract.inputs, (query, key, key), strict=True))
    arrays = {name: numbers(i, *shapes[name], width) for i, (name, width) in enumerate(contract.inputs.items())}
    # No array begins at a convenient value, and no temperature near its bound.
    weights = {name: numbers(9 + i, *param.shape) / 2 for i, (name, param) in enumerate(contract.params.items())}
    cotangents = {name: numbers(5 + i, *shape) for i, (name, shape) in enumerate(contract.results(arrays).items())}
    return Probe("by hand", contract, "float64", weights, arrays, cotangents, **call)


def score(c: Any, w: dict[str, Any], q: Any, k: Any) -> Any:
    """Return the score of one pair."""
    match c.score:
        case spec.Dot():
            return q @ k
        case spec.ScaledDot():
            return q @ k / len(q) ** 0.5
        case spec.General():
            return sum(q[i] * w["score_proj.kernel"][i, j] * k[j] for i in range(len(q)) for j in range(len(k)))
        case spec.Concat():
            hidden = np.concatenate([q, k]) @ w["score_proj.kernel"] + w.get("score_proj.bias", 0)
        case spec.Additive():
            hidden = q @ w["score_q_proj.kernel"] + k @ w["score_k_proj.kernel"] + w.get("score_q_proj.bias", 0)
        case _:
            return np.exp(w["log_scale"][0]) * (q @ k) / np.sqrt((q @ q) * (k @ k))
    return sum(v * np.tanh(x) for v, x in zip(w["score_v"], hidden, strict=True))


def loops(c: Any, given: dict[str, Any], allowed: Any = True) -> dict[str, Any]:
    """Return context and weights of states `(B, T, M)`; `given` holds arrays and parameters."""

    def project(name: str, x: Any) -> Any:
        return x if c.attn_dim is None else x @ given[f"{name}_proj.kernel"] + given[f"{name}_proj.bias"]

    q, k, v = project("q", given["query"]), project("k", given["key"]), project("v", given["value"])
    kind = np.result_type(*given.values())
    context, weights = np.zeros((*q.shape[:2], v.shape[-1]), kind), np.zeros((*q.shape[:2], k.shape[1]), kind)
    seen = np.broadcast_to(allowed, weights.shape)
    for b, t in np.ndindex(q.shape[:2]):
        raw = np.array([score(c, given, q[b, t], x) for x in k[b]])
        raw = raw if c.softcap is None else c.softcap * np.tanh(raw / c.softcap)
        raised = np.exp(raw) * seen[b, t]
        weights[b, t] = raised / raised.sum() if seen[b, t].any() else 0
        context[b, t] = weights[b, t] @ v[b]
    return {"context": context, "weights": weights}


def slope(case: Probe, name: str, direction: np.ndarray) -> float:
    """Return the derivative of `sum(outputs * cotangents)` along a direction of one array."""
    given = {**case.arrays, **case.weights}
    moved = loops(case.contract, {**given, name: given[name] + 1j * STEP * direction})
    return sum(float((moved[n].imag / STEP * way).sum()) for n, way in case.cotangents.items())


def built(backend: Backend, case: Probe) -> Any:
    """Return the layer of a probe with its weights."""
    layer = case.contract.build(backend.name, dtype=case.dtype)
    layer.load_weights(case.weights)
    return layer


def call(backend: Backend, case: Probe, **options: Any) -> Any:
    """Return what the layer of a probe returns, in NumPy."""
    with wide(*case.arrays.values()):
        layer = built(backend, case)
        layer.train(False) if backend is TORCH else layer.set_attributes(deterministic=True)
        made = layer(**{name: backend.array(x) for name, x in case.arrays.items()}, **case.call(), **options)
        return jax.tree.map(backend.numpy, made, is_leaf=lambda x: isinstance(x, torch.Tensor))


class TestLaws:
    @each_contract
    @each_side
    def test_outputs_and_gradients_are_those_of_the_loops(self, contract: spec.AlignmentAttention, side: str) -> None:
        case = probe(contract, (B, T), (B, S))
        got = backends.find(side).run(case, "auto").results
        wanted = loops(contract, {**case.arrays, **case.weights})
        for name in contract.outputs:
            close(got[name], wanted[name], WITHIN)
        for i, (name, array) in enumerate({**case.arrays, **case.weights}.items()):
            direction, gradient = numbers(40 + i, *array.shape), got[f"d {name}"]
            # What all keys share does not move the softmax: the gradient of the keys' bias is 0.
            size = max(1.0, np.linalg.norm(gradient)) * np.linalg.norm(direction)
            assert abs(float((gradient * direction).sum()) - slope(case, name, direction)) <= WITHIN * size, name

    @each_contract
    def test_the_oracle_is_the_loops(self, contract: spec.AlignmentAttention) -> None:
        mask = spec.DenseMask(numbers(3, B, 1, T, S) > 0)
        case = probe(contract, (B, T), (B, S), mask=mask)
        got, wanted = (
            backends.NumpyBackend().run(case, "auto").results,
            loops(contract, {**case.arrays, **case.weights}, mask.array[:, 0]),
        )
        for name in contract.outputs:
            close(got[name], wanted[name], WITHIN)

    @each_contract
    @each_backend
    def test_a_single_state_is_a_sequence_of_one(self, contract: spec.AlignmentAttention, backend: Backend) -> None:
        case = probe(contract, (B,), (B, S), mask=spec.Lengths(kv=[4, 0]))
        query = {"query": case.arrays["query"][:, None]}
        longer = call(backend, replace(case, arrays={**case.arrays, **query}))
        for short, long in zip(call(backend, case), longer, strict=True):
            close(short, long[:, 0], 1e-15)
        assert [x.shape for x in call(backend, case)] == [(B, contract.attn_dim or 13), (B, S)]

    @each_contract
    @each_backend
    def test_rows_sum_to_one_or_are_empty_and_padding_may_hold_anything(
        self, contract: spec.AlignmentAttention, backend: Backend
    ) -> None:
        case = probe(contract, (B, T), (B, S), mask=spec.Lengths(kv=[4, 0]))
        context, weights = call(backend, case)
        np.testing.assert_allclose(weights.sum(-1), [[1] * T, [0] * T], rtol=1e-15)
        assert not context[1].any()
        poisoned = {name: x.copy() for name, x in case.arrays.items()}
        for name in ("key", "value"):
            poisoned[name][0, 4:], poisoned[name][1] = np.nan, np.inf
        poisoned["query"][1] = np.nan
        for clean, dirty in zip((context, weights), call(backend, replace(case, arrays=poisoned)), strict=True):
            np.testing.assert_array_equal(dirty, clean)

    @each_backend
    def test_value_is_key_where_it_is_not_given(self, backend: Backend) -> None:
        case = probe(spec.AlignmentAttention(7, 11, score=spec.General()), (B, T), (B, S))
        both = {**case.arrays, "value": case.arrays["key"]}
        short = {name: x for name, x in both.items() if name != "value"}
        for got, wanted in zip(*(call(backend, replace(case, arrays=arrays)) for arrays in (short, both)), strict=True):
            np.testing.assert_array_equal(got, wanted)

    @pytest.mark.parametrize(("backend", "kernel"), [(TORCH, "sdpa"), (JAX, "xla")], ids=str)
    def test_a_fused_kernel_by_name_gives_the_same_context(self, backend: Backend, kernel: str) -> None:
        # jax.nn asks values for the width of keys, and has no float64.
        case = probe(spec.AlignmentAttention(7, score=spec.General()), (B, T), (B, S), mask=spec.Lengths(kv=[4, 0]))
        arrays, weights = ({n: x.astype(np.float32) for n, x in group.items()} for group in (case.arrays, case.weights))
        case = replace(case, dtype="float32", arrays=arrays, weights=weights)
        for got, wanted in zip(call(backend, case, implementation=kernel), call(backend, case), strict=True):
            close(got, wanted, 1e-6)

    @each_backend
    def test_dropout_drops_from_the_context_and_not_from_the_weights(self, backend: Backend) -> None:
        contract = replace(CONTRACTS["additive"], dropout_rate=0.5)
        case = probe(contract, (B, T), (B, S), dropout_seed=7)
        got = backends.find({TORCH: "torch", JAX: "jax_eager"}[backend]).run(case, "auto").results
        wanted = loops(contract, {**case.arrays, **case.weights})["weights"]
        close(got["weights"], wanted, WITHIN)
        kept = keep(7, 0.5, (B, 1, T, S))[:, 0]
        close(got["context"], (wanted * kept / 0.5) @ case.arrays["value"], WITHIN)

    @each_backend
    def test_training_draws_its_own_seed(self, backend: Backend) -> None:
        layer = replace(CONTRACTS["general"], dropout_rate=0.5).build(backend.name)
        query, key, value = (numbers(i, B, S, width, dtype="float32") for i, width in enumerate((7, 11, 13)))
        first, second = (backend.numpy(layer(*map(backend.array, (query, key, value)))[0]) for _ in range(2))
        assert (first != second).any()

    @each_backend
    def test_weights_survive_a_round_trip(self, backend: Backend) -> None:
        for contract in CONTRACTS.values():
            first = contract.init(seed=3)
            layer = contract.build(backend.name, seed=3)
            assert list(layer.weights()) == list(first)
            for name, value in layer.weights().items():
                np.testing.assert_array_equal(value, first[name])


class TestTransforms:
    def test_torch_compiles_differentiates_and_maps(self) -> None:
        case = probe(CONTRACTS["concat"], (B, T), (B, S))
        layer, mask = built(TORCH, case), spec.Lengths(kv=torch.tensor([4, 2]))
        arrays = [torch.from_numpy(x) for x in case.arrays.values()]
        wanted = layer(*arrays, mask=mask)
        torch.compiler.reset()
        fast = torch.compile(layer, fullgraph=True, backend="eager")
        torch.testing.assert_close(fast(*arrays, mask=mask), wanted, rtol=0, atol=1e-15)

        def scalar(learned: dict[str, torch.Tensor], *arrays: torch.Tensor) -> torch.Tensor:
            context, weights = torch.func.functional_call(layer, learned, arrays)
            return context.sum() + weights.square().sum()

        learned = dict(layer.named_parameters())
        got = torch.func.grad(scalar)(learned, *arrays)
        other = torch.autograd.grad(scalar(learned, *arrays), list(learned.values()))
        torch.testing.assert_close(list(got.values()), list(other))
        mapped = torch.func.vmap(layer)(*arrays)
        torch.testing.assert_close(mapped, layer(*arrays), rtol=0, atol=1e-14)
        copy = torch_impl.AlignmentAttention(case.contract, seed=1, dtype="float64")
        _ = copy.load_state_dict(layer.state_dict())
        torch.testing.assert_close(copy(*arrays, mask=mask), wanted, rtol=0, atol=0)

    def test_torch_runs_under_autocast(self) -> None:
        for contract in CONTRACTS.values():
            layer = contract.build("torch")
            arrays = [
                torch.from_numpy(numbers(i, B, S, width, dtype="float32")) for i, width in enumerate(contract.inputs.values())
            ]
            wanted = layer(*arrays)[0]
            with torch.autocast("cpu", torch.bfloat16):
                torch.testing.assert_close(layer(*arrays)[0].float(), wanted, rtol=0.05, atol=0.05)

    def test_jax_compiles_differentiates_and_maps(self) -> None:
        case = probe(CONTRACTS["chunked"], (B, T), (B, S))
        with jax.enable_x64(True):
            layer, arrays = built(JAX, case), [jnp.asarray(x) for x in case.arrays.values()]
            graph, state = nnx.split(layer)
            mask = spec.Lengths(kv=jnp.asarray([4, 2]))

            def run(state: Any, *arrays: jax.Array, **options: Any) -> Any:
                return nnx.merge(graph, state)(*arrays, **options)

            pairs = [
                (jax.jit(run)(state, *arrays, mask=mask), layer(*arrays, mask=mask)),
                (jax.vmap(run, (None, 0, 0, 0))(state, *arrays), layer(*arrays)),
            ]
        for got, wanted in pairs:
            for one, other in zip(got, wanted, strict=True):
                close(np.asarray(one), np.asarray(other), 1e-14)


class TestValues:
    @each_backend
    def test_the_article_s_trainable_attention(self, backend: Backend) -> None:
        layer = ARTICLE.build(backend.name)
        query, key = (backend.array(numbers(i, *shape, dtype="float32")) for i, shape in enumerate(((5, 256), (5, 10, 256))))
        context, weights = (backend.numpy(x) for x in layer(query, key, key))
        assert (context.shape, weights.shape) == ((5, 256), (5, 10))
        np.testing.assert_allclose(weights.sum(-1), np.ones(5), rtol=1e-6)
        assert (weights.std(-1) > 0.01).all()

    @each_backend
    def test_intermediates_have_no_axis_of_heads(self, backend: Backend) -> None:
        case = probe(CONTRACTS["additive"], (B,), (B, S), mask=spec.Lengths(kv=[4, 0]))
        context, weights, intermediates = call(backend, case, return_intermediates=spec.INTERMEDIATES)
        shapes = {"logsumexp": (B,), "context": (B, 13)}
        assert {name: x.shape for name, x in intermediates.items()} == {
            name: shapes.get(name, (B, S)) for name in spec.INTERMEDIATES
        }
        given = {**case.arrays, **case.weights}
        raw = np.array(
            [[score(case.contract, given, q, k) for k in keys] for q, keys in zip(given["query"], given["key"], strict=True)]
        )
        capped = 0.5 * np.tanh(raw / 0.5)
        # Row 1 sees nothing, so its padded states are zeros, which a bias still moves.
        for name, wanted in (("scaled", raw), ("capped", capped), ("scores", capped)):
            close(intermediates[name][0, :4], wanted[0, :4], WITHIN)
        np.testing.assert_array_equal(intermediates["weights"], weights)
        np.testing.assert_array_equal(intermediates["context"], context)
        close(intermediates["logsumexp"][:1], np.log(np.exp(capped[:1, :4]).sum(-1)), WITHIN)
        assert intermediates["logsumexp"][1] == -np.inf

    def test_options_left_out_follow_from_the_others(self) -> None:
        contract = spec.AlignmentAttention(7)
        assert contract.inputs == {"query": 7, "key": 7, "value": 7}
        assert contract.score == spec.Additive()
        assert contract.params["score_v"].shape == (7,)
        assert spec.AlignmentAttention(7, 11).inputs == {"query": 7, "key": 11, "value": 11}
        assert spec.AlignmentAttention(7, 11, attn_dim=3).params["v_proj.kernel"].shape == (11, 3)


def swapped(case: Probe, first: str, second: str) -> Probe:
    weights = {**case.weights, first: case.weights[second], second: case.weights[first]}
    return replace(case, weights=weights)


def without(case: Probe, name: str) -> Probe:
    return replace(case, weights={**case.weights, name: np.zeros_like(case.weights[name])})


def turned(case: Probe, **options: Any) -> Probe:
    contract: Any = case.contract
    return replace(case, contract=replace(contract, **options))


def keys_first(case: Probe) -> Probe:
    """Read the kernel's first rows as those of the keys."""
    kernel = case.weights["score_proj.kernel"]
    return replace(case, weights={**case.weights, "score_proj.kernel": np.concatenate([kernel[7:], kernel[:7]])})


SQUARE = spec.AlignmentAttention(7, 7, 13, score=spec.Additive(hidden=5, bias=True), softcap=0.5)
MUTANTS: list[tuple[str, spec.AlignmentAttention, Callable[[Probe], Probe]]] = [
    ("scaled for dot", CONTRACTS["dot"], lambda x: turned(x, score=spec.ScaledDot())),
    ("dot for scaled", CONTRACTS["scaled dot"], lambda x: turned(x, score=spec.Dot())),
    ("a factor that is off", CONTRACTS["scaled dot"], lambda x: turned(x, score=spec.ScaledDot(1.00003 * 17**-0.5))),
    ("value bias dropped", CONTRACTS["scaled dot"], lambda x: without(x, "v_proj.bias")),
    (
        "keys' and values' projections swapped",
        replace(SQUARE, value_dim=7, attn_dim=3),
        lambda x: swapped(x, "k_proj.kernel", "v_proj.kernel"),
    ),
    ("soft cap forgotten", SQUARE, lambda x: turned(x, softcap=None)),
    ("hidden bias dropped", SQUARE, lambda x: without(x, "score_q_proj.bias")),
    ("the two kernels swapped", SQUARE, lambda x: swapped(x, "score_q_proj.kernel", "score_k_proj.kernel")),
    ("keys before queries", CONTRACTS["concat"], keys_first),
    (
        "temperature unbounded",
        replace(CONTRACTS["cosine"], score=spec.Cosine(most=2.0)),
        lambda x: turned(x, score=spec.Cosine(most=None)),
    ),
    ("another seed", replace(SQUARE, dropout_rate=0.5), lambda x: replace(x, dropout_seed=8)),
    ("mask forgotten", replace(SQUARE, mask=spec.Causal(align="end")), lambda x: turned(x, mask=None)),
]


class TestMutants:
    @pytest.mark.parametrize(("contract", "plant"), [x[1:] for x in MUTANTS], ids=[x[0] for x in MUTANTS])
    def test_a_knob_turned_wrongly_is_outside_the_budget(
        self, contract: spec.AlignmentAttention, plant: Callable[[Probe], Probe]
    ) -> None:
        # A temperature begins at 10.
        right = probe(contract, (B, T), (B, S), dropout_seed=7 if contract.dropout_rate else None)
        weights = {n: (x + np.log(10.0) if n == "log_scale" else x).astype(np.float32) for n, x in right.weights.items()}
        arrays = {n: x.astype(np.float32) for n, x in right.arrays.items()}
        cotangents = {n: x.astype(np.float32) for n, x in right.cotangents.items()}
        right = replace(right, dtype="float32", weights=weights, arrays=arrays, cotangents=cotangents)
        expected = parity.expect(right, runs=4)
        for case, lives in ((right, True), (plant(right), False)):
            made = backends.find("torch").run(case, "auto")
            verdicts = [parity.judge(n, made.results[n], expected.value[n], expected.sigma[n]) for n in contract.outputs]
            assert all(verdict.agrees for verdict in verdicts) == lives, verdicts


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "error", "text"),
        [
            ({"query_dim": 0}, OptionError, "query_dim 0 must be a positive int"),
            ({"query_dim": None}, OptionError, "query_dim None must be a positive int"),
            ({"key_dim": 2.0}, OptionError, r"key_dim 2\.0 must be a positive int"),
            ({"attn_dim": True}, OptionError, "attn_dim True must be a positive int"),
            (
                {"score": "dot"},
                OptionError,
                r"score 'dot' must be Dot\(\.\.\.\), ScaledDot\(\.\.\.\), General\(\.\.\.\), Concat",
            ),
            ({"score": spec.Dot()}, OptionError, "key_dim 11 must be query_dim = 7 for Dot, or attn_dim be given"),
            ({"score": spec.Cosine()}, OptionError, "key_dim 11 must be query_dim = 7 for Cosine, or attn_dim be given"),
            ({"mask": spec.Lengths([3])}, MaskError, r"mask Lengths\(.*must be structure without arrays"),
            ({"mask": "causal"}, MaskError, "mask 'causal' must be structure without arrays"),
            ({"softcap": 0.0}, OptionError, r"softcap 0\.0 must be a positive finite number in float32"),
            ({"dropout_rate": 1.0}, OptionError, r"dropout_rate 1\.0 must be in \[0, 1\)"),
            ({"precision": "tf32"}, OptionError, "precision 'tf32' must be one of None, 'default'"),
        ],
        ids=str,
    )
    def test_a_contract_that_cannot_be(self, options: dict[str, Any], error: type[AttentionError], text: str) -> None:
        with pytest.raises(error, match=f"^{text}", check=lambda caught: type(caught) is error):
            _ = spec.AlignmentAttention(**{**WIDTHS, **options})

    @pytest.mark.parametrize(
        ("query", "key", "value", "text"),
        [
            ((B, T, 7), (B, S, 7), (B, S, 13), r"key \(2, 5, 7\) must be \(\*batch, S, M\) with M = 11"),
            ((7,), (11,), (13,), r"key \(11,\) must be \(\*batch, S, M\) with M = 11"),
            ((B, T, 7), (B, S, 11), None, r"value \(2, 5, 11\) must be \(\*batch, S, M\) with batch = \(2,\), S = 5, M = 13"),
            ((B, T, 7), (B, S, 11), (B, 4, 13), r"value \(2, 4, 13\) must be \(\*batch, S, M\) with batch = \(2,\), S = 5"),
            (
                (B, T, 6),
                (B, S, 11),
                (B, S, 13),
                r"query \(2, 3, 6\) must be \(\*batch, T, M\) or \(\*batch, M\) with batch = \(2,\)",
            ),
            ((3, 7), (B, S, 11), (B, S, 13), r"query \(3, 7\) must be .* with batch = \(2,\), M = 7 as key has"),
            ((B, 1, T, 7), (B, S, 11), (B, S, 13), r"query \(2, 1, 3, 7\) must be"),
            ((7,), (B, S, 11), (B, S, 13), r"query \(7,\) must be"),
        ],
        ids=str,
    )
    @each_backend
    def test_arrays_that_do_not_fit(self, backend: Backend, query: Any, key: Any, value: Any, text: str) -> None:
        layer = CONTRACTS["general"].build(backend.name)
        arrays = [backend.array(np.zeros(shape, np.float32)) for shape in (query, key, value) if shape]
        with pytest.raises(ShapeError, match=f"^{text}", check=lambda caught: type(caught) is ShapeError):
            _ = layer(*arrays)

    @each_backend
    def test_a_call_that_cannot_be(self, backend: Backend) -> None:
        layer = CONTRACTS["general"].build(backend.name)
        arrays = [backend.array(np.zeros((B, S, width), np.float32)) for width in (7, 11, 13)]
        for options, error, text in (
            ({"mask": spec.Lengths([3, 3, 3])}, MaskError, "Lengths kv"),
            ({"mask": "padding"}, MaskError, "mask str must be a Mask"),
            (
                {"return_intermediates": ("probabilities",)},
                OptionError,
                "return_intermediates 'probabilities' must be among scaled",
            ),
            ({"implementation": "magic"}, UnknownName, "implementation 'magic' must be 'auto' or one of"),
        ):
            with pytest.raises(error, match=text, check=lambda caught, error=error: type(caught) is error):
                _ = layer(*arrays, **options)
        half = backend.array(np.zeros((B, S, 7), np.float16))
        with pytest.raises(DTypeError, match="key float32 must be float16 as query is"):
            _ = layer(half, *arrays[1:])
        with pytest.raises(DTypeError, match=r"query builtins\.list must be a"):
            _ = layer([0.0], *arrays[1:])

    def test_a_precision_that_torch_is_not_set_to(self) -> None:
        layer = torch_impl.AlignmentAttention(replace(CONTRACTS["additive"], precision="highest"))
        arrays = [torch.zeros(B, S, width) for width in (7, 11, 13)]
        torch.set_float32_matmul_precision("medium")
        try:
            with pytest.raises(KernelRefused, match="precision 'highest' is above"):
                _ = layer(*arrays)
        finally:
            torch.set_float32_matmul_precision("highest")

    def test_jax_honours_the_precision(self) -> None:
        layer = jax_impl.AlignmentAttention(replace(CONTRACTS["concat"], precision="highest"))
        arrays = [jnp.zeros((B, S, width)) for width in (7, 11, 13)]
        program = str(jax.make_jaxpr(layer)(*arrays))
        assert program.count("dot_general") == program.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") > 0
