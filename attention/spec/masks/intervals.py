"""Interval arithmetic: evaluate a mask predicate on ranges of (t, s), with the result all, none or some.

    [a, b] + [c, d] = [a + c, b + d]        [a, b] - [c, d] = [a - d, b - c]
    ([a, b] <= [c, d]).may  = a <= d        some pair may satisfy it
    ([a, b] <= [c, d]).must = b <= c        every pair does
    (~x).may = not x.must                   (~x).must = not x.may

A mask's predicate is written with operators, so it can be evaluated on ranges of indices too. The result is always right,
and exact if each operand appears once; otherwise "some" may be returned for "all" or "none".

References:
    Moore, "Interval analysis", 1966; Cousot and Cousot, "Abstract interpretation", POPL 1977.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from attention.spec.axes import Array


@dataclass(frozen=True, eq=False)
class Ternary:
    """A condition on ranges: bool arrays. `must` implies `may`.

    Attributes:
        may: False where no element satisfies it.
        must: True where every element does.
    """

    may: Array
    must: Array

    # NumPy would otherwise spread an operator over the elements of its own array.
    __array_ufunc__ = None

    def __and__(self, other: Ternary) -> Ternary:
        return Ternary(self.may & other.may, self.must & other.must)

    def __or__(self, other: Ternary) -> Ternary:
        return Ternary(self.may | other.may, self.must | other.must)

    def __invert__(self) -> Ternary:
        return Ternary(~self.must, ~self.may)

    def spread(self, combine: Callable[[list[Array]], Array], *others: Ternary) -> Ternary:
        """Return `combine` of this and others, applied to both sides alike."""
        every = (self, *others)
        return Ternary(combine([x.may for x in every]), combine([x.must for x in every]))


@dataclass(frozen=True, eq=False)
class Interval:
    """The integers from `least` to `most`, both included: arrays, for `~` on Python's own bool is no negation."""

    least: Array
    most: Array

    __array_ufunc__ = None
    __hash__ = None  # type: ignore[assignment]  # it answers == by a condition, as arrays do

    def __add__(self, other: Any) -> Interval:
        x = _interval(other)
        return Interval(self.least + x.least, self.most + x.most)

    def __neg__(self) -> Interval:
        return Interval(-self.most, -self.least)

    def __sub__(self, other: Any) -> Interval:
        return self + -_interval(other)

    def __rsub__(self, other: Any) -> Interval:
        return -self + other

    __radd__ = __add__

    def __floordiv__(self, size: int) -> Interval:
        return Interval(self.least // size, self.most // size)

    def __le__(self, other: Any) -> Ternary:
        x = _interval(other)
        return Ternary(self.least <= x.most, self.most <= x.least)

    def __ge__(self, other: Any) -> Ternary:
        return _interval(other) <= self

    def __gt__(self, other: Any) -> Ternary:
        return ~(self <= other)

    def __lt__(self, other: Any) -> Ternary:
        return ~(self >= other)

    def __eq__(self, other: object) -> Ternary:  # type: ignore[override]  # a condition, as arrays answer
        if self is other:
            every = self.least <= self.most
            return Ternary(every, every)
        x = _interval(other)
        return Ternary((self.least <= x.most) & (self.most >= x.least), (self.least == x.most) & (self.most == x.least))

    def __ne__(self, other: object) -> Ternary:  # type: ignore[override]
        return ~(self == other)


def _interval(x: Any) -> Interval:
    return x if isinstance(x, Interval) else Interval(x, x)
