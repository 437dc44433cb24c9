"""Tile schedule: which tiles of the scores a mask leaves empty, full or partial.

    kind[i, j] = EMPTY     nothing of queries i*q..(i+1)*q and keys j*k..(j+1)*k is allowed: skipped
                 FULL      all of it is: computed without a mask
                 PARTIAL   the rest: computed with the mask of the tile

The mask's predicate is evaluated on ranges of positions (intervals.py), without a dense mask, for known lengths and ids
(NumPy, torch) and for traced ones (JAX). With traced values the kinds are traced too, so that loop bounds change without
recompilation. A PARTIAL tile may in fact be empty or full; EMPTY and FULL are exact.

References:
    Dong et al., "FlexAttention", arXiv:2412.05496 (block masks of full and partial tiles).
"""

# NumPy leaves the type of its integers open.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from attention.spec.axes import Array, Sizes
from attention.spec.errors import OptionError
from attention.spec.masks.algebra import MASK, Mask
from attention.spec.masks.fields import MOST, is_count
from attention.spec.masks.grid import Grid
from attention.spec.masks.intervals import Interval, Ternary
from attention.spec.numbers import is_symbolic
from attention.spec.options import NAMESPACE, SWITCH, Option, checked, instance, whole

EMPTY, PARTIAL, FULL = 0, 1, 2
KIND = whole(EMPTY, FULL, wanted=f"EMPTY = {EMPTY}, PARTIAL = {PARTIAL} or FULL = {FULL}")
TILE = Option(
    "two ints >= 1, queries and keys",
    lambda value: isinstance(value, (tuple, list)) and len(value) == 2 and all(is_count(n, 1) for n in value),
)
MOST_TILES = 2**26
"""The most tiles of a schedule, a byte each."""
SIGNS = "·▒■"
WIDEST = 64
"""The most tiles, each way, that a drawing shows."""


