"""The contract of multi-head attention: options, shapes, and the formula that both backends are compared with.

output = sum_h softmax(rotate(x W_q + b_q)[h] . rotate(x W_k + b_k)[h // (H // K)] ...) (x W_v + b_v) W_o[h] + b_o
"""

from __future__ import annotations

import math
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from attention import spec
from attention.spec.axes import Sizes
from attention.spec.cases import CASES
from attention.spec.errors import AttentionError, MaskError, OptionError, PositionError, ShapeError, UnknownName
from attention.spec.kernels.nan_safety import zero_masked_inputs_dense
from attention.spec.layers.multi_head.formula import formula as oracle
from attention.spec.layers.multi_head.formula import resolve
from attention.spec.masks.algebra import evaluate
from attention.spec.random import keep

DIGITS = 1e-14
"""What is promised of float64: the error of numbers near 1."""
# Every size is another, so that none can stand in for its neighbour.
FULL: dict[str, Any] = {
    "embed_dim": 10,
    "num_heads": 6,
    "num_kv_heads": 2,
    "head_dim": 4,
    "value_dim": 5,
    "kdim": 7,
    "vdim": 9,
    "mask": spec.Causal(align="end") | spec.Prefix(1),
    "positions": spec.Rotary(base=100.0, style="interleaved", rotary_dim=2),
    "score": spec.ScaledDot(0.4),
    "softcap": 3.0,
    "dropout_rate": 0.25,
}
T, S = 3, 5


