"""Bounds of a mask: a rectangle of queries and keys outside of which the mask allows nothing.

mask[t, s] = False        unless t0 <= t < t1 and s0 <= s < s1
"""

from __future__ import annotations

from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from attention.spec.axes import Array
from attention.spec.masks.algebra import And, Mask, Or, Read
from attention.spec.masks.aligned import Aligned, Causal, Chunked, Window
from attention.spec.masks.fields import MOST
from attention.spec.masks.padding import Lengths, Prefix
from attention.spec.masks.segments import Segments
from attention.spec.masks.selection import PerHead, PerRow, Placed


class Box(NamedTuple):
    """The queries and keys of a rectangle: first, and one past the last."""

    t0: int
    t1: int
    s0: int
    s1: int

    def __and__(self, other: Box) -> Box:
        return Box(max(self.t0, other.t0), min(self.t1, other.t1), max(self.s0, other.s0), min(self.s1, other.s1))

    def __or__(self, other: Box) -> Box:
        return Box(min(self.t0, other.t0), max(self.t1, other.t1), min(self.s0, other.s0), max(self.s1, other.s1))

    @property
    def is_empty(self) -> bool:
        """Whether the rectangle has no element."""
        return self.t0 >= self.t1 or self.s0 >= self.s1


def bounding(mask: Mask, T: int, S: int, read: Read) -> Box:
    """Return a box outside of which the mask allows nothing; arguments as for `mask_regions.shape`."""
    match mask:
        case And():
            return bounding(mask.left, T, S, read) & bounding(mask.right, T, S, read)
        case Or():
            return bounding(mask.left, T, S, read) | bounding(mask.right, T, S, read)
        case PerHead() | PerRow():
            return reduce(Box.__or__, (bounding(each, T, S, read) for each in mask.masks))
        case _:
            return Box(*_queries(mask, T, S, read), *_keys(mask, T, S, read))


def _queries(mask: Mask, T: int, S: int, read: Read) -> tuple[int, int]:
    """Return the first query with an allowed key, and one past the last."""
    match mask:
        case Lengths() if mask.q is not None:
            return _counted(mask.q, T, mask.padding, read)
        case Segments():
            return _present(mask.kv if mask.q is None else mask.q, T, read)
        case Placed():
            return _present(mask.query_positions, T, read)
        case Causal() if mask.align == "end":
            # If T > S, the first T - S queries are before all keys.
            return max(0, T - S), T
        case _:
            return 0, T


def _keys(mask: Mask, T: int, S: int, read: Read) -> tuple[int, int]:
    """Return the first key that a query may attend to, and one past the last."""
    match mask:
        case Lengths():
            return _counted(mask.kv, S, mask.padding, read)
        case Prefix():
            return _counted(mask.length, S, "right", read)
        case Segments():
            return _present(mask.kv, S, read)
        case Placed():
            return _present(mask.key_positions, S, read)
        case Aligned():
            first, last = _near(mask, *_positions(mask, T, S, read))
            return max(0, first), min(S, last)
        case _:
            return 0, S


def _near(mask: Aligned, first: int, last: int) -> tuple[int, int]:
    """Return the range of keys that queries at positions `first` to `last` may attend to."""
    before, after = MOST, MOST
    if isinstance(mask, Causal):
        after = 0
    elif isinstance(mask, Window):
        before, after = (MOST if n is None else n for n in (mask.before, mask.after))
    elif isinstance(mask, Chunked):
        return first // mask.size * mask.size, (last // mask.size + 1) * mask.size
    return first - before, last + after + 1


def _counted(counts: Any, n: int, padding: str, read: Read) -> tuple[int, int]:
    known = counts if isinstance(counts, int) else read(counts)
    most = n if known is None else int(np.max(known))
    return (n - most, n) if padding == "left" else (0, most)


def _present(numbers: Array, n: int, read: Read) -> tuple[int, int]:
    """Return the index of the first number >= 0 in any row, and one past the last; 0, 0 if there is none."""
    known = read(numbers)
    if known is None or known.shape[-1] != n:
        return 0, n
    (at,) = np.nonzero((known >= 0).reshape(-1, n).any(0))
    return (int(at[0]), int(at[-1]) + 1) if at.size else (0, 0)


def _positions(mask: Aligned, T: int, S: int, read: Read) -> tuple[int, int]:
    """Return the least and the most of p(t)."""
    if mask.query_positions is None:
        shift = S - T if mask.align == "end" else 0
        return shift, shift + T - 1
    known = read(mask.query_positions)
    return (-MOST, MOST) if known is None else (int(known.min()), int(known.max()))
