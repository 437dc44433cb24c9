"""Operand pairs for the tests of rules: two arrays that differ, what agreed before, and the operations behind them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch.nn import functional

from attention.parity.diagnosis.rules import Known, OperandPair
from attention.parity.tracing import Event

DRAWS = np.random.default_rng(11)
X, W = DRAWS.normal(size=(2, 5, 7)), DRAWS.normal(size=(2, 5, 7))
ROW, TABLE = DRAWS.uniform(0.5, 1.5, 7), DRAWS.normal(size=(13, 7))
GATE = DRAWS.uniform(size=(2, 5, 7))
IMAGE, KERNEL = DRAWS.normal(size=(2, 3, 6, 6)), DRAWS.normal(size=(4, 3, 3, 3))
LEAKY = {c: np.where(X > 0, X, c * X) for c in (0.0, 0.1, 0.01, 0.3, 1.0)}


def known(x: np.ndarray, label: str = "x", *, given: bool = False) -> Known:
    return Known(x, x, label, given)


def pair(torch: np.ndarray, jax: np.ndarray, *arrays: np.ndarray | Known, **more: Any) -> OperandPair:
    """Return two arrays and what both programs had made alike before."""
    return OperandPair(
        torch, jax, tuple(k if isinstance(k, Known) else known(k, f"array {i}") for i, k in enumerate(arrays)), **more
    )


def event(side: str, index: int, op: str, value: np.ndarray, inputs: tuple[int, ...] = (), **more: Any) -> Event:
    return Event(side, index, op, value, inputs, **more)


def norm(x: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * ROW + 0.5


def rms(x: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * ROW


def convolved(x: np.ndarray) -> np.ndarray:
    return np.einsum("nchwij,ocij->nohw", sliding_window_view(x, (3, 3), (2, 3)), KERNEL)


def padded(low: int, high: int, mode: Any = "constant") -> np.ndarray:
    return np.pad(IMAGE, ((0, 0), (0, 0), (low, high), (low, high)), mode=mode)


def convolution(jax: np.ndarray) -> OperandPair:
    """Return torch's convolution, padded by 1 on either side, beside another array."""
    value = convolved(padded(1, 1))
    options = "None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1"
    first = (
        event("torch", 0, "relu", IMAGE),
        event("torch", 1, "leaf", KERNEL),
        event("torch", 2, "convolution", value, (0, 1), options=options),
    )
    other = (event("jax", 0, "leaf", IMAGE), event("jax", 1, "conv_general_dilated", jax, (0,)))
    return pair(value, jax, IMAGE, region=(first, other))


def joined(torch: tuple[np.ndarray, ...], jax: tuple[np.ndarray, ...]) -> OperandPair:
    """Return two concatenations along the last axis."""
    sides = [
        (
            *(event(side, i, "mul", x) for i, x in enumerate(parts)),
            event(side, len(parts), op, np.concatenate(parts, -1), tuple(range(len(parts)))),
        )
        for side, op, parts in (("torch", "cat", torch), ("jax", "concatenate", jax))
    ]
    return pair(sides[0][-1].value, sides[1][-1].value, *torch, region=(sides[0], sides[1]))


def frequencies(torch: np.ndarray, jax: np.ndarray) -> OperandPair:
    return pair(torch, jax, region=((event("torch", 0, "exp", torch),), (event("jax", 0, "leaf", jax),)))


def step(f: Any, arrays: tuple[np.ndarray, np.ndarray], others: tuple[Any, ...]) -> OperandPair:
    """Return what both sides make of two arrays that part and one that agrees."""
    agreed = others[0].torch
    op = ("mm", "dot_general") if agreed.ndim == 2 else ("add", "add")
    sides = [
        (event(side, 0, "relu", x), event(side, 1, "leaf", agreed), event(side, 2, name, f(x), (0, 1)))
        for side, name, x in zip(("torch", "jax"), op, arrays, strict=True)
    ]
    return pair(sides[0][2].value, sides[1][2].value, *others, *arrays[: agreed.ndim == 2 and 2], region=(sides[0], sides[1]))


def resized(mode: str, **more: Any) -> OperandPair:
    """Return torch's bilinear upsampling beside another one of torch, as if it were JAX's."""
    image = torch.from_numpy(IMAGE)
    values = [
        functional.interpolate(image, scale_factor=2, mode=name, **options).numpy()
        for name, options in (("bilinear", {}), (mode, more))
    ]
    first = event("torch", 0, "relu", IMAGE), event("torch", 1, "upsample_bilinear2d", values[0], (0,))
    return pair(values[0], values[1], IMAGE, region=(first, (event("jax", 0, "gather", values[1]),)))


def pooled(pads: tuple[int, int], taken: Any = np.max, fill: float = -np.inf) -> OperandPair:
    """Return torch's maximum of windows of 3 at steps of 2, padded by 1 on either side, beside another pooling."""
    values = [
        f(sliding_window_view(np.pad(IMAGE, ((0, 0), (0, 0), p, p), constant_values=c), (3, 3), (2, 3))[:, :, ::2, ::2], (4, 5))
        for f, p, c in ((np.max, (1, 1), -np.inf), (taken, pads, fill))
    ]
    torch_event = event("torch", 1, "max_pool2d_with_indices", values[0], (0,), options="[3, 3], [2, 2], [1, 1]")
    other = (event("jax", 0, "reduce_window_max", values[1].transpose(0, 2, 3, 1)),)
    return pair(values[0], other[0].value, IMAGE, region=((event("torch", 0, "relu", IMAGE), torch_event), other))


SCORES, SQUARE = DRAWS.normal(size=(2, 5, 5)), DRAWS.normal(size=(7, 7))
FUSED, KEEP = DRAWS.normal(size=(2, 5, 12)), np.array([[1.0, 1, 1, 1, 0], [1, 1, 0, 0, 0]])
HALF = 0.5 * np.expm1(X)
STEPS = np.arange(8.0)
