"""Rules: the mistake's name, where two programs part, and no name where none is certain."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from attention.parity.diagnosis.rules import Finding, Known, OperandPair, name_pair
from attention.parity.diagnosis.rules.activations import ACTIVATIONS, WRITTEN
from attention.parity.diagnosis.rules.operand_pair import in_one_layout

DRAWS = np.random.default_rng(7)
X = DRAWS.normal(size=(2, 5, 7))
W, ROW = DRAWS.normal(size=(2, 5, 7)), DRAWS.uniform(0.5, 1.5, 7)
SCORES = DRAWS.normal(size=(2, 3, 5, 11))


def pair(torch: np.ndarray, jax: np.ndarray, *known: np.ndarray | Known) -> OperandPair:
    """Return two arrays and what both programs had made alike before."""
    arrays = tuple(k if isinstance(k, Known) else Known(k, k, f"array {i}") for i, k in enumerate(known))
    sizes = frozenset(n for k in arrays for n in k.torch.shape)
    return OperandPair(torch, jax, arrays, sizes=sizes)


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def causal(high: int, low: int = -99) -> np.ndarray:
    apart = np.arange(11) - np.arange(5)[:, None]
    return np.where((apart <= high) & (apart >= low), SCORES, -np.inf)


MEAN, SPREAD = X.mean(-1, keepdims=True), X.var(-1, keepdims=True)
KEYS = DRAWS.normal(size=(2, 3, 5))

SQUARE = DRAWS.normal(size=(7, 7))

NAMED: dict[str, tuple[OperandPair, str]] = {
    "gelu": (
        pair(ACTIVATIONS["gelu by tanh"](X), ACTIVATIONS["gelu by erf"](X), X),
        "gelu by tanh on torch, gelu by erf on jax",
    ),
    "quick gelu": (pair(ACTIVATIONS["gelu by erf"](X), X / (1 + np.exp(-1.702 * X)), X), "quick gelu"),
    "hard sigmoid": (pair(np.clip(X / 6 + 0.5, 0, 1), 1 / (1 + np.exp(-X)), X), "hard sigmoid on torch, sigmoid on jax"),
    "elu and relu": (pair(ACTIVATIONS["elu + 1"](X), np.maximum(X, 0) + 1, X), "elu + 1 on torch, relu + 1 on jax"),
    "exp2": (pair(np.exp(X), np.exp2(X), X), "exp on torch, exp2 on jax"),
    "gates": (pair(X * ACTIVATIONS["silu"](W), W * ACTIVATIONS["silu"](X), X, W), "gate and what it gates exchanged"),
    "activation in another layout": (
        OperandPair(np.maximum(X, 0), ACTIVATIONS["elu"](X).transpose(1, 0, 2), (Known(X, X, "x"),)),
        "relu on torch, elu on jax",
    ),
    "operands": (pair(ACTIVATIONS["sigmoid"](X), ACTIVATIONS["sigmoid"](W), X, W), "sigmoid of another array"),
    "halves": (pair(X[..., :3], X[..., 0:6:2], X[..., :6]), "the first half on torch, every other one from the first on jax"),
    "counts": (pair(X[0] / [[7], [4], [2], [1], [3]], X[0] / 7, X[0]), "padding is counted"),
    "rotary": (
        pair(
            np.concatenate([-W[..., 3:6], W[..., :3]], -1),
            np.stack([-W[..., 1:6:2], W[..., 0:6:2]], -1).reshape(2, 5, 6),
            W[..., :6],
        ),
        "rotary pairs halves, (-x2, x1) on torch; neighbours, (-x2, x1) on jax",
    ),
    "soft cap forgotten": (pair(50 * np.tanh(9 * X / 50), 9 * X, 9 * X), "a soft cap of 50 on torch, no soft cap on jax"),
    "soft caps": (
        pair(50 * np.tanh(9 * X / 50), 30 * np.tanh(9 * X / 30), 9 * X),
        "a soft cap of 50 on torch, a soft cap of 30 on jax",
    ),
    "eps": (pair(SPREAD + 1e-5, SPREAD + 1e-6, SPREAD), "eps 1e-05 on torch, 1e-06 on jax"),
    "scale": (pair(X / math.sqrt(7), X, X), "scale 1 / sqrt(7) on torch, 1 on jax"),
    "scale of other layouts": (
        OperandPair(
            X.transpose(0, 2, 1) / 5, X / math.sqrt(5), (Known(X.transpose(0, 2, 1), X, "x"),), sizes=frozenset({2, 5, 7})
        ),
        "scale 1 / 5 on torch, 1 / sqrt(5) on jax",
    ),
    "softmax axis": (pair(softmax(SCORES, -1), softmax(SCORES, 0), SCORES), "softmax over another axis"),
    "sum": (pair(X.sum(1), X.mean(1), X), "sum over the axis of 5 on torch, mean over the axis of 5 on jax"),
    "reduced over another axis": (pair(X.sum((0, 2)), X.mean((0, 2)), X), "sum over axes of 2 and 7"),
    "deviation": (pair(X.std(-1, ddof=1), X.std(-1), X), "unbiased deviation on torch, deviation on jax"),
    "divided by a deviation": (
        pair((X - MEAN) / X.std(-1, keepdims=True, ddof=1), (X - MEAN) / np.sqrt(SPREAD), X - MEAN),
        "unbiased",
    ),
    "normalised along another axis": (
        pair(X / np.linalg.norm(X, axis=-1, keepdims=True), X / np.linalg.norm(X, axis=1, keepdims=True), X),
        "divided by its length along axis 2",
    ),
    "one plus the weight": (
        pair(X * (1 + ROW), X * ROW, X, Known(ROW, ROW, "norm.weight", given=True)),
        "scaled by 1 + w on torch, by w on jax",
    ),
    "bias": (pair(X + ROW, X, Known(ROW, ROW, "q_proj.bias", given=True)), "a bias is missing on jax"),
    "residual": (pair(W + X, W + MEAN * X, X, MEAN * X), "the residual is taken from another array"),
    "polarity": (pair(causal(0) > -9, causal(0) < -9), "mask of the other polarity"),
    "causal corner": (pair(causal(6), causal(0)), "causal corner end on torch, start on jax"),
    "window": (pair(causal(6, 4), causal(6, 3)), "window off by 1"),
    "window missing": (pair(causal(6, 4), causal(6)), "window missing on jax"),
    "itself": (
        pair(np.where(np.arange(11) <= 4, SCORES, -1e9), np.where(np.arange(11) < 4, SCORES, -1e9)),
        "prefix off by one: jax sees one key less",
    ),
    "tiled heads": (pair(np.repeat(KEYS, 4, 1), np.tile(KEYS, (1, 4, 1))), "heads repeated on torch, tiled on jax"),
    "heads merged otherwise": (
        pair(KEYS.transpose(0, 2, 1).reshape(2, 15), KEYS.reshape(2, 15)),
        "axes in another order",
    ),
    "rolled": (pair(X, np.roll(X, 2, 1)), "rolled by 2 along axis 1"),
    "reversed": (pair(X, X[:, ::-1]), "reversed along axis 1"),
    "mean subtracted along another axis": (
        pair(X - MEAN, X - X.mean(1, keepdims=True), X),
        "mean over the axis of 7 subtracted on torch, mean over the axis of 5 on jax",
    ),
    "causal mask missing": (pair(causal(0), SCORES, SCORES), "causal mask missing on jax"),
    "masked by another value": (
        pair(causal(0), np.where(np.isfinite(causal(0)), SCORES, -1.0), SCORES),
        "masked elements are -1 on jax, not masked out as on torch",
    ),
    "transposed kernel": (
        pair(X @ SQUARE.T, X @ SQUARE, X, Known(SQUARE, SQUARE, "w", given=True)),
        "a square kernel is transposed: torch computes x W^T, jax x W",
    ),
    "chunk": (pair(SCORES[..., 3:6], SCORES[..., :3], SCORES[..., :9]), "chunk 2 of 3 on torch, chunk 1 on jax"),
    "another gate": (pair(X * W, X * MEAN * W, X, W, MEAN * W), "another operand of a product"),
    "slope": (
        pair(np.where(X > 0, X, 0.1 * X), np.where(X > 0, X, 0.3 * X), X),
        "negative slope of a leaky relu 0.1 on torch, 0.3 on jax",
    ),
    "eps under a root": (pair((SPREAD + 1e-5) ** -0.5, (SPREAD + 1e-3) ** -0.5, SPREAD), "eps 1e-05 on torch, 0.001 on jax"),
    "eps of what is larger": (pair(X.var(-1) + 1e-5, X.var(-1) + 1e-6, X), "eps 1e-05 on torch, 1e-06 on jax"),
    "rounded": (pair(X, X.astype(np.float16).astype(np.float64)), "jax computes in float16"),
}


class TestLaws:
    @pytest.mark.parametrize("name", NAMED)
    def test_a_mistake_has_its_name(self, name: str) -> None:
        told = [finding.name for finding in name_pair(NAMED[name][0])]
        assert any(NAMED[name][1] in text for text in told), told

    @pytest.mark.parametrize("name", NAMED)
    def test_the_sides_exchanged_are_named_too(self, name: str) -> None:
        one = NAMED[name][0]
        other = OperandPair(
            one.jax, one.torch, tuple(Known(k.jax, k.torch, k.label, k.given) for k in one.known), sizes=one.sizes
        )
        assert len(name_pair(other)) == len(name_pair(one))

    @pytest.mark.parametrize("name", NAMED)
    def test_what_is_no_known_mistake_is_not_named(self, name: str) -> None:
        one = NAMED[name][0]
        if one.jax.dtype == bool:
            pytest.skip("a mask has no thousandth")
        draws = np.random.default_rng(1)
        wrong = np.where(np.isfinite(one.jax), one.jax * (1 + 1e-3 * draws.normal(size=one.jax.shape)), one.jax)
        told = name_pair(OperandPair(one.torch, wrong, one.known, sizes=one.sizes))
        assert not [finding for finding in told if finding.sure and "mask" not in finding.name], told

    def test_equal_arrays_have_no_mistake(self) -> None:
        for one, _ in NAMED.values():
            same = OperandPair(one.torch, one.torch.copy(), one.known, sizes=one.sizes)
            assert name_pair(same) == ()


class TestMends:
    """What is printed as code runs, and makes of one side's argument what the other side has."""

    @pytest.mark.parametrize("c", [24**-0.5, 0.5, 3.0, -1.5, 6**0.5, 1 / 7])
    def test_a_scale_is_mended_on_either_side(self, c: float) -> None:
        [found] = name_pair(pair(X, c * X, X))
        assert np.allclose(eval(found.torch, {"x": X, "math": math}), c * X, rtol=1e-9)  # noqa: S307 - it is what is tested
        assert np.allclose(eval(found.jax, {"x": c * X, "math": math}), X, rtol=1e-9)  # noqa: S307

    @pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "exp2"])
    def test_an_activation_is_mended_on_either_side(self, name: str) -> None:
        torch_code, jax_code = WRITTEN[name]
        first = eval(torch_code, {"x": torch.tensor(X), "torch": torch, "F": torch.nn.functional})  # noqa: S307
        assert np.allclose(first.numpy(), ACTIVATIONS[name](X), rtol=1e-9, atol=1e-12)
        second = eval(jax_code, {"x": jnp.asarray(X, jnp.float32), "jax": jax, "jnp": jnp})  # noqa: S307
        assert np.allclose(second, ACTIVATIONS[name](X), rtol=1e-4, atol=1e-6)

    def test_a_soft_cap_is_mended_on_either_side(self) -> None:
        x = 9 * X
        [found] = name_pair(pair(50 * np.tanh(x / 50), x, x))
        assert found.torch == "x"
        assert np.allclose(eval(found.jax, {"x": x, "jnp": np}), 50 * np.tanh(x / 50))  # noqa: S307


