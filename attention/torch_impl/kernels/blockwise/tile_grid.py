"""The uneven tile grid of a mask: breakpoints at the mask's own boundaries, so that few tiles are partial.

    breakpoints = multiples of the tile + the ends of documents, paddings, prefixes and chunks
    kind  = EMPTY, PARTIAL, FULL, or TRIANGLE: allowed[t, s] = (s - s0 <= t - t0) in the square tile from t0 and s0

A tile schedule (spec/masks/tile_schedule) classifies tiles of one size, and a document that ends inside a tile makes the
tile partial. Here tiles lie between breakpoints that the mask itself defines: a document is one full tile, or one triangle,
and the kernel needs no mask. The predicate is evaluated on intervals; the intervals of queries and keys are tagged, so that
a comparison of the two detects the diagonal of a tile without evaluating single elements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attention.spec.axes import Array, Sizes
from attention.spec.masks.algebra import Mask
from attention.spec.masks.intervals import Interval, Ternary
from attention.spec.masks.tile import Tile
from attention.spec.masks.tile_schedule import ANYTHING, Tiles

TRIANGLE = 3
"""The kind of a square causal tile, beside EMPTY, PARTIAL and FULL of `spec.masks.tile_schedule`."""

Row = tuple[int, ...]
"""The index of one batch row."""
Breakpoints = tuple[Any, Any]
"""Boundaries of the tiles along queries and along keys: increasing integers from 0 to T and from 0 to S."""


def kinds(mask: Mask, sizes: Sizes, breakpoints: Breakpoints, row: Row, *, known: bool = True) -> Any:
    """Return the kind of every tile of one batch row, int8 `(H or 1, tiles of T, tiles of S)`.

    Args:
        mask: checked; its arrays are NumPy's, or of any kind unless `known`.
        sizes: of the call; T and S are not 0.
        breakpoints: boundaries of the tiles.
        row: the batch row.
        known: whether to read the mask's arrays.
    """
    (t0, t1), (s0, s1) = ((edges[:-1], edges[1:] - 1) for edges in breakpoints)
    starts: Breakpoints = (t0, s0)
    queries: Any = Queries(t0[:, None], t1[:, None])
    grid = TileGrid(queries, Keys(s0, s1), sizes.T, sizes.S, xp=np, tile=(1, 1), known=known, row=row, starts=starts)
    found = mask.allowed(grid)
    kind = found.may.astype(np.int8) + found.must.astype(np.int8)
    if isinstance(found, DiagonalTernary):
        kind = np.where(found.diagonal & ~found.must, np.int8(TRIANGLE), kind)
    kind = kind[(None,) * (3 - kind.ndim) + (...,)]
    return np.broadcast_to(kind, (kind.shape[0], len(t0), len(s0)))


@dataclass(frozen=True)
class TileGrid(Tiles):
    """Every tile of one batch row: t `(tiles of T, 1)` and s `(tiles of S,)`.

    Attributes:
        row: the batch row.
        starts: first query of each tile row, first key of each tile column.
    """

    row: Row = field(kw_only=True)
    starts: Breakpoints = field(kw_only=True)

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
    """The grid of the exact mask of two ranges, for one batch row, or for all if `row` is None."""

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
    """Return one batch row of an array `(*batch, ...)` that has `inner` axes after the batch axes."""
    n = x.ndim - inner
    return x[tuple(0 if x.shape[i] == 1 else row[len(row) - n + i] for i in range(n))] if n > 0 else x


def rises(x: Any) -> bool:
    """Return whether each number is the previous one plus 1, as for indices."""
    return x.shape[-1] > 1 and bool((np.diff(x) == 1).all())


def _reduced(x: Any, reduce: Any, starts: Any, axis: int) -> Any:
    """Return the reduction (such as np.minimum) over each tile along an axis. An axis of 1 is kept."""
    return x if x.shape[axis] == 1 else reduce.reduceat(x, starts, axis=axis)


@dataclass(frozen=True, eq=False)
class DiagonalTernary(Ternary):
    """A condition on tiles that also tracks on which tiles it is exactly the causal diagonal."""

    diagonal: Array

    def __and__(self, other: Ternary) -> DiagonalTernary:
        both = super().__and__(other)
        mine, theirs = self.diagonal, _diagonal(other)
        return DiagonalTernary(both.may, both.must, (mine & (other.must | theirs)) | (theirs & self.must))

    def __or__(self, other: Ternary) -> DiagonalTernary:
        both = super().__or__(other)
        mine, theirs = self.diagonal, _diagonal(other)
        return DiagonalTernary(both.may, both.must, (mine & (~other.may | theirs)) | (theirs & ~self.may))

    # Python tries the reflected operator of a subclass first.
    __rand__, __ror__ = __and__, __or__

    def spread(self, combine: Callable[[list[Array]], Array], *others: Ternary) -> DiagonalTernary:
        both = super().spread(combine, *others)
        return DiagonalTernary(both.may, both.must, combine([_diagonal(x) for x in (self, *others)]))


def _diagonal(x: Ternary) -> Any:
    return x.diagonal if isinstance(x, DiagonalTernary) else np.zeros_like(x.may)


class _Tagged(Interval):
    """An interval tagged as queries, keys or their offset; otherwise as a plain interval. Abstract."""

    __hash__ = None  # type: ignore[assignment]  # as an interval's

    def plain(self) -> Interval:
        return Interval(self.least, self.most)

    def __le__(self, other: Any) -> Ternary:
        return self.plain() <= _plain(other)

    def __ge__(self, other: Any) -> Ternary:
        return self.plain() >= _plain(other)

    def __eq__(self, other: object) -> Ternary:  # type: ignore[override]  # a condition, as for intervals
        return (self.plain() - _plain(other)) == 0 if self is other else self.plain() == _plain(other)


class Queries(_Tagged):
    """The queries of the tiles, or any numbers that increase by one from query to query."""

    def __add__(self, other: Any) -> Interval:
        moved = self.plain() + _plain(other)
        return Queries(moved.least, moved.most) if isinstance(other, int) else moved


class Keys(_Tagged):
    """The keys of the tiles, or any numbers that increase by one from key to key."""

    def __sub__(self, other: Any) -> Interval:
        gap = self.plain() - _plain(other)
        if not isinstance(other, Queries):
            return gap
        square = self.most - self.least == other.most - other.least
        # A tile that is not square has no diagonal: no offset is this large.
        return Offset(gap.least, gap.most, np.where(square, self.least - other.least, ANYTHING.most))

    def __le__(self, other: Any) -> Ternary:
        return self - other <= 0 if isinstance(other, Queries) else super().__le__(other)


@dataclass(frozen=True, eq=False)
class Offset(_Tagged):
    """Key minus query; it is `corner` along the diagonal of a tile."""

    corner: Array

    def __le__(self, other: Any) -> Ternary:
        found = self.plain() <= other
        return DiagonalTernary(found.may, found.must, self.corner == other) if isinstance(other, int) else found


def _plain(x: Any) -> Any:
    return x.plain() if isinstance(x, _Tagged) else x