def numbers(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def weights(contract: spec.MultiHeadAttention) -> dict[str, np.ndarray]:
    """Biases too are drawn: a zero would hide a forgotten one."""
    return {name: numbers(i, *param.shape) / 2 for i, (name, param) in enumerate(contract.params.items())}


class TestLaws:
    @pytest.mark.parametrize("name", CASES)
    def test_equal_contracts_are_one_key_and_a_copy_is_equal(self, name: str) -> None:
        contract: Any = CASES[name].contract
        for copy in (replace(contract), pickle.loads(pickle.dumps(contract))):  # noqa: S301 - our own bytes
            assert copy == contract
            assert {copy, contract} == {contract}

    @pytest.mark.parametrize("field", [*FULL, "qkv_bias", "out_bias", "precision"])
    def test_every_field_makes_another_contract(self, field: str) -> None:
        full = spec.MultiHeadAttention(**FULL)
        other: dict[str, Any] = {"mask": spec.Causal(), "positions": None, "score": spec.Dot(), "softcap": None}
        other |= {"embed_dim": 11, "num_heads": 8, "num_kv_heads": 3, "head_dim": 6, "value_dim": 6, "kdim": 8, "vdim": 8}
        other |= {"dropout_rate": 0.3, "qkv_bias": False, "out_bias": False, "precision": "high"}
        changed = replace(full, **{field: other[field]})
        assert changed != full
        assert len({changed, full}) == 2

    def test_masks_of_structure_are_equal_by_what_they_say(self) -> None:
        one, same, other = (
            spec.MultiHeadAttention(8, 2, mask=spec.Causal() & (spec.Window(before=n, after=0) | ~spec.Prefix(2)))
            for n in (1, 1, 2)
        )
        assert one == same
        assert hash(one) == hash(same)
        assert one != other

    def test_options_left_out_follow_from_the_others(self) -> None:
        short = spec.MultiHeadAttention(12, 3)
        full = spec.MultiHeadAttention(12, 3, 3, 4, 4, 12, 12)
        assert (short.kv_heads, short.width, short.value_width) == (3, 4, 4)
        assert short.inputs == {"query": 12, "key": 12, "value": 12}
        assert short.params == full.params
        assert spec.MultiHeadAttention(12, 3, kdim=5).inputs == {"query": 12, "key": 5, "value": 5}
        assert spec.MultiHeadAttention(12, 3, vdim=5).inputs == {"query": 12, "key": 12, "value": 5}
        assert spec.MultiHeadAttention(10, 3, head_dim=4).width == 4

    def test_biases_are_in_the_tree_where_they_are_asked_for(self) -> None:
        for qkv in (True, False):
            for out in (True, False):
                names = spec.MultiHeadAttention(8, 2, qkv_bias=qkv, out_bias=out).params
                assert [name for name in names if name.endswith("kernel")] == [
                    f"{p}_proj.kernel" for p in ("q", "k", "v", "out")
                ]
                assert [f"{p}_proj.bias" in names for p in ("q", "k", "v", "out")] == [qkv, qkv, qkv, out]

    def test_a_parameter_says_which_axes_it_has(self) -> None:
        letters = {"H": 6, "K": 2, "D": 4, "E": 5}
        for name, param in spec.MultiHeadAttention(**FULL).params.items():
            models = {"q_proj": 10, "k_proj": 7, "v_proj": 9, "out_proj": 10}
            assert param.shape == tuple((letters | {"M": models[name.split(".")[0]]})[axis] for axis in param.axes)

    def test_sizes_are_read_off_the_inputs(self) -> None:
        contract = spec.MultiHeadAttention(**FULL)
        for batch in ((), (2,), (2, 1, 3)):
            got = contract.sizes(np.zeros((*batch, T, 10)), np.zeros((*batch, S, 7)), np.zeros((*batch, S, 9)))
            assert got == Sizes(batch, T, S, 6, 2, 4, 5)


def by_loops(c: spec.MultiHeadAttention, w: dict[str, np.ndarray], x: Any, mask: Any, at: Any, seed: int) -> np.ndarray:
    """The layer head by head with einsum and complex rotations, sharing with the oracle only masks and random bits."""

    def project(name: str, given: np.ndarray, head: int) -> np.ndarray:
        projected = np.einsum("...nm,md->...nd", given, w[f"{name}.kernel"][:, head])
        return projected + w.get(f"{name}.bias", np.zeros((9, 1)))[head]

    def rotate(given: np.ndarray, positions: np.ndarray) -> np.ndarray:
        if not isinstance(c.positions, spec.Rotary):
            return given
        rotated = c.positions.rotary_dim or c.width
        half = rotated // 2
        pairs = [(i, i + half) if c.positions.style == "half" else (2 * i, 2 * i + 1) for i in range(half)]
        turned = given.copy()
        for i, (a, b) in enumerate(pairs):
            angle = positions * c.positions.base ** (-2 * i / rotated)
            z = (given[..., a] + 1j * given[..., b]) * np.exp(1j * angle)
            turned[..., a], turned[..., b] = z.real, z.imag
        return turned

    query, key, value = x["query"], x.get("key", x["query"]), x.get("value", x.get("key", x["query"]))
    of = Sizes(query.shape[:-2], query.shape[-2], key.shape[-2], c.num_heads, c.kv_heads, c.width, c.value_width)
    allowed = np.broadcast_to(True if mask is None else np.asarray(evaluate(mask, of)), of.scores)
    kept = keep(seed, c.dropout_rate, of.scores)
    output = np.zeros((*of.batch, of.T, c.embed_dim)) + w.get("out_proj.bias", 0.0)
    for h in range(of.H):
        shared = h // (of.H // of.K)
        q, k = rotate(project("q_proj", query, h), at[0]), rotate(project("k_proj", key, shared), at[1])
        scale = 1.0 if isinstance(c.score, spec.Dot) else c.score.factor(of.D)
        scores = np.einsum("...td,...sd->...ts", q, k) * scale
        if c.softcap is not None:
            scores = c.softcap * np.tanh(scores / c.softcap)
        scores = scores + np.broadcast_to(x.get("bias", 0.0), of.scores)[..., h, :, :]
        exps = np.where(allowed[..., h, :, :], np.exp(scores), 0)
        total = exps.sum(-1, keepdims=True)
        probabilities = exps / np.where(total == 0, 1, total) * kept[..., h, :, :] / (1 - c.dropout_rate)
        context = np.einsum("...ts,...se->...te", probabilities, project("v_proj", value, shared))
        output = output + np.einsum("...te,em->...tm", context, w["out_proj.kernel"][h])
    return output


def is_plain(name: str) -> bool:
    """Whether a case has none of the options that `by_loops` does not know."""
    c = CASES[name].contract
    if not isinstance(c, spec.MultiHeadAttention) or not isinstance(c.positions, (spec.Rotary, type(None))):
        return False
    new = {name: getattr(c, name) for name in ("qk_norm", "sinks", "gate", "add_bias_kv", "add_zero_attn", "out_dim")}
    return not any(new.values()) and c.softmax == "standard" and not isinstance(c.score, spec.Cosine) and not scaled(c)


def plain(name: str) -> spec.MultiHeadAttention:
    contract = CASES[name].contract
    assert isinstance(contract, spec.MultiHeadAttention)
    return contract


def scaled(c: spec.MultiHeadAttention) -> bool:
    return isinstance(c.positions, spec.Rotary) and c.positions.scaling is not None


class TestOracle:
    def close(self, got: np.ndarray, wanted: np.ndarray) -> None:
        np.testing.assert_allclose(got, wanted, rtol=0, atol=DIGITS * max(1, np.abs(wanted).max()))

    @pytest.mark.parametrize("name", [name for name in CASES if is_plain(name)])
    def test_every_case_is_the_layer_head_by_head(self, name: str) -> None:
        contract = plain(name)
        inputs = {n: numbers(i, 2, T, width) for i, (n, width) in enumerate(contract.inputs.items())}
        sizes, w = contract.sizes(**inputs), weights(contract)
        resolved = resolve(contract, sizes, dropout_seed=3)
        wanted = by_loops(contract, w, inputs, contract.mask, (np.arange(T), np.arange(T)), 3)
        self.close(oracle(contract, np, w, inputs, resolved)["output"], wanted)

    @pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
    def test_cross_attention_with_everything(self, batch: tuple[int, ...]) -> None:
        contract = spec.MultiHeadAttention(**FULL)
        shapes = {"query": (*batch, T, 10), "key": (*batch, S, 7), "value": (*batch, S, 9), "bias": (6, T, S)}
        inputs = {name: numbers(i, *shape) for i, (name, shape) in enumerate(shapes.items())}
        sizes, w = contract.sizes(*(inputs[n] for n in ("query", "key", "value"))), weights(contract)
        mask = spec.Lengths(np.full(batch, S - 2))
        at = (np.array([4, 0, 9]), np.arange(S)[::-1] * 3)
        resolved = resolve(contract, sizes, mask, *at, dropout_seed=8)
        wanted = by_loops(contract, w, inputs, FULL["mask"] & mask, at, 8)
        self.close(oracle(contract, np, w, inputs, resolved)["output"], wanted)

    def test_an_empty_row_is_the_output_bias_and_unread_rows_may_hold_anything(self) -> None:
        contract = spec.MultiHeadAttention(8, 2)
        sizes, w, x = Sizes((1,), T, T, 2, 2, 4, 4), weights(contract), numbers(0, 1, T, 8)
        resolved = resolve(contract, sizes, spec.Lengths(kv=[2], q=[2]))
        clean = oracle(contract, np, w, {"query": x}, resolved)["output"]
        np.testing.assert_array_equal(clean[0, 2], w["out_proj.bias"])
        x[0, 2] = np.nan
        np.testing.assert_array_equal(oracle(contract, np, w, {"query": x}, resolved)["output"], clean)

    def test_value_is_key_and_key_is_query_where_they_are_not_given(self) -> None:
        contract = spec.MultiHeadAttention(8, 2)
        query, key, w = numbers(0, T, 8), numbers(1, S, 8), weights(contract)
        for inputs in ({"query": query}, {"query": query, "key": key}):
            last = inputs.get("key", query)
            resolved = resolve(contract, contract.sizes(query, last, last))
            wanted = oracle(contract, np, w, {"query": query, "key": last, "value": last}, resolved)["output"]
            np.testing.assert_array_equal(oracle(contract, np, w, inputs, resolved)["output"], wanted)

    def test_inputs_that_nothing_reads_are_zeros(self) -> None:
        # Of two heads, one reads key 0 and the other key 1; query 2 sees no key in either.
        allowed = np.zeros((2, 3, 4), bool)
        allowed[0, 0, 0] = allowed[1, 1, 1] = True
        inputs = [np.full((n, 5), np.nan) for n in (3, 4, 4)]
        zeros = [(x == 0).all(-1).tolist() for x in zero_masked_inputs_dense(np, allowed, *inputs)]
        assert zeros == [[False, False, True], [False, False, True, True], [False, False, True, True]]
        assert zero_masked_inputs_dense(np, None, *inputs)[0] is inputs[0]

    def test_no_seed_drops_nothing(self) -> None:
        contract = spec.MultiHeadAttention(8, 2, dropout_rate=0.5)
        sizes = Sizes((2,), T, T, 2, 2, 4, 4)
        assert resolve(contract, sizes)["keep"] is None
        np.testing.assert_array_equal(resolve(contract, sizes, dropout_seed=4)["keep"], keep(4, 0.5, sizes.scores))
        assert resolve(replace(contract, dropout_rate=0.0), sizes, dropout_seed=4)["keep"] is None

    def test_what_does_not_fit_is_refused(self) -> None:
        rotary, sizes = spec.MultiHeadAttention(8, 2, positions=spec.Rotary()), Sizes((2,), T, S, 2, 2, 4, 4)
        with pytest.raises(PositionError, match="query_positions None must be given: T = 3 queries and S = 5"):
            _ = resolve(rotary, sizes)
        with pytest.raises(MaskError, match="Causal with T = 3 queries and S = 5 keys must say"):
            _ = resolve(spec.MultiHeadAttention(8, 2, mask=spec.Causal()), sizes)
        with pytest.raises(MaskError, match=r"Lengths kv \[6, 1\] must be in 0\.\.S = 5"):
            _ = resolve(spec.MultiHeadAttention(8, 2), sizes, spec.Lengths([6, 1]))


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "error", "text"),
        [
            ({"num_kv_heads": 3}, OptionError, "num_kv_heads 3 must divide num_heads = 4"),
            ({"num_kv_heads": 8}, OptionError, "num_kv_heads 8 must divide num_heads = 4"),
            ({"num_kv_heads": 0}, OptionError, "num_kv_heads 0 must be a positive int"),
            ({"embed_dim": 10}, OptionError, "num_heads 4 must divide embed_dim = 10, or head_dim be given"),
            ({"embed_dim": -8}, OptionError, "embed_dim -8 must be a positive int"),
            ({"embed_dim": None}, OptionError, "embed_dim None must be a positive int"),
            ({"embed_dim": 8.0}, OptionError, r"embed_dim 8\.0 must be a positive int"),
            ({"num_heads": True}, OptionError, "num_heads True must be a positive int"),
            ({"head_dim": 0}, OptionError, "head_dim 0 must be a positive int"),
            ({"value_dim": "wide"}, OptionError, "value_dim 'wide' must be a positive int"),
            ({"kdim": 0}, OptionError, "kdim 0 must be a positive int"),
            ({"vdim": 0}, OptionError, "vdim 0 must be a positive int"),
            ({"head_dim": 3, "positions": spec.Rotary()}, OptionError, "Rotary rotary_dim 3 must be even and at most"),
            (
                {"positions": spec.Rotary(rotary_dim=4)},
                OptionError,
                "Rotary rotary_dim 4 must be even and at most head_dim = 2",
            ),
            ({"positions": "rotary"}, OptionError, r"positions 'rotary' must be Rotary\(\.\.\.\), .*, None"),
            ({"score": 0.5}, OptionError, r"score 0\.5 must be Dot\(\.\.\.\), ScaledDot\(\.\.\.\), Cosine\(\.\.\.\)"),
            ({"mask": spec.Lengths([3])}, MaskError, r"mask Lengths\(.*must be structure without arrays: pass lengths"),
            ({"mask": spec.Causal() & ~spec.DenseMask([[True]])}, MaskError, r"mask And\(.*must be structure without arrays"),
            ({"mask": "causal"}, MaskError, "mask 'causal' must be structure without arrays"),
            ({"softcap": -30.0}, OptionError, r"softcap -30\.0 must be a positive finite number in float32, or None"),
            ({"softcap": math.nan}, OptionError, "softcap nan must be a positive finite number in float32"),
            ({"softcap": "high"}, OptionError, "softcap 'high' must be a positive finite number in float32"),
            ({"dropout_rate": 1.0}, OptionError, r"dropout_rate 1\.0 must be in \[0, 1\)"),
            ({"dropout_rate": -0.1}, OptionError, r"dropout_rate -0\.1 must be in \[0, 1\)"),
            ({"dropout_rate": "low"}, OptionError, r"dropout_rate 'low' must be in \[0, 1\)"),
            ({"precision": "tf32"}, OptionError, "precision 'tf32' must be one of None, 'default', 'high', 'highest'"),
        ],
        ids=str,
    )
    def test_a_contract_that_cannot_be(self, options: dict[str, Any], error: type[AttentionError], text: str) -> None:
        with pytest.raises(error, match=f"^{text}", check=lambda caught: type(caught) is error):
            _ = spec.MultiHeadAttention(**{"embed_dim": 8, "num_heads": 4, **options})

    @pytest.mark.parametrize(
        ("query", "key", "value", "text"),
        [
            ((10,), (5, 7), (5, 9), r"query \(10,\) must be \(\*batch, T, M\) with M = 10"),
            ((3, 7), (5, 7), (5, 9), r"query \(3, 7\) must be \(\*batch, T, M\) with M = 10"),
            ((3, 10), (5, 10), (5, 9), r"key \(5, 10\) must be \(\*batch, S, M\) with M = 7"),
            ((3, 10), (5, 7), (5, 7), r"value \(5, 7\) must be \(\*batch, S, M\) with M = 9"),
            ((3, 10), (5, 7), (4, 9), r"value \(4, 9\) must be \(\*batch, S, M\) with batch = \(\), S = 5"),
            ((2, 3, 10), (5, 7), (5, 9), r"key \(5, 7\) must be \(\*batch, S, M\) with batch = \(2,\), S = 5"),
            ((2, 3, 10), (1, 5, 7), (1, 5, 9), r"key \(1, 5, 7\) must be \(\*batch, S, M\) with batch = \(2,\), S = 5"),
        ],
        ids=str,
    )
    def test_inputs_that_do_not_fit(self, query: Any, key: Any, value: Any, text: str) -> None:
        with pytest.raises(ShapeError, match=text, check=lambda caught: type(caught) is ShapeError):
            _ = spec.MultiHeadAttention(**FULL).sizes(*(np.zeros(shape) for shape in (query, key, value)))

    def test_an_unknown_backend(self) -> None:
        text = "backend 'tensorflow' must be one of torch, jax"
        with pytest.raises(UnknownName, match=text, check=lambda caught: type(caught) is UnknownName):
            _ = spec.MultiHeadAttention(8, 2).build("tensorflow")
