"""Reductions along an axis: sums, means, softmax, norms and cumulative sums that one program takes differently.

torch = reduce(x, axis)        jax = another reduction of the same x, or along another axis
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations, product

import numpy as np

from attention.parity.diagnosis.rules.operand_pair import Finding, OperandPair

MOST_AXES = 5


def softmax_axis(pair: OperandPair) -> Finding | None:
    """Name a softmax that sums to one along another axis."""
    for known, x, y in pair.of_size():
        torch, jax = _softmax(pair, pair.torch, x), _softmax(pair, pair.jax, y)
        if torch is None or jax is None:
            continue
        n, m = pair.torch.shape[torch], pair.jax.shape[jax]
        # An axis has no name in two layouts, but it has a size.
        if n != m or (pair.torch.shape == pair.jax.shape and torch != jax):
            evidence = f"torch sums to 1 along axis {torch} of {pair.torch.shape}, jax along {jax} of {pair.jax.shape}"
            mend = f"softmax(dim={jax})" if pair.torch.shape == pair.jax.shape else f"softmax over the axis of {m}"
            other = f"jax.nn.softmax(axis={torch})" if pair.torch.shape == pair.jax.shape else f"softmax over the axis of {n}"
            return Finding("softmax over another axis", f"{evidence}; x = {known.label}", mend, other)
    return None


def _softmax(pair: OperandPair, value: np.ndarray, x: np.ndarray) -> int | None:
    for axis in range(x.ndim):
        top = np.max(x, axis=axis, keepdims=True)
        with np.errstate(all="ignore"):
            e = np.exp(x - np.where(np.isfinite(top), top, 0.0))
        if x.shape[axis] > 1 and pair.equal(value, e / np.sum(e, axis=axis, keepdims=True)):
            return axis
    return None


def another_reduction(pair: OperandPair) -> Finding | None:
    """Name a sum, mean, maximum, variance or length of one array that the other side takes otherwise."""
    for known in pair.known:
        if known.torch.size <= pair.torch.size or known.torch.size > 200_000:
            continue
        # A loss is often the negative of what is reduced.
        for sign in (1.0, -1.0):
            torch = list(_reductions(pair, sign * pair.torch, known.torch))
            jax = list(_reductions(pair, sign * pair.jax, known.jax)) if torch else []
            if torch:
                break
        if torch and jax and not set(torch) & set(jax):
            first, second = torch[0], jax[0]
            told = [f"{name} over {_sizes(axes)}" for name, axes in (first, second)]
            name = _reduced(first[0], second[0], same=first[1] == second[1]) or f"{told[0]} on torch, {told[1]} on jax"
            return Finding(name, f"torch = {told[0]}, jax = {told[1]} of x = {known.label}", told[1], told[0])
    return None


def _reduced(torch: str, jax: str, *, same: bool) -> str:
    if same and {torch, jax} in ({"unbiased variance", "variance"}, {"unbiased deviation", "deviation"}):
        return f"{torch} on torch, {jax} on jax"
    return ""


def centred(pair: OperandPair) -> Finding | None:
    """Name x - r on both sides, of which r is a reduction of the same x that the sides take otherwise."""
    for known, x, y in pair.of_size():
        torch, jax = _subtracted(pair, pair.torch, x), _subtracted(pair, pair.jax, y)
        if torch and jax and torch != jax:
            evidence = f"torch = x - {torch}, jax = x - {jax}, x = {known.label}"
            return Finding(f"{torch} subtracted on torch, {jax} on jax", evidence, f"x - {jax}", f"x - {torch}")
    return None


def _subtracted(pair: OperandPair, value: np.ndarray, x: np.ndarray) -> str:
    """Return which mean or maximum of `x`, over axes of which sizes, is subtracted from it; "" if none is."""
    if value.shape != x.shape or not np.isfinite(x).all() or not np.isfinite(value).all():
        return ""
    for count in range(1, min(x.ndim, MOST_AXES) + 1):
        for axes in combinations(range(x.ndim), count):
            for name, reduce in (("mean", np.mean), ("maximum", np.max)):
                if math.prod(x.shape[a] for a in axes) > 1 and pair.equal(value, x - reduce(x, axis=axes, keepdims=True)):
                    return f"{name} over {_sizes(tuple(x.shape[a] for a in axes))}"
    return ""


def _sizes(sizes: tuple[int, ...]) -> str:
    return f"{'axes' if len(sizes) > 1 else 'the axis'} of {' and '.join(map(str, sizes))}"


def _reductions(pair: OperandPair, value: np.ndarray, x: np.ndarray) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield what reductions of `x` the value is: their names, and the sizes of the axes they are over."""
    flat = value.reshape(-1)
    for count in range(1, min(x.ndim, MOST_AXES) + 1):
        for axes in combinations(range(x.ndim), count):
            n = math.prod(x.shape[a] for a in axes)
            if n < 2 or x.size // n != flat.size:
                continue
            mean, square = np.mean(x, axis=axes), np.mean(x * x, axis=axes)
            spread = np.mean((x - np.mean(x, axis=axes, keepdims=True)) ** 2, axis=axes)
            # Of centred elements a variance is a mean square too: the first name is told.
            made = {
                "variance": spread, "unbiased variance": spread * n / (n - 1),
                "deviation": np.sqrt(spread), "unbiased deviation": np.sqrt(spread * n / (n - 1)),
                "mean": mean, "sum": n * mean, "mean square": square, "sum of squares": n * square,
                "length": np.sqrt(n * square), "maximum": np.max(x, axis=axes),
            }  # fmt: skip
            sizes = tuple(x.shape[a] for a in axes)
            found = [name for name, y in made.items() if pair.equal(flat, y.reshape(-1))]
            found = found or _share(pair, flat, (n * mean).reshape(-1))
            yield from ((name, sizes) for name in found)


