"""Norms: one that only one program applies, another kind of norm, or a division that one program lacks.

torch = (x - mean) / sqrt(var + eps) w + b        jax = x, or x / sqrt(mean of x^2 + eps) w
torch = x / sum of x                              jax = x
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from attention.parity.diagnosis.rules.arrays import equal, magnitudes
from attention.parity.diagnosis.rules.operand_pair import Finding, OperandPair, fix

EPS = (0.0, 1e-12, 1e-10, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3)
"""What is added to a variance."""
MOST_KNOWN, ROWS, CLOSE = 10, 4, 1e-7
"""Agreed arrays that are tried; rows that a weight and a bias are solved from, at least; what eps in float32 leaves apart."""


def other_norm(pair: OperandPair) -> Finding | None:
    """Name a norm of an agreed array that is another one on the other side, or is missing there."""
    for known, x, y in list(pair.of_size())[:MOST_KNOWN]:
        if x.ndim < 2 or magnitudes(x) < 3 or not (np.isfinite(x).all() and np.isfinite(y).all()):
            continue
        torch, jax = _norm(pair, pair.torch, x), _norm(pair, pair.jax, y)
        if (not torch and not jax) or torch == jax:
            continue
        told = f"both rebuilt from x = {known.label}"
        if torch and jax:
            return Finding(f"{torch} on torch, {jax} on jax", told, jax, torch)
        for side, other, norm, value, z in (("torch", "jax", torch, pair.jax, y), ("jax", "torch", jax, pair.torch, x)):
            if norm and pair.equal(value, z):
                return Finding(
                    f"{norm} is missing on {other}, or too much on {side}",
                    told,
                    **(fix(other, norm) | fix(side, f"without {norm}")),
                )
    return None


def _norm(pair: OperandPair, value: np.ndarray, x: np.ndarray) -> str:
    """Return what norm of `x` along its last axis an array is; "" if it is none."""
    if value.shape != x.shape or x.shape[-1] < 2 or not np.isfinite(value).all() or pair.equal(value, x):
        return ""
    for name, y in _plain(x):
        if np.isfinite(y).all() and pair.equal(value, y):
            return name
    for name, y in _affine(x):
        if np.isfinite(y).all() and _weighed(pair, value, y):
            return name
    return ""


def _plain(x: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    total, length = x.sum(-1, keepdims=True), np.sqrt((x * x).sum(-1, keepdims=True))
    yield "division by the sum along the last axis", x / total
    yield "division by the length along the last axis", x / length
    yield "division by the largest along the last axis", x / x.max(-1, keepdims=True)
    e = np.exp(x - x.max(-1, keepdims=True))
    yield "softmax along the last axis", e / e.sum(-1, keepdims=True)
    yield "log softmax along the last axis", np.log(e / e.sum(-1, keepdims=True))


def _affine(x: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    centred = x - x.mean(-1, keepdims=True)
    for eps in EPS:
        yield "layer norm", centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
        yield "RMS norm", x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)


def _weighed(pair: OperandPair, value: np.ndarray, y: np.ndarray) -> bool:
    """Return whether an array is `y` with one weight and one bias for each feature, of which more rows are than it takes."""
    if pair.equal(value, y):
        return True
    rows, wanted = y.reshape(-1, y.shape[-1]), value.reshape(-1, y.shape[-1])
    if len(rows) < ROWS:
        return False
    middle, mean = rows.mean(0), wanted.mean(0)
    spread = ((rows - middle) ** 2).sum(0)
    weight = ((rows - middle) * (wanted - mean)).sum(0) / spread
    made = weight * (rows - middle) + mean
    return bool(np.isfinite(made).all()) and equal(wanted, made, max(4 * pair.limit, CLOSE))


RULES = (other_norm,)
