"""Fingerprints: statistics of an array that do not depend on its layout.

    fingerprint(x) = (n, share masked, mean, rms, mean |x|, cube mean, order statistics)    over the elements not masked

It is the same for x transposed, reshaped or broadcast along a new axis, and for another value in the masked places; it differs
where one element differs by more than the tolerance times the largest. Booleans, integers and arrays of no more than two
values have no statistics worth the name: of these the pattern itself is kept, a mask and its complement being the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# What no computation returns, but people write for "not this one": -inf, finfo.min, -1e30.
HUGE = 1e29
# The order statistics, as shares of the sorted elements.
QUANTILES = np.linspace(0, 1, 9)


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What is known of an array without its layout.

    Attributes:
        count: elements after broadcast axes are dropped.
        masked: how many of these are masked.
        statistics: `(14,)`, in units of the array; empty for patterns.
        scale: the largest magnitude, which tolerances are relative to.
        tolerance: relative to `scale`.
        slack: what a kernel's own inaccuracy adds to it.
        pattern: the bytes of what has no statistics, b"" otherwise.
    """

    count: int
    masked: int
    statistics: np.ndarray
    scale: float
    tolerance: float
    pattern: bytes = b""
    slack: float = 0.0

    def limit(self, other: Fingerprint) -> float:
        """Return how far apart equal elements may be, relative to the largest.

        The smaller tolerance of the two decides: where only one side narrows, what it loses is a difference.
        """
        return max(min(self.tolerance, other.tolerance), self.slack, other.slack)

    def equals(self, other: Fingerprint) -> bool:
        """Return whether the two may be of the same elements."""
        if (self.count, self.masked, self.pattern) != (other.count, other.masked, other.pattern):
            return False
        limit = self.limit(other) * max(self.scale, other.scale)
        return bool(np.all(abs(self.statistics - other.statistics) <= limit))


def tolerance(unit: float) -> float:
    """Return how far apart, relative to their magnitude, two computations of one array may lie.

    Args:
        unit: the unit roundoff of the coarsest dtype that took part.

    >>> tolerance(2.0**-53), tolerance(2.0**-24), tolerance(2.0**-9)
    (1e-09, 9.5367431640625e-06, 0.015625)
    """
    return 1e-9 if unit <= 2.0**-53 else 160 * unit if unit < 2.0**-20 else 8 * unit


def fingerprint(value: np.ndarray, unit: float = 2.0**-53, noise: float = 0.0, slack: float = 0.0) -> Fingerprint:
    """Return the fingerprint of an array.

    Args:
        value: any shape; floats are float64.
        unit: the unit roundoff of the coarsest dtype that took part.
        noise: magnitude below which an element is a rounding error of zero.
        slack: what a kernel's own inaccuracy adds to the tolerance.
    """
    x = collapsed(real(value))
    if x.dtype.kind != "f":
        return _pattern(x)
    hidden = masked(x)
    seen = x[~hidden].ravel() if hidden.any() else x.ravel()
    scale = float(abs(seen).max()) if seen.size else 0.0
    if scale <= noise:
        return Fingerprint(
            0, 0, np.zeros(0), 0.0, 0.0, b"zero" if not hidden.any() else repr(x.shape).encode() + hidden.tobytes()
        )
    limit = tolerance(unit)
    ordered = np.sort(seen)
    if ordered.size > 2 and _few(ordered, limit * scale):
        return _levels(x, hidden, ordered, (limit, slack))
    places = np.rint(QUANTILES * (ordered.size - 1)).astype(int)
    size = scale or 1.0
    moments = [seen.mean(), np.sqrt(np.mean(seen * seen)), abs(seen).mean(), size * np.mean((seen / size) ** 3)]
    return Fingerprint(x.size, int(hidden.sum()), np.asarray([*moments, *ordered[places]]), scale, limit, slack=slack)


def real(value: np.ndarray) -> np.ndarray:
    """Return complex numbers as pairs along a new last axis, and anything else as it is."""
    return np.stack([np.real(value), np.imag(value)], axis=-1) if value.dtype.kind == "c" else value


def collapsed(value: np.ndarray) -> np.ndarray:
    """Return an array without the axes along which it is constant, which are those it was broadcast along."""
    for axis in reversed(range(value.ndim)):
        if value.shape[axis] == 1 or (value.shape[axis] > 1 and constant_along(value, axis)):
            value = value.take(0, axis)
    return value


def constant_along(value: np.ndarray, axis: int) -> bool:
    """Return whether an array, of any shape but with elements, repeats itself along an axis."""
    return _same(value.take([0], axis), value)


def masked(x: np.ndarray) -> np.ndarray:
    """Return where a float array holds no number but a mark: not finite, huge, or far below all the rest.

    >>> masked(np.array([1.0, -np.inf, -1e9, 2.0])).tolist()
    [False, True, True, False]
    """
    far = ~np.isfinite(x) | (abs(x) >= HUGE)
    low = ~far & (x <= -5e3)
    if low.any():
        rest = abs(x[~far & ~low])
        # Large negative numbers among others as large are numbers.
        if rest.size and rest.max() <= 0.02 * abs(x[low]).min():
            return far | low
    return far


def _same(first: np.ndarray, value: np.ndarray) -> bool:
    if value.dtype.kind != "f":
        return bool((first == value).all())
    with np.errstate(invalid="ignore"):
        return bool(((first == value) | (np.isnan(first) & np.isnan(value))).all())


def _few(ordered: np.ndarray, limit: float) -> bool:
    """Return whether sorted elements take one or two values."""
    return int((np.diff(ordered) > limit).sum()) <= 1


def _pattern(x: np.ndarray) -> Fingerprint:
    """Return the fingerprint of booleans, of which a complement is the same, or of integers."""
    if x.dtype == bool:
        x = x ^ x.ravel()[0] if x.size else x
        return Fingerprint(x.size, 0, np.zeros(0), 0.0, 0.0, repr(x.shape).encode() + np.packbits(x).tobytes())
    whole = np.asarray(x, np.int64) if x.dtype.kind in "iu" else x
    return Fingerprint(x.size, 0, np.zeros(0), 0.0, 0.0, repr((x.dtype.kind, x.shape)).encode() + whole.tobytes())


def _levels(x: np.ndarray, hidden: np.ndarray, ordered: np.ndarray, limits: tuple[float, float]) -> Fingerprint:
    """Return the fingerprint of an array of one or two values: which, and where."""
    low, high = float(ordered[0]), float(ordered[-1])
    level = np.where(hidden, 2, np.where(x <= (low + high) / 2, 0, 1)).astype(np.uint8)
    return Fingerprint(
        x.size,
        int(hidden.sum()),
        np.asarray([low, high]),
        max(abs(low), abs(high)),
        limits[0],
        repr(x.shape).encode() + level.tobytes(),
        limits[1],
    )
