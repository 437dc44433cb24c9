"""Array comparison for the rules: equality within rounding, up to layout and broadcasting.

equal(a, b)        near(a, b): in any order        placed(w, shape): w along the axes that it has        magnitudes(x)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations, permutations

import numpy as np

from attention.parity.tracing.fingerprint import masked


def near(value: np.ndarray, rebuilt: np.ndarray, limit: float = 1e-6) -> bool:
    """Return whether an array is another one but for constants that a framework keeps in float32, in this layout or another."""
    if value.size != rebuilt.size:
        return False
    if value.shape == rebuilt.shape and equal(value, rebuilt, limit):
        return True
    # So many numbers are not the same in another order by chance.
    return value.size >= 8 and equal(np.sort(value, None), np.sort(rebuilt, None), limit)


def placed(w: np.ndarray, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Yield an array as an operand of a shape: as it is, or repeated along the axes that it lacks."""
    sizes = tuple(n for n in w.shape if n > 1)
    if not sizes:
        return
    places = [i for i, n in enumerate(shape) if n > 1]
    if math.prod(sizes) == math.prod(shape):
        yield w.reshape(shape)
        return
    # Axes of one size would have two orders, of which only one is how they stand.
    orders = permutations if len(set(sizes)) == len(sizes) else combinations
    for axes in orders(places, len(sizes)):
        if tuple(shape[i] for i in axes) == sizes:
            laid = w.reshape(sizes).transpose(np.argsort(axes))
            yield np.broadcast_to(laid.reshape([shape[i] if i in axes else 1 for i in range(len(shape))]), shape)


def magnitudes(x: np.ndarray) -> int:
    """Return how many different magnitudes an array has, up to 9; what is fitted to a single one proves nothing.

    >>> magnitudes(np.array([1.0, -1.0, 0.0])), magnitudes(np.array([1.0, -2.0, 3.0]))
    (1, 3)
    """
    size = np.abs(x[np.isfinite(x) & (np.abs(x) < 1e29)])
    top = float(size.max(initial=0.0))
    return min(9, np.unique(np.round(size[size > 1e-6 * top] / top, 6)).size) if top else 0


MOST_AXES = 5


def arranged(a: np.ndarray, b: np.ndarray) -> Iterator[np.ndarray]:
    """Yield an array in the shape of another: as it is, or with its axes in each order that has this shape."""
    if a.size != b.size:
        return
    x, wanted = b.squeeze(), np.squeeze(a).shape
    if x.shape == wanted or (x.ndim != len(wanted) and a.shape[-1:] == b.shape[-1:]):
        yield b.reshape(a.shape)
        return
    if x.ndim > MOST_AXES:
        return
    for order in permutations(range(x.ndim)):
        if tuple(x.shape[i] for i in order) == wanted:
            yield x.transpose(order).reshape(a.shape)


def equal(a: np.ndarray, b: np.ndarray, limit: float) -> bool:
    """Return whether two arrays are equal relative to the largest element, what both mask aside."""
    if a.shape != b.shape or a.dtype.kind != "f" or b.dtype.kind != "f" or _far(a, b, limit):
        return False
    hidden = masked(b)
    if (masked(a) != hidden).any() or hidden.all():
        return False
    a, b = a[~hidden], b[~hidden]
    scale = float(np.abs(b).max(initial=0.0))
    return bool(scale) and bool((np.abs(a - b) <= limit * scale).all())


SAMPLE, PLAIN = 16, 5e3
"""Elements that are looked at before all are, and the magnitude above which one may be a mask."""


def _far(a: np.ndarray, b: np.ndarray, limit: float) -> bool:
    """Return whether a few elements tell already that two arrays are not equal: most that are compared are not."""
    if not a.size:
        return False
    at = np.linspace(0, a.size - 1, min(a.size, SAMPLE)).astype(int)
    x, y = a.flat[at], b.flat[at]
    seen = (np.abs(x) < PLAIN) & (np.abs(y) < PLAIN)
    with np.errstate(invalid="ignore"):
        apart = float(np.abs(x - y)[seen].max(initial=0.0))
    return apart > 0 and apart > limit * float(np.abs(b).max())