class TestEvidence:
    """One magnitude is met by too many functions."""

    def test_one_magnitude_is_no_cap(self) -> None:
        ones = np.sign(X)
        [found] = name_pair(pair(0.2 * ones, 0.5 * ones, ones))
        assert found.name == "scale 1 / 5 on torch, 1 / 2 on jax"
        assert not found.sure

    def test_a_table_that_is_repeated_is_in_no_order(self) -> None:
        # Angles with both halves on one side, and for two rows of a batch on the other.
        angles = np.arange(9.0)[:, None] * np.array([1.0, 0.3, 0.07, 0.01])
        halves, batch = np.concatenate([angles, angles], -1)[None], np.stack([angles, angles])[:, :, None]
        assert name_pair(pair(halves, batch)) == ()
        assert name_pair(pair(np.concatenate([angles, angles + 50], -1)[None], np.stack([angles, angles + 50])[:, :, None]))

    def test_another_eps_is_not_read_off_an_array_that_holds_one(self) -> None:
        # Within a coarse tolerance x and x + 1e-6 are one array; solved from that pair, torch would have no eps.
        known = Known(SPREAD + 1e-6, SPREAD, "a variance")
        assert name_pair(OperandPair(SPREAD + 1e-6, SPREAD + 1e-5, (known,), limit=1e-5)) == ()

    def test_arrays_in_another_layout_are_brought_into_one(self) -> None:
        images, order = DRAWS.normal(size=(2, 3, 5, 7)), (0, 2, 3, 1)
        known = Known(images, images.transpose(order), "an image")
        one = OperandPair(images, np.roll(images, 2, 3).transpose(order), (known,))
        found = in_one_layout(one)
        assert found is not None
        assert np.array_equal(found.jax, np.roll(images, 2, 3))
        assert name_pair(found)[0].name == "rolled by 2 along axis 3"


class TestValues:
    def test_a_finding_says_what_to_write_on_either_side(self) -> None:
        [found] = name_pair(NAMED["gelu"][0])
        assert found == Finding(
            "another activation: gelu by tanh on torch, gelu by erf on jax",
            "both rebuilt from x = array 0",
            "F.gelu(x)",
            "jax.nn.gelu(x)",
        )
        assert str(found).splitlines()[2:] == [
            "    either in torch: F.gelu(x)",
            "    or in jax: jax.nn.gelu(x)",
        ]

    @pytest.mark.parametrize("eps", [1e-3, 1e-5, 1e-8, 1e-12])
    def test_an_eps_is_solved_for(self, eps: float) -> None:
        [found] = name_pair(pair(SPREAD + eps, SPREAD, SPREAD))
        assert found.name == f"eps {eps:.3g} on torch, 0 on jax"
