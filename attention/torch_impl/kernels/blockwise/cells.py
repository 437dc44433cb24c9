"""Cells: an uneven grid over the scores whose lines stand where a mask changes, so that few cells are partial.

    lines = multiples of the tile + the ends of documents, paddings, prefixes and chunks
    kind  = EMPTY, PARTIAL, FULL, or TRIANGLE: allowed[t, s] = (s - s0 <= t - t0) in the square cell from t0 and s0

A tile schedule (spec/blocks) asks a mask about tiles of one size, and a document that ends inside a tile makes it partial.
Here the same predicate is asked about cells between lines that the mask itself names: a document is one full cell, or one
triangle, and a kernel is shown no mask at all. The intervals of the queries and the keys remember that they are those, so
that a comparison of the two knows the diagonal of a cell when it meets one; no cell is ever looked at element by element.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attention.spec.axes import Array, Sizes
from attention.spec.masks.algebra import Mask
from attention.spec.masks.intervals import Interval, Ternary
from attention.spec.masks.tile_schedule import ANYTHING, Tile, Tiles

TRIANGLE = 3
"""The kind of a square cell that is a causal diagonal, beside `spec.blocks`' EMPTY, PARTIAL and FULL."""

Row = tuple[int, ...]
"""The index of one batch row."""
Lines = tuple[Any, Any]
"""Where the cells of the queries, and of the keys, begin, and at last where they end: rising integers from 0."""


def kinds(mask: Mask, sizes: Sizes, lines: Lines, row: Row, *, known: bool = True) -> Any:
    """Return the kind of every cell of one batch row, int8 `(H or 1, cells of T, cells of S)`.

    Args:
        mask: checked; its arrays are NumPy's, or anything where they are not `known`.
        sizes: of the call; T and S are not 0.
        lines: between which the cells lie.
        row: the batch row.
        known: whether to read the mask's arrays.
    """
    (t0, t1), (s0, s1) = ((edges[:-1], edges[1:] - 1) for edges in lines)
    starts: Lines = (t0, s0)
    queries: Any = Queries(t0[:, None], t1[:, None])
    grid = Cells(queries, Keys(s0, s1), sizes.T, sizes.S, xp=np, tile=(1, 1), known=known, row=row, starts=starts)
    found = mask.allowed(grid)
    kind = found.may.astype(np.int8) + found.must.astype(np.int8)
    if isinstance(found, Answer):
        kind = np.where(found.diagonal & ~found.must, np.int8(TRIANGLE), kind)
    kind = kind[(None,) * (3 - kind.ndim) + (...,)]
    return np.broadcast_to(kind, (kind.shape[0], len(t0), len(s0)))


@dataclass(frozen=True)
class Cells(Tiles):
    """Every cell of one batch row: t `(cells of T, 1)` and s `(cells of S,)`.

    Attributes:
        row: the batch row.
        starts: where the cells of the queries begin, and of the keys.
    """

    row: Row = field(kw_only=True)
    starts: Lines = field(kw_only=True)

    def per_row(self, x: Array) -> Interval:
        return Interval(*[at_row(x, self.row, 0)] * 2) if self.known else ANYTHING

    def per_query(self, x: Array) -> Interval:
        return self._reduced_to(0, Queries, x, (slice(None), None))

    def per_key(self, x: Array) -> Interval:
        return self._reduced_to(1, Keys, x, (slice(None),))

    def per_score(self, x: Array) -> Ternary:
        if not self.known:
            return Ternary(np.ones((1, 1), bool), np.zeros((1, 1), bool))
        x = at_row(x, self.row, 3)
        x = x[(None,) * max(0, 2 - x.ndim) + (...,)]
        both: Any = (np.logical_or, np.logical_and)
        return Ternary(*(_reduced(_reduced(x, f, self.starts[0], -2), f, self.starts[1], -1) for f in both))

    def by_row(self, allowed: Sequence[Ternary]) -> Ternary:
        return allowed[self.row[-1]]

    def _reduced_to(self, axis: int, kind: type[Interval], x: Array, place: tuple[Any, ...]) -> Interval:
        if not self.known:
            return ANYTHING
        x = at_row(x, self.row, 1)
        ends = (_reduced(x, f, self.starts[axis], -1)[place] for f in (np.minimum, np.maximum))
        return (kind if rises(x) else Interval)(*ends)


