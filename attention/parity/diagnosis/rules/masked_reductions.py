"""Padding: a reduction that ignores the mask in one program, or elements that only one program sets to 0.

torch = sum(x m) / sum(m)        jax = mean(x)            torch = max(where(m, x, -inf))        jax = max(x)
torch = x (1 - m)                jax = x                  m is 0 or 1
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from attention.parity.diagnosis.rules.arrays import arranged, placed
from attention.parity.diagnosis.rules.operand_pair import Finding, OperandPair, fix

MOST_MASKS, MOST_KNOWN = 8, 24


def counted_padding(pair: OperandPair) -> Finding | None:
    """Name a reduction along an axis that one side takes of what a mask keeps, and the other of all."""
    masks = list(_masks(pair))
    if not masks or pair.torch.dtype.kind != "f" or pair.jax.dtype.kind != "f":
        return None
    for known in pair.known[:MOST_KNOWN]:
        x = known.torch
        if x.ndim < 2 or x.size <= pair.torch.size or x.size % pair.torch.size or known.jax.size != x.size:
            continue
        torch, jax = _reduction_name(pair, pair.torch, x, masks), _reduction_name(pair, pair.jax, x, masks)
        if torch and jax and torch != jax and torch.partition(" of ")[2] != jax.partition(" of ")[2]:
            name = (
                f"padding is counted on {'torch' if torch.endswith('all') else 'jax'}: the {torch} on torch, the {jax} on jax"
            )
            return Finding(name, f"both rebuilt from x = {known.label}", jax, torch)
    return None


def _reduction_name(pair: OperandPair, value: np.ndarray, x: np.ndarray, masks: list[np.ndarray]) -> str:
    """Return which reduction of `x` along one axis an array is; "" if it is none."""
    for axis in (i for i, n in enumerate(x.shape[:-1]) if n > 1 and x.size // n == value.size):
        plain = {"mean": x.mean(axis), "sum": x.sum(axis), "maximum": x.max(axis)}
        found = next((name for name, y in plain.items() if pair.equal(value.reshape(y.shape), y)), "")
        if found:
            return f"{found} of all"
        for m in (w for mask in masks for w in placed(mask, x.shape)):
            count, kept = m.sum(axis), np.where(m > 0, x, 0.0).sum(axis)
            made = {"mean": kept / count, "sum": kept, "maximum": np.where(m > 0, x, -np.inf).max(axis)}
            made["mean"] = made["mean"] if (count > 0).all() else kept
            found = next((name for name, y in made.items() if pair.equal(value.reshape(y.shape), y)), "")
            if found:
                return f"{found} of what a mask keeps"
    return ""


def _masks(pair: OperandPair) -> Iterator[np.ndarray]:
    """Yield arrays of 0 and 1 that are read where the programs part, and their complements, as floats."""
    seen: list[np.ndarray] = []
    values = [k.torch for k in pair.known] + [e.value for region in pair.region for e in region]
    for value in values:
        if value.dtype.kind not in "bfiu" or value.size < 2 or not ((value == 0) | (value == 1)).all():
            continue
        m = np.squeeze(value).astype(float)
        if 0 < m.sum() < m.size and not any(m.shape == other.shape and (m == other).all() for other in seen):
            seen += [m, 1.0 - m]
    yield from seen[: 2 * MOST_MASKS]


def masked_factor(pair: OperandPair) -> Finding | None:
    """Name an array that one side sets to 0 where a mask says so, and the other does not."""
    if pair.torch.dtype.kind != "f" or pair.jax.dtype.kind != "f" or pair.torch.size < 4:
        return None
    for jax in arranged(pair.torch, pair.jax):
        for m in (w for mask in _masks(pair) for w in placed(mask, pair.torch.shape)):
            for more, less, side, other in ((pair.torch, jax, "torch", "jax"), (jax, pair.torch, "jax", "torch")):
                if pair.equal(more, less * m):
                    told = f"{side} = {other} m, m is 0 in {(m == 0).mean():.0%} of the elements"
                    return Finding(f"a mask is missing on {other}, or too much on {side}", told, **fix(other, "* mask"))
    return None


RULES = (counted_padding, masked_factor)