MOST_COUNTED = 512


def _share(pair: OperandPair, flat: np.ndarray, total: np.ndarray) -> list[str]:
    """Return which whole number a sum is divided by, if it is one."""
    if not total.any() or not flat.any() or not (np.isfinite(total).all() and np.isfinite(flat).all()):
        return []
    ratio = float(np.abs(total).max()) / float(np.abs(flat).max())
    count = round(ratio) if ratio <= MOST_COUNTED else 0
    return [f"1 / {count} of the sum"] if count > 1 and pair.equal(flat * count, total) else []


def normed(pair: OperandPair) -> Finding | None:
    """Name two divisors of one array: a variance with or without bias, an eps, a length along another axis."""
    for known, x, y in pair.of_size():
        torch, jax = _quotient(pair.torch, x), _quotient(pair.jax, y)
        if torch is None or jax is None:
            continue
        first, second = _divisor(pair, torch, x), _divisor(pair, jax, y)
        if first and second and first != second:
            evidence = f"torch = x / {first}, jax = x / {second}, x = {known.label}"
            return Finding(f"divided by {first} on torch, by {second} on jax", evidence, f"/ {second}", f"/ {first}")
    return None


def _quotient(value: np.ndarray, x: np.ndarray) -> np.ndarray | None:
    with np.errstate(all="ignore"):
        r = x / value
    return r if np.isfinite(r).all() and (r > 0).all() else None


def _divisor(pair: OperandPair, r: np.ndarray, x: np.ndarray) -> str:
    """Return which length of `x` its divisor `r` is, and along which axis."""
    for axis in range(x.ndim):
        n = x.shape[axis]
        if n < 2 or not pair.equal(r, np.broadcast_to(np.take(r, [0], axis), r.shape)):
            continue
        square = np.mean(x * x, axis=axis, keepdims=True)
        spread = np.mean((x - np.mean(x, axis=axis, keepdims=True)) ** 2, axis=axis, keepdims=True)
        made = {
            "its length": n * square,
            "its root mean square": square,
            "its deviation": spread,
            "its unbiased deviation": spread * n / (n - 1),
        }
        for name, y in made.items():
            if pair.equal(r, np.broadcast_to(np.sqrt(y), r.shape)):
                return f"{name} along axis {axis} of {x.shape}" if x.ndim > 1 else name
    return ""


def counted(pair: OperandPair) -> Finding | None:
    """Name a sum that is divided by other counts."""
    for known, x, y in pair.of_size():
        torch, jax = _counts(pair.torch, x), _counts(pair.jax, y)
        if (
            torch is not None
            and jax is not None
            and not np.array_equal(torch, jax)
            and np.unique([torch, jax], axis=1).shape[1] > 1
        ):
            told = [f"{np.unique(counts)[::-1][:6].tolist()}" for counts in (torch, jax)]
            evidence = f"torch = x / {told[0]}, jax = x / {told[1]}, x = {known.label}"
            return Finding(
                "a mean over another count: padding is counted on one side", evidence, f"/ {told[1]}", f"/ {told[0]}"
            )
    return None


def _counts(value: np.ndarray, x: np.ndarray) -> np.ndarray | None:
    """Return the whole numbers above 0 that divide each row; None if they are none."""
    r = x / value
    if not np.isfinite(r).all():
        return None
    counts = np.rint(np.nanmedian(r, axis=-1)) if r.ndim else np.zeros(0)
    whole = np.isfinite(r).all() and (counts >= 1).all() and (np.abs(r - counts[..., None]) <= 1e-9 * counts[..., None]).all()
    return counts if whole and counts.size > 1 else None


CUMULATED = {"sum": np.cumsum, "product": np.cumprod}


def cumulated(pair: OperandPair) -> Finding | None:
    """Name a cumulative sum or product that one side takes without the element itself, or from the other end."""
    for known, x, y in pair.of_size():
        if x.ndim and np.isfinite(x).all() and x.size > 3:
            torch, jax = _cumulated(pair, pair.torch, x), _cumulated(pair, pair.jax, y)
            if torch and jax and torch != jax:
                name = f"cumulative {torch} on torch, {jax} on jax"
                return Finding(name, f"both rebuilt from x = {known.label}", jax, torch)
    return None


def _cumulated(pair: OperandPair, value: np.ndarray, x: np.ndarray) -> str:
    for axis, (name, f), back in product(range(x.ndim), CUMULATED.items(), (False, True)):
        if x.shape[axis] < 3:
            continue
        made = f(np.flip(x, axis) if back else x, axis)
        first = np.full_like(np.take(made, [0], axis), 0.0 if name == "sum" else 1.0)
        less = np.concatenate([first, np.delete(made, -1, axis)], axis)
        for told, z in (("with", made), ("without", less)):
            if pair.equal(value, np.flip(z, axis) if back else z):
                return f"{name} {told} the element itself{', from the end' if back else ''}"
    return ""


RULES = (cumulated, softmax_axis, another_reduction, centred, normed, counted)
