"""Kinds of mistakes that ports make, each as two arrays that part: that it has its name, and that its neighbours have not."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from attention.parity.diagnosis.rules import OperandPair, name_pair
from attention.parity.diagnosis.rules.activations import ACTIVATIONS
from attention.parity.diagnosis.rules.differing_operands import differing_operands
from parity_tests.support.rule_pairs import (
    FUSED,
    GATE,
    HALF,
    KEEP,
    KERNEL,
    LEAKY,
    ROW,
    SCORES,
    SQUARE,
    STEPS,
    TABLE,
    W,
    X,
    convolution,
    convolved,
    event,
    frequencies,
    joined,
    known,
    norm,
    padded,
    pair,
    pooled,
    resized,
    rms,
    step,
)

MISH = np.tanh(np.logaddexp(X, 0.0))
NAMED: dict[str, tuple[OperandPair, str]] = {
    "an activation too much": (pair(np.maximum(X, 0), X, X), "relu is missing on jax, or too much on torch"),
    "no softplus": (pair(X, ACTIVATIONS["softplus"](X), X), "softplus is missing on torch"),
    "no tanh": (pair(X, np.tanh(X), X), "tanh is missing on torch"),
    "no exponential": (pair(X, np.exp(X), X), "exp is missing on torch"),
    "hard swish": (
        pair(ACTIVATIONS["hard swish"](X), ACTIVATIONS["silu"](X), X),
        "another activation: hard swish on torch, silu on jax",
    ),
    "selu": (pair(ACTIVATIONS["selu"](X), ACTIVATIONS["elu"](X), X), "another activation: selu on torch, elu on jax"),
    "inside an activation": (
        pair(MISH, ACTIVATIONS["sigmoid"](X), X, region=((event("torch", 1, "tanh", MISH, name="mish"),), ())),
        "another activation: mish on torch, silu on jax",
    ),
    "alpha of an elu": (
        pair(np.where(X > 0, X, 0.5 * np.expm1(X)), ACTIVATIONS["elu"](X), X),
        "alpha of an elu 0.5 on torch, 1 on jax",
    ),
    "a factor": (pair(X * ROW, X, X, known(ROW, "gamma", given=True)), "a factor is missing on jax, or too much on torch"),
    "a factor along other axes": (
        pair(X * GATE[:, :, :1], X, X, known(GATE[:, :, :1], "step")),
        "a factor is missing on jax, or too much on torch",
    ),
    "half of an addend": (pair(X + 0.5 * W, X + W, X, W), "an addend has the weight 1 / 2 on torch, 1 on jax"),
    "weights of an average": (pair(0.9 * X + 0.1 * W, 0.1 * X + 0.9 * W, X, W), "weights exchanged: 0.9 and 0.1"),
    "a difference": (pair(X - W, W - X, X, W), "the other sign"),
    "an addend subtracted": (pair(X + W, X - W, X, W), "another sign of an addend"),
    "a gate": (pair(GATE * X + (1 - GATE) * W, (1 - GATE) * X + GATE * W, X, W), "weighed the other way round"),
    "an element for the mean": (
        pair(X[:, 0], X.mean(1), X),
        "other elements are taken along an axis of 5: element 0 on torch, the mean on jax",
    ),
    "the last element": (
        pair(np.stack([X[0, 1], X[1, 3]]), X[:, -1], X),
        "elements [1, 3] on torch, element 4 on jax",
    ),
    "positions": (pair(TABLE[:6], TABLE[1:7], known(TABLE, "wpe", given=True)), "rows of a table are off by 1"),
    "joined otherwise": (joined((X, W), (W, X)), "arrays are concatenated in another order"),
    "the end of a grid": (pair(STEPS / 8, STEPS / 7), "a grid of 8 steps reaches its end on jax"),
    "the centres of a grid": (pair((STEPS + 0.5) / 8, STEPS / 8), "positions begin half a step later on torch"),
    "no norm": (pair(norm(X), X, X), "layer norm is missing on jax, or too much on torch"),
    "no RMS norm": (pair(X, rms(X), X), "RMS norm is missing on torch"),
    "the mean subtracted": (pair(norm(X), rms(X), X), "layer norm on torch, RMS norm on jax"),
    "not renormalised": (
        pair(GATE / GATE.sum(-1, keepdims=True), GATE, GATE),
        "division by the sum along the last axis is missing on jax",
    ),
    "no softmax": (
        pair(X, np.exp(X) / np.exp(X).sum(-1, keepdims=True), X),
        "softmax along the last axis is missing on torch",
    ),
    "eps after the root": (
        pair(np.sqrt(X.var(-1) + 1e-3), np.sqrt(X.var(-1)) + 1e-3, X.var(-1)),
        "eps is added before the root on torch, after it on jax",
    ),
    "a bias before a sigmoid": (
        pair(ACTIVATIONS["sigmoid"](X), ACTIVATIONS["sigmoid"](X + 1), X),
        "0 added on torch, 1 added on jax before a sigmoid",
    ),
    "a negative mean over more": (
        pair(-X.mean((0, 1)), -X.sum((0, 1)) / 4, X),
        "1 / 4 of the sum over axes of 2 and 5 on jax",
    ),
    "a mean over more": (pair(X.sum((0, 1)) / 10, X.sum((0, 1)) / 4, X), "1 / 4 of the sum over axes of 2 and 5 on jax"),
    "frequencies in fewer steps": (
        frequencies(10000.0 ** (-STEPS / 8), 10000.0 ** (-STEPS / 7)),
        "frequencies are spread over 8 steps on torch, over 7 on jax",
    ),
    "base of frequencies": (
        frequencies(10000.0 ** (-STEPS / 8), 500000.0 ** (-STEPS / 8)),
        "rotary base 10000 on torch, 500000 on jax",
    ),
    "padded at the end": (
        convolution(convolved(padded(0, 2))),
        "padding of 1 on either side on torch, padding of 0 before and 2",
    ),
    "padded around": (convolution(convolved(padded(1, 1, "wrap"))), "filled with what is at the other edge on jax"),
    "padded in another layout": (
        convolution(convolved(padded(2, 0)).transpose(0, 2, 3, 1)),
        "padding of 2 before and 0 after on jax",
    ),
    "the kernel flipped": (
        convolution(np.einsum("nchwij,ocij->nohw", sliding_window_view(padded(1, 1), (3, 3), (2, 3)), KERNEL[..., ::-1, ::-1])),
        "its kernel flipped on jax",
    ),
    "not exponentiated": (
        pair(1.5 * X, math.exp(1.5) * X, X, region=((event("torch", 0, "leaf", np.array(1.5)),), ())),
        "scale 1.5 on torch, 4.48169 on jax",
    ),
    "another input": (pair(X, W, X, W), "another array is read"),
    "another operand of a product of matrices": (
        step(lambda x: x @ SQUARE, (X, W), (known(SQUARE, "w", given=True),)),
        "another array is read",
    ),
    "behind an addend": (
        step(lambda x: x + ROW[0] * GATE, (np.maximum(X, 0), ACTIVATIONS["gelu by erf"](X)), (known(ROW[0] * GATE), X)),
        "another activation: relu on torch, gelu by erf on jax",
    ),
    "rows for columns": (
        pair(SCORES + ROW[:5, None], SCORES + ROW[:5], SCORES, ROW[:5]),
        "an operand runs along another axis of the same size",
    ),
    "transposed scores": (pair(SCORES, SCORES.swapaxes(1, 2)), "axes 1 and 2, both of 5, are exchanged"),
    "a fused projection": (
        pair(FUSED[..., :4], FUSED.reshape(2, 5, 2, 3, 2)[..., 0, :].reshape(2, 5, 4), FUSED),
        "chunk 1 of 3 on torch, chunk 1 within each of 2 on jax",
    ),
    "a mean with its padding": (
        pair((X * KEEP[..., None]).sum(1) / KEEP.sum(1)[:, None], X.mean(1), X, KEEP),
        "padding is counted on jax: the mean of what a mask keeps on torch",
    ),
    "a maximum with its padding": (
        pair(np.where(KEEP[..., None] > 0, X, -np.inf).max(1), X.max(1), X, KEEP),
        "padding is counted on jax: the maximum",
    ),
    "a mask of zeros": (pair(X * KEEP[..., None], X, X, KEEP), "a mask is missing on jax, or too much on torch"),
    "a mask that is added": (pair(SCORES - 100.0 * (SCORES > 0.5), SCORES, SCORES), "a mask is missing on jax"),
    "a product that is added": (pair(X + W * ROW, X, W, known(ROW, "skip", given=True)), "an addend is missing on jax"),
    "a sum without the element": (
        pair(np.cumsum(X, 1), np.cumsum(X, 1) - X, X),
        "cumulative sum with the element itself on torch, sum without the element itself on jax",
    ),
    "a product from the other end": (
        pair(np.cumprod(1 + GATE, 1), np.flip(np.cumprod(np.flip(1 + GATE, 1), 1), 1), 1 + GATE),
        "product with the element itself, from the end on jax",
    ),
    "conjugated": (pair(X + 1j * W, X - 1j * W), "complex numbers are conjugated"),
    "by nearest elements": (resized("nearest"), "resampled linearly, edges aligned on torch, by nearest elements on jax"),
    "corners aligned": (resized("bilinear", align_corners=True), "on torch, linearly, corners aligned on jax"),
    "a pool padded at its end": (pooled((0, 2)), "padded by 1 before and 1 after on torch, the maximum, padded by 0 before"),
    "a pool that takes means": (pooled((1, 1), np.mean, 0.0), "pooling: the maximum, padded by 1 before and 1 after on torch"),
    "inside an elu": (
        pair(HALF, np.expm1(np.minimum(X, 0)), X, region=((event("torch", 1, "mul", HALF, name="elu"),), ())),
        "alpha of an elu 0.5 on torch, 1 on jax",
    ),
    "other numbers of a table": (pair(ROW[[1, 2, 6]], ROW[[0, 0, 3]], known(ROW, "t", given=True)), "other rows of a table"),
}

NOT_NAMED: dict[str, tuple[OperandPair, str]] = {
    "a cap of one is a tanh": (pair(X, np.tanh(X), X), "cap"),
    "a leaky slope of nothing is a ReLU": (pair(LEAKY[0.0], LEAKY[1.0], X), "slope"),
    "a scale that nobody writes": (pair(0.7310531 * X, 1.0 * X, X), ""),
    "a cap that nobody writes": (pair(0.500337 * np.tanh(X / 0.500337), X, X), ""),
    "a base that nobody writes": (frequencies(10000.0 ** (-STEPS / 8), 37000.4 ** (-STEPS / 8)), ""),
    "weights that nobody writes": (pair(0.3141 * X + 0.1234 * W, 0.2718 * X + 0.1234 * W, X, W), ""),
    "one row for all is no bias": (pair(np.tile(ROW, (3, 1)), np.tile(ROW * ROW, (3, 1))), ""),
    "rows that are equal hide a factor": (
        pair(
            np.tile(X[:1], (2, 1, 1)), np.tile(X[:1] + W[:1], (2, 1, 1)), np.tile(X[:1], (2, 1, 1)), np.tile(W[:1], (2, 1, 1))
        ),
        "1 + w",
    ),
    "the operands in one order": (joined((X, W), (X, 2 * W)), "order"),
    "a factor inside a function of torch": (
        pair(X / 6, X, X, region=((event("torch", 1, "div", X / 6, name="hardswish"),), ())),
        "",
    ),
    "an activation in the place of the missing one": (
        pair(ACTIVATIONS["elu + 1"](X), X, X, made=((), (np.maximum(X, 0),))),
        "missing",
    ),
    "a roll of what agrees is another array": (
        step(lambda x: x + ROW[0] * GATE, (X, np.roll(X, 1, 1)), (known(np.roll(ROW[0] * GATE, 2, 1)), X)),
        "another array is read",
    ),
    "rows that were chosen by what is compared": (
        pair(
            TABLE[[1, 5, 2]],
            TABLE[[1, 5, 7]],
            known(TABLE, "codes", given=True),
            region=((event("torch", 0, "argmin", np.array([1, 5, 2])),), ()),
        ),
        "",
    ),
    "what both sides make": (
        pair(ACTIVATIONS["exp"](X), ACTIVATIONS["exp"](W), X, W, made=((np.exp(W),), (np.exp(X),))),
        "",
    ),
    "another kernel": (convolution(convolved(padded(1, 1)) + 0.1), ""),
    "a weight that changes from row to row": (pair(norm(X) * GATE, X, X), ""),
    "five rows of another table": (pair(TABLE[:6], TABLE[1:7] + 0.01, known(TABLE, "wpe", given=True)), ""),
    "steps that are uneven": (pair(STEPS / 8, STEPS**1.1 / 7), ""),
}


class TestLaws:
    @pytest.mark.parametrize("name", NAMED)
    def test_a_mistake_has_its_name(self, name: str) -> None:
        told = [finding.name for one in (NAMED[name][0], *differing_operands(NAMED[name][0])) for finding in name_pair(one)]
        assert any(NAMED[name][1] in text for text in told), told

    @pytest.mark.parametrize("name", NOT_NAMED)
    def test_a_neighbour_has_it_not(self, name: str) -> None:
        told = [finding.name for finding in name_pair(NOT_NAMED[name][0])]
        assert not any(NOT_NAMED[name][1] in text for text in told), told

    @pytest.mark.parametrize("name", NAMED)
    def test_a_thousandth_more_is_no_mistake_that_is_known(self, name: str) -> None:
        one = NAMED[name][0]
        if one.jax.dtype.kind == "c":
            pytest.skip("the noise is real")
        wrong = one.jax * (1 + 1e-3 * np.random.default_rng(1).normal(size=one.jax.shape))
        region = (one.region[0], tuple(replace(e, value=wrong) if e.value is one.jax else e for e in one.region[1]))
        told = name_pair(replace(one, jax=wrong, region=region))
        assert not [finding for finding in told if finding.sure and "concatenated" not in finding.name], told
