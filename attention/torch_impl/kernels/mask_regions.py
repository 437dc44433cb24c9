"""Mask regions: detect that a mask is a rectangle or the part below a diagonal, without evaluating single elements.

    t0 <= t < t1,  s0 <= s < s1,  d0 <= s - t <= d1                 a region
    mask = rectangle                if all of the region is allowed
    mask = triangle, trapezoid      if s - t <= s1 - t1 is allowed, and s - t > s1 - t1 is not

The mask's predicate is evaluated on affine terms i t + j s + [low, high] (abstract interpretation with difference bounds), so
that the diagonal of `s <= t` is found however the predicate is written. "Every" and "none" are proofs; if neither is proven,
the kernel gets the mask.

References:
    Mine, "A new numerical abstract domain based on difference-bound matrices", PADO 2001.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attention.spec.axes import Array
from attention.spec.masks.algebra import Mask, Read
from attention.spec.masks.fields import MOST
from attention.spec.masks.grid import Grid
from attention.torch_impl.kernels.mask_bounds import Box

RECTANGLE, TRIANGLE, TRAPEZOID = "rectangle", "triangle", "trapezoid"
"""A trapezoid has more keys than queries, and its last query may attend to the last key."""


@dataclass(slots=True, eq=False)
class Truth:
    """A condition over a region: proven for every element, proven for none, or neither."""

    every: bool
    none: bool

    def __and__(self, other: Truth) -> Truth:
        return Truth(self.every and other.every, self.none or other.none)

    def __or__(self, other: Truth) -> Truth:
        return Truth(self.every or other.every, self.none and other.none)

    def __invert__(self) -> Truth:
        return Truth(self.none, self.every)


@dataclass(slots=True, eq=False)
class Region:
    """Bounds of t, s and s - t; ints, or NumPy arrays `(*batch,)` if batch rows differ."""

    t: tuple[Any, Any]
    s: tuple[Any, Any]
    d: tuple[Any, Any]


@dataclass(slots=True, eq=False)
class Term:
    """An affine term i t + j s + c with low <= c <= high over a region; the region is None if i = j = 0."""

    region: Region | None
    i: int
    j: int
    low: Any
    high: Any

    # Without it NumPy would apply an operator to each element of its own array.
    __array_ufunc__ = None
    __hash__ = None  # type: ignore[assignment]  # == returns a condition, as for arrays

    def bounds(self) -> tuple[Any, Any]:
        """Return the least and the most of all elements."""
        low, high, region = self.low, self.high, self.region
        if region is None:
            return low, high
        pairs = ((self.j, region.d),) if self.i == -self.j else ((self.i, region.t), (self.j, region.s))
        for factor, (least, most) in pairs:
            if factor:
                low = low + factor * (least if factor > 0 else most)
                high = high + factor * (most if factor > 0 else least)
        return low, high

    def __add__(self, other: Any) -> Term:
        if isinstance(other, Term):
            return Term(
                self.region or other.region, self.i + other.i, self.j + other.j, self.low + other.low, self.high + other.high
            )
        return Term(self.region, self.i, self.j, self.low + other, self.high + other)

    def __neg__(self) -> Term:
        return Term(self.region, -self.i, -self.j, -self.high, -self.low)

    def __sub__(self, other: Any) -> Term:
        return self + -other

    def __rsub__(self, other: Any) -> Term:
        return -self + other

    __radd__ = __add__

    def __floordiv__(self, size: int) -> Term:
        low, high = self.bounds()
        return Term(None, 0, 0, low // size, high // size)

    def __le__(self, other: Any) -> Truth:
        low, high = (self - other).bounds()
        return Truth(_all(high <= 0), _all(low > 0))

    def __ge__(self, other: Any) -> Truth:
        low, high = (self - other).bounds()
        return Truth(_all(low >= 0), _all(high < 0))

    def __lt__(self, other: Any) -> Truth:
        return ~(self >= other)

    def __gt__(self, other: Any) -> Truth:
        return ~(self <= other)

    def __eq__(self, other: object) -> Truth:  # type: ignore[override]  # a condition, as for arrays
        if self is other:
            return Truth(every=True, none=False)
        return (self <= other) & (self >= other)

    def __ne__(self, other: object) -> Truth:  # type: ignore[override]
        return ~(self == other)


def _all(condition: Any) -> bool:
    return condition if isinstance(condition, bool) else bool(condition.all())


def _scalar(values: Any) -> Any:
    """Return a single number as a Python int, whose arithmetic is several times faster than NumPy's."""
    return values.item() if values.size == 1 else values


