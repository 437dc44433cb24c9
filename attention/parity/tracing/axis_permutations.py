"""Axis permutations: whether two arrays of the same elements differ only by transposes and reshapes.

    consistent(a, b)    iff    a = reshape(transpose(b, p), a.shape) for some p, or the other way round

Splitting heads as (h d) on one side and as (d h) on the other leaves the elements the same, and the layouts not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations

import numpy as np

from attention.parity.tracing.fingerprint import collapsed, masked

# Beyond six axes the permutations are too many to be tried; no model that we know has more.
MOST_AXES = 6


def consistent(a: np.ndarray, b: np.ndarray, limit: float, *, same: bool = False) -> bool:
    """Return whether two arrays are equal up to the order and the splitting of their axes.

    Args:
        a: any shape.
        b: any shape.
        limit: how far elements may differ, relative to the largest.
        same: whether they must be equal as they are.
    """
    if same:
        return a.shape == b.shape and close(a, b, limit)
    a, b = collapsed(a), collapsed(b)
    coarse, fine = (a, b) if a.ndim <= b.ndim else (b, a)
    return any(close(coarse, laid, limit) for laid in arranged(fine, coarse.shape))


def arranged(x: np.ndarray, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Yield every array of a shape that is made by permuting the axes of `x` and then merging neighbours.

    >>> [y.shape for y in arranged(np.zeros((2, 3, 5)), (2, 15))]
    [(2, 15), (2, 15)]
    """
    if x.shape == shape:
        yield x
    if x.ndim > MOST_AXES:
        return
    for order in permutations(range(x.ndim)):
        sizes = [x.shape[axis] for axis in order]
        if _merges(sizes, shape) and (x.shape != shape or list(order) != list(range(x.ndim))):
            yield x.transpose(order).reshape(shape)


def divided(x: np.ndarray, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Yield every array of a shape from which `arranged` makes `x`: its axes are split, and then permuted.

    >>> [y.shape for y in divided(np.zeros((2, 15)), (2, 3, 5))]
    [(2, 3, 5), (2, 3, 5)]
    """
    if len(shape) > MOST_AXES:
        yield x.reshape(shape)
        return
    for order in permutations(range(len(shape))):
        sizes = [shape[axis] for axis in order]
        if _merges(sizes, x.shape):
            yield x.reshape(sizes).transpose(np.argsort(order))


def _merges(sizes: Sequence[int], shape: tuple[int, ...]) -> bool:
    """Return whether neighbours among the sizes multiply to the shape."""
    place = 0
    for size in shape:
        product = 1
        while product < size and place < len(sizes):
            product *= sizes[place]
            place += 1
        if product != size:
            return False
    return all(size == 1 for size in sizes[place:])


def close(a: np.ndarray, b: np.ndarray, limit: float) -> bool:
    """Return whether two arrays of one shape are equal, what is masked on both sides aside."""
    if a.dtype.kind != "f" or b.dtype.kind != "f":
        return bool((a == b).all() or (a.dtype == b.dtype == bool and (a != b).all()))
    hidden = masked(a)
    if (hidden != masked(b)).any():
        return False
    a, b = a[~hidden], b[~hidden]
    scale = max(abs(a).max(initial=0.0), abs(b).max(initial=0.0))
    return bool((abs(a - b) <= limit * scale).all())