@dataclass(frozen=True)
class Region(Tile):
    """The exact mask of two ranges: of one batch row, or of all where `row` is None."""

    row: Row | None = None

    def per_row(self, x: Array) -> Array:
        return super().per_row(self._own(x, 0))

    def per_query(self, x: Array) -> Array:
        return super().per_query(self._own(x, 1))

    def per_key(self, x: Array) -> Array:
        return super().per_key(self._own(x, 1))

    def per_score(self, x: Array) -> Array:
        return super().per_score(self._own(x, 3))

    def by_row(self, allowed: Sequence[Array]) -> Array:
        return super().by_row(allowed) if self.row is None else allowed[self.row[-1]]

    def _own(self, x: Array, inner: int) -> Array:
        return x if self.row is None else at_row(x, self.row, inner)


def at_row(x: Array, row: Row, inner: int) -> Array:
    """Return what `(*batch, ...)` or less, with `inner` axes after the batch's, holds of one batch row."""
    n = x.ndim - inner
    return x[tuple(0 if x.shape[i] == 1 else row[len(row) - n + i] for i in range(n))] if n > 0 else x


def rises(x: Any) -> bool:
    """Return whether each number is one more than the last, as indices are."""
    return x.shape[-1] > 1 and bool((np.diff(x) == 1).all())


def _reduced(x: Any, reduce: Any, starts: Any, axis: int) -> Any:
    """Return the minimum, or what `reduce` says, of each cell along an axis. An axis of 1 stays."""
    return x if x.shape[axis] == 1 else reduce.reduceat(x, starts, axis=axis)


@dataclass(frozen=True, eq=False)
class Answer(Ternary):
    """A condition on cells that also knows where it is exactly a causal diagonal."""

    diagonal: Array

    def __and__(self, other: Ternary) -> Answer:
        both = super().__and__(other)
        mine, theirs = self.diagonal, _diagonal(other)
        return Answer(both.may, both.must, (mine & (other.must | theirs)) | (theirs & self.must))

    def __or__(self, other: Ternary) -> Answer:
        both = super().__or__(other)
        mine, theirs = self.diagonal, _diagonal(other)
        return Answer(both.may, both.must, (mine & (~other.may | theirs)) | (theirs & ~self.may))

    # Python asks the subclass first, on either side of the operator.
    __rand__, __ror__ = __and__, __or__

    def spread(self, combine: Callable[[list[Array]], Array], *others: Ternary) -> Answer:
        both = super().spread(combine, *others)
        return Answer(both.may, both.must, combine([_diagonal(x) for x in (self, *others)]))


def _diagonal(x: Ternary) -> Any:
    return x.diagonal if isinstance(x, Answer) else np.zeros_like(x.may)


class _Named(Interval):
    """An interval that remembers what it is of. Abstract. In all but what it remembers it is the plain one."""

    __hash__ = None  # type: ignore[assignment]  # as an interval's

    def plain(self) -> Interval:
        return Interval(self.least, self.most)

    def __le__(self, other: Any) -> Ternary:
        return self.plain() <= _plain(other)

    def __ge__(self, other: Any) -> Ternary:
        return self.plain() >= _plain(other)

    def __eq__(self, other: object) -> Ternary:  # type: ignore[override]  # a condition, as an interval answers
        return (self.plain() - _plain(other)) == 0 if self is other else self.plain() == _plain(other)


class Queries(_Named):
    """The queries of the cells, or any numbers that rise by one from query to query: where they stand among the keys."""

    def __add__(self, other: Any) -> Interval:
        moved = self.plain() + _plain(other)
        return Queries(moved.least, moved.most) if isinstance(other, int) else moved


class Keys(_Named):
    """The keys of the cells, or any numbers that rise by one from key to key."""

    def __sub__(self, other: Any) -> Interval:
        gap = self.plain() - _plain(other)
        if not isinstance(other, Queries):
            return gap
        square = self.most - self.least == other.most - other.least
        # No offset is this large: a cell that is no square has no diagonal.
        return Offset(gap.least, gap.most, np.where(square, self.least - other.least, ANYTHING.most))

    def __le__(self, other: Any) -> Ternary:
        return self - other <= 0 if isinstance(other, Queries) else super().__le__(other)


@dataclass(frozen=True, eq=False)
class Offset(_Named):
    """The key less the query, which is `corner` all along the diagonal of a cell."""

    corner: Array

    def __le__(self, other: Any) -> Ternary:
        found = self.plain() <= other
        return Answer(found.may, found.must, self.corner == other) if isinstance(other, int) else found


def _plain(x: Any) -> Any:
    return x.plain() if isinstance(x, _Named) else x