UNKNOWN = Term(None, 0, 0, -MOST, MOST)
"""A term without known bounds."""


@dataclass(frozen=True)
class RegionGrid(Grid):
    """The grid on which a mask is evaluated for a whole region: t and s are terms.

    Attributes:
        box: the bounding rectangle of the region.
        read: returns the values of an array of the mask as NumPy, or None if unknown.
    """

    box: Box = field(kw_only=True)
    read: Read = field(kw_only=True)

    def per_row(self, x: Array) -> Term:
        values = self.read(x)
        return UNKNOWN if values is None else Term(None, 0, 0, *[_scalar(values)] * 2)

    def per_query(self, x: Array) -> Term:
        return self._range(x, self.box.t0, self.box.t1)

    def per_key(self, x: Array) -> Term:
        return self._range(x, self.box.s0, self.box.s1)

    def _range(self, x: Array, first: int, end: int) -> Term:
        values = self.read(x)
        if values is None:
            return UNKNOWN
        inside = values if values.shape[-1] == 1 else values[..., first:end]
        return Term(None, 0, 0, _scalar(inside.min(-1)), _scalar(inside.max(-1)))

    def per_score(self, x: Array) -> Truth:
        values = self.read(x)
        return Truth(every=False, none=False) if values is None else Truth(bool(values.all()), not values.any())

    def by_head(self, allowed: Sequence[Truth]) -> Truth:
        return Truth(all(x.every for x in allowed), all(x.none for x in allowed))

    by_row = by_head


def shape(mask: Mask, T: int, S: int, box: Box, read: Read, rows: tuple[Any, Any] | None = None) -> str | None:
    """Return the shape of a mask inside a box, or None if it is neither a rectangle nor the part below a diagonal.

    Args:
        mask: a checked mask, none of whose arrays has an axis of 0.
        T: queries of the call.
        S: keys of the call.
        box: not empty.
        read: returns the values of an array of the mask as NumPy, or None if unknown.
        rows: first and last existing query, each an int or integers `(*batch,)`; None for all of the box.

    >>> from attention.spec import Causal, Window
    >>> shape(Window(before=None, after=0), 5, 5, Box(0, 5, 0, 5), np.asarray)
    'triangle'
    >>> shape(Causal(align="end"), 1, 5, Box(0, 1, 0, 5), np.asarray)
    'rectangle'
    """
    t = (box.t0, box.t1 - 1) if rows is None else rows
    s = (box.s0, box.s1 - 1)
    diagonal = box.s1 - box.t1

    def evaluated(least: Any, most: Any) -> Truth:
        region = Region(t, (_larger(s[0], t[0] + least), _smaller(s[1], t[1] + most)), (least, most))
        terms = Term(region, 1, 0, 0, 0), Term(region, 0, 1, 0, 0)
        return mask.allowed(RegionGrid(*terms, T, S, box=box, read=read))

    least, most = s[0] - t[1], s[1] - t[0]
    if evaluated(least, most).every:
        return RECTANGLE
    high, wide = box.t1 - box.t0, box.s1 - box.s0
    if high > wide or not evaluated(diagonal + 1, most).none or not evaluated(least, diagonal).every:
        return None
    return TRIANGLE if high == wide else TRAPEZOID


def _larger(a: Any, b: Any) -> Any:
    return max(a, b) if isinstance(b, int) else np.maximum(a, b)


def _smaller(a: Any, b: Any) -> Any:
    return min(a, b) if isinstance(b, int) else np.minimum(a, b)
