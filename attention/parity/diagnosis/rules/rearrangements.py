"""Rearranged elements: tiled, rolled, flipped or transposed arrays, heads split in another order, other rotary pairs.

jax = torch, its axes in another order, rolled, reversed, tiled where repeated
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations, product

import numpy as np

from attention.parity.diagnosis.rules.arrays import near
from attention.parity.diagnosis.rules.operand_pair import Finding, OperandPair, fix


def tiled(pair: OperandPair) -> Finding | None:
    """Name repetition of each element on one side and of the whole on the other."""
    a, b = pair.torch, pair.jax
    if a.shape != b.shape or a.dtype.kind != "f":
        return None
    for axis in range(a.ndim):
        n = a.shape[axis]
        for groups in (g for g in range(2, n // 2 + 1) if n % g == 0):
            for side, other, x, y in (("torch", "jax", a, b), ("jax", "torch", b, a)):
                once = np.take(x, np.arange(0, n, n // groups, dtype=np.int64), axis)
                if (np.repeat(once, n // groups, axis) == x).all() and pair.equal(
                    y, np.concatenate([once] * (n // groups), axis)
                ):
                    name = f"heads repeated on {side}, tiled on {other}"
                    mend = {
                        "torch": "repeat_interleave(n, dim) as torch.repeat tiles",
                        "jax": "jnp.repeat(x, n, axis), not jnp.tile",
                    }
                    evidence = f"axis {axis} of {a.shape}: {groups} heads {n // groups} times"
                    return Finding(name, evidence, **fix(other, mend[other]))
    return None


MOSTLY = 0.6
"""The share of elements that must be distinct: a table repeated over a batch, or over halves, is equal in many orders."""


def split_otherwise(pair: OperandPair) -> Finding | None:
    """Name axes that one side splits or merges as (h d) and the other as (d h)."""
    a, b = pair.torch, pair.jax
    if a.size != b.size or not 6 <= a.size <= 100_000:
        return None
    if pair.equal(a.reshape(-1), b.reshape(-1)):
        # The same order, cut into axes of exchanged sizes.
        if a.shape == b.shape or sorted(a.shape) != sorted(b.shape):
            return None
        return Finding(
            "axes split in another order", f"one row of elements is cut as {a.shape} on torch and as {b.shape} on jax"
        )
    if not pair.equal(np.sort(a, None), np.sort(b, None)) or np.unique(a).size < MOSTLY * a.size:
        return None
    for first in range(b.ndim):
        for last in range(first + 1, b.ndim + 1):
            for p, q, r in _factors(int(np.prod(b.shape[first:last]))):
                shape = (*b.shape[:first], p, q, r, *b.shape[last:])
                # Of all factors few fit the first row; the whole is compared for these alone.
                if pair.equal(a.reshape(-1), b.reshape(shape).swapaxes(first, first + 1).reshape(-1)):
                    evidence = (
                        f"torch {a.shape} = jax {b.shape}, {p * q * r} of it cut as ({p}, {q}, {r}) and the first two exchanged"
                    )
                    return Finding("axes in another order: split, merged or transposed otherwise", evidence)
    return None


def _factors(n: int) -> Iterator[tuple[int, int, int]]:
    """Yield every p q r = n with p, q > 1."""
    for p in (p for p in range(2, n // 2 + 1) if n % p == 0):
        yield from ((p, q, n // p // q) for q in range(2, n // p + 1) if n // p % q == 0)


ROTATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "halves, (-x2, x1)": lambda x: np.concatenate([-x[..., x.shape[-1] // 2 :], x[..., : x.shape[-1] // 2]], -1),
    "halves, (x2, -x1)": lambda x: np.concatenate([x[..., x.shape[-1] // 2 :], -x[..., : x.shape[-1] // 2]], -1),
    "neighbours, (-x2, x1)": lambda x: np.stack([-x[..., 1::2], x[..., 0::2]], -1).reshape(x.shape),
    "neighbours, (x2, -x1)": lambda x: np.stack([x[..., 1::2], -x[..., 0::2]], -1).reshape(x.shape),
    "neighbours, laid out as halves": lambda x: np.concatenate([-x[..., 1::2], x[..., 0::2]], -1),
}


def other_rotation(pair: OperandPair) -> Finding | None:
    """Name the features that a rotary embedding pairs, or which way it turns."""
    for known, x, y in pair.of_size():
        if x.shape[-1] % 2 or y.shape[-1] % 2:
            continue
        torch = [name for name, turn in ROTATIONS.items() if pair.equal(pair.torch, turn(x))]
        jax = [name for name, turn in ROTATIONS.items() if pair.equal(pair.jax, turn(y))]
        if torch and jax and torch[0] != jax[0]:
            name = f"rotary pairs {torch[0]} on torch; {jax[0]} on jax"
            return Finding(name, f"both rebuilt from x = {known.label}", jax[0], torch[0])
    return None


PARTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "the first half": lambda x: x[..., : x.shape[-1] // 2],
    "the second half": lambda x: x[..., x.shape[-1] // 2 :],
    "every other one from the first": lambda x: x[..., 0::2],
    "every other one from the second": lambda x: x[..., 1::2],
}


def other_part(pair: OperandPair) -> Finding | None:
    """Name halves of the features on one side, and neighbours on the other."""
    for known in pair.known:
        if not (known.torch.ndim and known.jax.ndim) or known.torch.size != 2 * pair.torch.size:
            continue
        if known.torch.shape[-1] % 2 or known.jax.shape[-1] % 2:
            continue
        torch = [name for name, part in PARTS.items() if near(pair.torch, part(known.torch))]
        jax = [name for name, part in PARTS.items() if near(pair.jax, part(known.jax))]
        if len(torch) == len(jax) == 1 and torch != jax:
            name = f"features split otherwise: {torch[0]} on torch, {jax[0]} on jax"
            return Finding(name, f"both parts of x = {known.label}", jax[0], torch[0])
    return None


def moved(pair: OperandPair) -> Finding | None:
    """Name a roll along one axis or two, or a flip."""
    a, b = pair.torch, pair.jax
    if a.shape != b.shape or a.size < 3 or pair.equal(a, b) or not pair.equal(np.sort(a, None), np.sort(b, None)):
        return None
    for axis in range(a.ndim):
        if a.shape[axis] > 2 and pair.equal(np.flip(a, axis), b):
            return Finding(
                f"reversed along axis {axis}", f"jax = torch reversed, {a.shape}", f"flip([{axis}])", f"jnp.flip(axis={axis})"
            )
    for axes in (*((i,) for i in range(a.ndim)), *combinations(range(a.ndim), 2)):
        for shifts in product(*(range(1, min(a.shape[i], 32)) for i in axes)):
            if pair.equal(np.roll(a, shifts, axes), b):
                told = [min(shift, a.shape[i] - shift) for shift, i in zip(shifts, axes, strict=True)]
                where = " and ".join(f"by {n} along axis {i}" for n, i in zip(told, axes, strict=True))
                return Finding(f"rolled {where}", f"jax = torch rolled by {shifts} along {axes} of {a.shape}")
    return None


def square_transposed(pair: OperandPair) -> Finding | None:
    """Name two axes of one size that are exchanged, where the shapes are one and the axes cannot be a layout of either."""
    a, b = pair.torch, pair.jax
    if a.shape != b.shape or a.ndim < 2 or a.dtype.kind != "f" or pair.equal(a, b):
        return None
    for i, j in combinations(range(a.ndim), 2):
        if a.shape[i] == a.shape[j] > 1 and pair.equal(a, b.swapaxes(i, j)):
            name = f"axes {i} and {j}, both of {a.shape[i]}, are exchanged on one side"
            return Finding(name, f"jax = torch transposed, {a.shape}", f"transpose({i}, {j})", f"jnp.swapaxes(x, {i}, {j})")
    return None


SAME_ELEMENTS = (tiled, split_otherwise)
RULES = (tiled, square_transposed, split_otherwise, other_rotation, other_part, moved)