@dataclass(frozen=True, eq=False)
class Schedule:
    """The kind of every tile.

    Attributes:
        kinds: int8 `(*batch, H, tiles of T, tiles of S)`; an axis before the last two is 1 where the mask does not tell its
            elements apart. NumPy, or the framework's own where lengths or ids are traced.
        tile: queries and keys of a tile; the last tile of an axis may hold fewer.
        T: queries.
        S: keys.
        xp: the array namespace of `kinds`.
    """

    kinds: Array
    tile: tuple[int, int]
    T: int
    S: int
    xp: Any = np

    def of(self, *kinds: int) -> tuple[Array, Array]:
        """Return, for each query tile, how many key tiles are of these kinds, and which, in rising order.

        Returns:
            counts: `(*batch, H, tiles of T)`.
            index: `(*batch, H, tiles of T, tiles of S)`, of which the first `counts` are meant. What follows are the numbers
            of the other tiles.
        """
        if not kinds:
            raise OptionError(f"kinds must be given, among EMPTY = {EMPTY}, PARTIAL = {PARTIAL} and FULL = {FULL}")
        for kind in kinds:
            KIND.check("kinds", kind)
        found: Array = self.kinds == kinds[0]
        for kind in kinds[1:]:
            found = found | (self.kinds == kind)
        order = self.xp.argsort(self.xp.asarray(~found, dtype=self.kinds.dtype), axis=-1, stable=True)
        return self.xp.sum(found, axis=-1), order

    def span(self) -> tuple[Array, Array]:
        """Return, for each query tile, the first key tile that is not empty and one past the last; 0, 0 where all are.

        Between them may lie empty tiles; see `of`.
        """
        seen = self.kinds != EMPTY
        at = self.xp.arange(self.kinds.shape[-1])
        if not at.shape[0]:
            nothing = self.xp.sum(seen, axis=-1)
            return nothing, nothing
        end = self.xp.max(self.xp.where(seen, at + 1, 0), axis=-1)
        first = self.xp.min(self.xp.where(seen, at, at.shape[0]), axis=-1)
        return self.xp.where(end == 0, 0, first), end

    def turned(self) -> Schedule:
        """Return the schedule with queries and keys exchanged, for a backward pass over keys."""
        return replace(self, kinds=self.xp.matrix_transpose(self.kinds), tile=self.tile[::-1], T=self.S, S=self.T)

    @property
    def density(self) -> float:
        """The share of the scores that lies in tiles that are not empty: of arithmetic, compared with no mask.

        Known kinds only.
        """
        q, k = self.extents()
        seen = q @ (self.kinds != EMPTY) @ k  # (*batch, H)
        return float(np.mean(seen)) / (self.T * self.S) if self.kinds.size else 0.0

    def extents(self) -> tuple[Any, Any]:
        """Return how many queries each query tile holds, and how many keys each key tile."""
        return tuple(np.minimum(tile, n - tile * np.arange(-(-n // tile))) for tile, n in zip(self.tile, (self.T, self.S)))  # type: ignore[return-value]  # noqa: B905 - two and two

    def __str__(self) -> str:
        """Return a drawing of the first batch row and head: a sign for each tile. Known kinds only."""
        q, k = self.tile
        head = f"Schedule of T {self.T}, S {self.S} in tiles of {q} x {k}: {self.density:.1%} of the scores are computed"
        kinds = np.asarray(self.kinds).reshape(-1, *self.kinds.shape[-2:])[:1, :WIDEST, :WIDEST]
        rows = ["".join(SIGNS[kind] for kind in row) for row in kinds[0]] if kinds.size else []
        return "\n".join([head, *rows, f"{SIGNS[FULL]} full  {SIGNS[PARTIAL]} partial  {SIGNS[EMPTY]} empty"])


@checked(mask=MASK, sizes=instance(Sizes), xp=NAMESPACE, known=SWITCH)
def schedule(mask: Mask | None, sizes: Sizes, tile: tuple[int, int], xp: Any = np, *, known: bool = True) -> Schedule:
    """Return the tiles of a checked mask.

    Args:
        mask: its arrays belong to `xp`; None allows everything.
        sizes: of the call.
        tile: queries and keys of a tile.
        xp: the array namespace: NumPy, or the framework's own for arrays that are traced or on a device.
        known: whether to read the mask's arrays. If not, every tile that depends on them is PARTIAL, so that the schedule
            follows from the structure alone and may be compiled.

    Raises:
        OptionError: `tile` is no pair of positive ints.

    >>> from attention.spec import Causal, Window
    >>> print(schedule(Causal() & Window(before=3, after=0), Sizes((), 12, 12, 1, 1, 8, 8), (2, 2)))
    Schedule of T 12, S 12 in tiles of 2 x 2: 41.7% of the scores are computed
    ▒·····
    ■▒····
    ▒■▒···
    ·▒■▒··
    ··▒■▒·
    ···▒■▒
    ■ full  ▒ partial  · empty
    """
    TILE.check("tile", tile)
    counts = tuple(-(-n // size) for n, size in zip((sizes.T, sizes.S), tile, strict=True))
    if not any(map(is_symbolic, counts)) and counts[0] * counts[1] > MOST_TILES:
        raise OptionError(f"tile {tile} of T = {sizes.T}, S = {sizes.S} must make at most {MOST_TILES} tiles")
    shape = (*(1 for _ in sizes.batch), 1, *counts)
    if mask is None or 0 in counts:
        return Schedule(xp.full(shape, FULL, dtype=xp.int8), tile, sizes.T, sizes.S, xp)
    # Structure alone needs no framework, and stays NumPy's.
    space = np if mask.is_static or not known else xp
    t, s = (_range(space, n, size) for n, size in zip((sizes.T, sizes.S), tile, strict=True))
    rows = Interval(t.least[:, None], t.most[:, None])
    found = mask.allowed(Tiles(rows, s, sizes.T, sizes.S, xp=space, tile=tile, known=known))  # type: ignore[arg-type]
    kinds: Any = space.asarray(found.may, dtype=space.int8) + space.asarray(found.must, dtype=space.int8)
    kinds = kinds[(None,) * (len(shape) - kinds.ndim) + (...,)]
    return Schedule(space.broadcast_to(kinds, (*kinds.shape[:-2], *counts)), tile, sizes.T, sizes.S, space)


def _range(xp: Any, n: int, size: int) -> Interval:
    """Return the indices of each of the tiles of an axis of n elements."""
    first = xp.arange(0, n, size)
    return Interval(first, xp.where(first + size < n, first + size, n) - 1)


@dataclass(frozen=True)
class Tiles(Grid):
    """Every tile of a call: t `(tiles of T, 1)` and s `(tiles of S,)` are intervals, and answers are ternary.

    Attributes:
        tile: queries and keys of a tile.
        known: whether to read the mask's arrays.
    """

    tile: tuple[int, int]
    known: bool = True

    def per_row(self, x: Array) -> Interval:
        return Interval(*[x[..., None, None, None]] * 2) if self.known else ANYTHING

    def per_query(self, x: Array) -> Interval:
        return self._reduced(x, self.tile[0], (..., None, slice(None), None))

    def per_key(self, x: Array) -> Interval:
        return self._reduced(x, self.tile[1], (..., None, None, slice(None)))

    def per_score(self, x: Array) -> Ternary:
        xp: Any = self.xp
        if not self.known:
            return Ternary(np.asarray([[True]]), np.asarray([[False]]))
        x = x[(None,) * (2 - x.ndim) + (...,)] if x.ndim < 2 else x
        # Queries first: a tile is all (or any) of the rows that are.
        rows = [_grouped(xp, x, -2, self.tile[0], reduce) for reduce in (xp.any, xp.all)]
        return Ternary(*(_grouped(xp, x, -1, self.tile[1], f) for x, f in zip(rows, (xp.any, xp.all), strict=True)))

    def by_head(self, allowed: Sequence[Ternary]) -> Ternary:
        return allowed[0].spread(super().by_head, *allowed[1:])

    def by_row(self, allowed: Sequence[Ternary]) -> Ternary:
        return allowed[0].spread(super().by_row, *allowed[1:])

    def _reduced(self, x: Array, size: int, place: tuple[Any, ...]) -> Interval:
        if not self.known:
            return ANYTHING
        return Interval(*(_grouped(self.xp, x, -1, size, f)[place] for f in (self.xp.min, self.xp.max)))


ANYTHING = Interval(np.asarray(-MOST), np.asarray(MOST))
"""The interval of an unknown number."""


def _grouped(xp: Any, x: Array, axis: int, size: int, reduce: Any) -> Array:
    """Return `reduce` over each `size` elements of an axis; the last group may be smaller. An axis of 1 stays."""
    n = x.shape[axis]
    if n <= 1:
        return x
    x = xp.moveaxis(x, axis, -1)
    groups = -(-n // size)
    if groups * size > n:
        # Once more the last element: it changes no minimum, maximum, any or all.
        last = xp.broadcast_to(x[..., -1:], (*x.shape[:-1], groups * size - n))
        x = xp.concat([x, last], axis=-1)
    grouped = partial(reduce, axis=-1)(xp.reshape(x, (*x.shape[:-1], groups, size)))
    return xp.moveaxis(grouped, -1, axis)
