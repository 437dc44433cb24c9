"""Addends: a missing or different addend or bias, and a scale w in place of 1 + w.

torch = x + b        jax = x, or x + c            torch = x (1 + w)        jax = x w
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from attention.parity.diagnosis.rules.arrays import placed
from attention.parity.diagnosis.rules.operand_pair import Finding, Known, OperandPair, fix
from attention.spec.axes import broadcasts

MOST_ADDENDS = 30


def another_addend(pair: OperandPair) -> Finding | None:
    """Name a sum of which one addend is another array on the other side, or is missing there."""
    if pair.torch.size != pair.jax.size or pair.torch.dtype.kind != "f" or pair.jax.dtype.kind != "f" or pair.torch.size < 4:
        return None
    if np.squeeze(pair.torch).shape != np.squeeze(pair.jax).shape and pair.torch.shape[-1] != pair.jax.shape[-1]:
        return None
    apart = pair.torch - pair.jax.reshape(pair.torch.shape)
    if not np.isfinite(apart).all() or pair.equal(apart, np.full_like(apart, apart.flat[0])):
        return None
    able = [(k, _like(k.torch, apart)) for k in pair.known[:MOST_ADDENDS]]
    same = [(k, x) for k, x in able if x is not None]
    for known, x in same:
        for sign, side, other in ((1.0, "torch", "jax"), (-1.0, "jax", "torch")):
            if pair.equal(apart, sign * x):
                if weighted := _one_more(pair, x, sign, known.label):
                    return weighted
                what = "a bias is" if known.given and known.torch.ndim == 1 else "an addend is"
                return Finding(
                    f"{what} missing on {other}, or too much on {side}",
                    f"{side} = {other} + {known.label}",
                    **fix(other, f"+ {known.label}"),
                )
    return _bias(pair, apart) or _exchanged(pair, apart, same)


def _one_more(pair: OperandPair, x: np.ndarray, sign: float, label: str) -> Finding | None:
    """Name x (1 + w) beside x w, of which the difference is x: w is the same for many elements."""
    ratio = (pair.jax.reshape(x.shape) if sign > 0 else pair.torch) / x
    if not np.isfinite(ratio).all():
        return None
    # The other factor is an array of both programs: where all rows of a batch are equal, any ratio is constant along it.
    if not any(pair.equal(ratio, w, slack=1e3) for k in pair.known if k.torch is not x for w in placed(k.torch, x.shape)):
        return None
    told = ("1 + w", "w") if sign > 0 else ("w", "1 + w")
    evidence = f"torch = x ({told[0]}), jax = x ({told[1]}), x = {label}"
    return Finding(f"scaled by {told[0]} on torch, by {told[1]} on jax", evidence, f"x * ({told[1]})", f"x * ({told[0]})")


def _bias(pair: OperandPair, apart: np.ndarray) -> Finding | None:
    """Name rows that all differ by the same vector."""
    rows, values = apart.reshape(-1, apart.shape[-1]), pair.torch.reshape(-1, apart.shape[-1])
    # Rows that are one row repeated, such as a table, are evidence of one row only.
    if len(rows) < 2 or pair.equal(values, np.broadcast_to(values[:1], values.shape)):
        return None
    if rows.size < 4 or rows.shape[1] < 2 or not pair.equal(rows, np.broadcast_to(rows[:1], rows.shape), slack=1e3):
        return None
    evidence = f"torch - jax is {np.array2string(rows[0][:4], precision=4)}... in each of {len(rows)} rows"
    if pair.absent:
        return Finding(f"a bias is missing on {pair.absent}", evidence, **fix(pair.absent, "+ bias"))
    return Finding("a bias is missing, or another one is added", evidence, sure=False)


def _exchanged(pair: OperandPair, apart: np.ndarray, same: list[tuple[Known, np.ndarray]]) -> Finding | None:
    for (a, x), (b, y) in combinations([(k, x) for k, x in same if x.shape == apart.shape], 2):
        for sign, first, second in ((1.0, a, b), (-1.0, b, a)):
            if pair.equal(apart, sign * (x - y)):
                evidence = f"torch - jax = a - b, a = {first.label}, b = {second.label}"
                name = "another branch is added: the residual is taken from another array"
                return Finding(name, evidence, f"add {second.label}", f"add {first.label}")
    return None


def _like(x: np.ndarray, wanted: np.ndarray) -> np.ndarray | None:
    """Return an array as an addend of a shape: as it is, reshaped, or as a row for all; None if it is none."""
    if not np.isfinite(x).all():
        return None
    if x.size == wanted.size:
        return x.reshape(wanted.shape)
    if x.ndim == 1 and wanted.ndim > 1 and x.size == wanted.shape[-1]:
        return np.broadcast_to(x, wanted.shape)
    return None


def scale_and_one(pair: OperandPair) -> Finding | None:
    """Name x w on one side and x (1 + w) on the other."""
    rows = [k for k in pair.known if k.torch.size * 2 <= pair.torch.size]
    for known, x, y in pair.of_size():
        for row in rows:
            w, v = row.torch, row.jax
            if not (broadcasts(w.shape, x.shape) and broadcasts(v.shape, y.shape)):
                continue
            plain, one = pair.equal(pair.torch, x * w), pair.equal(pair.torch, x * (1.0 + w))
            other_plain, other_one = pair.equal(pair.jax, y * v), pair.equal(pair.jax, y * (1.0 + v))
            if (plain and other_one) or (one and other_plain):
                told = ("w", "1 + w") if plain else ("1 + w", "w")
                evidence = f"torch = x ({told[0]}), jax = x ({told[1]}), w = {row.label}, x = {known.label}"
                return Finding(
                    f"scaled by {told[0]} on torch, by {told[1]} on jax", evidence, f"x * ({told[1]})", f"x * ({told[0]})"
                )
    return None


RULES = (scale_and_one, another_addend)
