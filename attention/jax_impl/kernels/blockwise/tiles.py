"""Tile sizes of the blockwise kernel, and the loops over the tiles that a mask leaves.

    even    tile = ceil(n / ceil(n / wanted))           equal tiles, so that little or nothing is padded
            for each row of tiles: full tiles without a mask, then partial tiles with it; empty tiles are skipped
    band    tile = wanted * the widest range of keys that a row of tiles sees: one tile for each row

The structure of a mask is static: a loop that would never run is left out, and a mask with a narrow band of keys for each
query has no loop at all. Lengths, ids and positions may be traced: loop bounds are then traced values, and new values do
not recompile.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from attention.spec.axes import Array, Sizes
from attention.spec.masks import Mask
from attention.spec.masks.tile_schedule import FULL, PARTIAL, Schedule, schedule

Carry = TypeVar("Carry")
Pair = tuple[int, int]

ONE_CORE = (512, 256)
"""Queries and keys of a tile on one core: its scores, half a MiB of float32, stay in the L2 cache."""
CORES = (1024, 512)
"""The same on several cores: XLA uses a second core for products from 8.4 million multiplications on, and fully from twice
as many on, 512 * 512 * 64."""
BAND = (256, 256)
"""Queries of a tile with a band of keys, and keys of a tile with a band of queries."""
WIDEST = 4
"""The widest band, in tiles. Wider masks gain more from full tiles, which need no mask."""
LANES = 16
"""A tile that cannot divide its axis is padded to a multiple of this, a vector of float32."""


@dataclass(frozen=True)
class Tiling:
    """The tile sizes of a call.

    Attributes:
        ahead: (queries, keys) of a tile in the forward pass.
        behind: the same in the backward pass.
        whole: queries and keys of the call, padded to whole tiles.
        band: whether each row of tiles (forward) and each column (backward) is one tile.
    """

    ahead: Pair
    behind: Pair
    whole: Pair
    band: bool


def tiling(sizes: Sizes, mask: Mask | None, wanted: Pair | None = None) -> Tiling:
    """Return the tile sizes of a call.

    Args:
        sizes: of the call.
        mask: its structure bounds the keys of a query.
        wanted: the largest tile, queries and keys, or None for the measured ones.
    """
    narrow = BAND if wanted is None else wanted
    rows, columns = (_even(n, size) for n, size in zip((sizes.T, sizes.S), narrow, strict=True))
    whole = _padded(sizes.T, rows), _padded(sizes.S, columns)
    if mask is not None:
        # With the tile sizes of the passes: the step in which a range is known depends on them.
        ahead, behind = (_width(mask, sizes, (rows, columns), turned=turned) for turned in (False, True))
        if ahead <= WIDEST * narrow[0] and behind <= WIDEST * narrow[1] and ahead < sizes.S and behind < sizes.T:
            return Tiling((rows, ahead), (behind, columns), whole, band=True)
    wanted = wanted or _measured(mask)
    t, s = (_even(n, size) for n, size in zip((sizes.T, sizes.S), wanted, strict=True))
    return Tiling(
        (t, s), (t // 2 if t > ONE_CORE[1] and t % 2 == 0 else t, s), (_padded(sizes.T, t), _padded(sizes.S, s)), band=False
    )


def _measured(mask: Mask | None) -> Pair:
    alone = len(os.sched_getaffinity(0)) == 1 if hasattr(os, "sched_getaffinity") else os.cpu_count() == 1
    if alone:
        return ONE_CORE
    # With a mask, a smaller tile wastes fewer masked scores.
    return CORES if mask is None else (CORES[1], CORES[1])


def _even(n: int, wanted: int) -> int:
    """Return the tile size that cuts an axis into equal parts of at most `wanted`; the last may be padded."""
    tile = -(-n // -(-n // wanted))
    return tile if n % tile == 0 or tile < LANES else min(_padded(tile, LANES), max(wanted, tile))


def _padded(n: int, tile: int) -> int:
    return -(-n // tile) * tile


def _fine(mask: Mask, sizes: Sizes, tile: Pair, *, turned: bool) -> tuple[Any, Any, int]:
    """Return first and last key that the mask's structure leaves to each row of tiles, and the step of these bounds."""
    rows, columns = (_even(n, size) for n, size in zip((sizes.T, sizes.S), tile, strict=True))
    step = max(1, tile[not turned] // LANES)
    cut = schedule(mask, sizes, (step, columns) if turned else (rows, step), known=False)
    first, end = (cut.turned() if turned else cut).span()
    return first * step, end * step, step


def _width(mask: Mask, sizes: Sizes, tile: Pair, *, turned: bool) -> int:
    first, end, _ = _fine(mask, sizes, tile, turned=turned)
    return max(1, int(np.max(end - first)))


@dataclass(frozen=True)
class Walk:
    """A loop over the tiles of one kind (full or partial) of each row of tiles.

    Attributes:
        masked: whether the tiles need the mask.
        counts: `(N or 1, H or 1, rows)`: tiles in each row.
        starts: `(N or 1, H or 1, rows, columns)`: their first keys; entries beyond `counts` are unused.
    """

    masked: bool
    counts: Array
    starts: Array

    def visit(self, n: Array, h: Array, row: Array, step: Callable[[Array, Carry], Carry], carry: Carry) -> Carry:
        """Return the carry after `step(start, carry)` for each tile of a row."""
        n, h = (0 if size == 1 else at for size, at in zip(self.counts.shape[:2], (n, h), strict=True))
        starts = jnp.asarray(self.starts, jnp.int32)[n, h, row]
        count = self._count(n, h, row)
        if isinstance(count, int) and count == 1:
            return step(starts[0], carry)
        return lax.fori_loop(0, count, lambda i, carry: step(starts[i], carry), carry)

    def _count(self, n: Array, h: Array, row: Array) -> Array:
        if isinstance(self.counts, np.ndarray) and (self.counts == self.counts.flat[0]).all():
            return int(self.counts.flat[0])
        return jnp.asarray(self.counts, jnp.int32)[n, h, row]


def walks(mask: Mask | None, sizes: Sizes, cut: Tiling, *, turned: bool = False) -> tuple[Walk, ...]:
    """Return the loops over the tiles that a mask leaves: full tiles, then partial ones.

    Args:
        mask: its arrays are JAX's.
        sizes: of the call.
        cut: of the call.
        turned: whether rows are of keys and columns of queries, as in the backward pass.
    """
    if cut.band and mask is not None:
        return (_band(mask, sizes, cut, turned=turned),)
    tile = cut.behind if turned else cut.ahead
    tiles = schedule(mask, sizes, tile, np if mask is None else jnp)
    if cut.whole[1] > sizes.S:
        # The padding of the last tile must be masked.
        last = np.arange(tiles.kinds.shape[-1]) == sizes.S // tile[1]
        tiles = replace(tiles, kinds=tiles.xp.where((tiles.kinds == FULL) & last, PARTIAL, tiles.kinds))
    tiles = tiles.turned() if turned else tiles
    found = (_walk(tiles, sizes, kind) for kind in (FULL, PARTIAL))
    return tuple(walk for walk in found if not (isinstance(walk.counts, np.ndarray) and not walk.counts.any()))


def _band(mask: Mask, sizes: Sizes, cut: Tiling, *, turned: bool) -> Walk:
    rows, columns = cut.ahead[0], cut.behind[1]
    first, _, _ = _fine(mask, sizes, (rows, columns), turned=turned)
    # A range is shifted to end at the last key; the mask hides the keys before its own first one.
    starts = np.minimum(first, cut.whole[not turned] - (cut.behind[0] if turned else cut.ahead[1]))
    starts = _rows(np, starts, len(sizes.batch))
    return Walk(True, np.ones_like(starts), starts[..., None])


def _walk(tiles: Schedule, sizes: Sizes, kind: int) -> Walk:
    counts, index = tiles.of(kind)
    return Walk(kind == PARTIAL, *(_rows(tiles.xp, x, len(sizes.batch)) for x in (counts, index * tiles.tile[1])))


def _rows(xp: Any, x: Array, batch: int) -> Array:
    """Fold the batch axes into one; each is 1 or whole, and the result is 1 if all are 1."""
    return xp.reshape(x, (-1 if batch else 1, *x.shape[batch:]))


def part(x: jax.Array, n: Array, h: Array, start: Array, size: int) -> jax.Array:
    """Return `(size, ...)` of `(N, heads, n', ...)`: a head's elements from `start` on."""
    rest = x.shape[3:]
    cut = lax.dynamic_slice(x, (n, h, start, *[jnp.int32(0)] * len(rest)), (1, 1, size, *rest))
    return cut.reshape(size, *rest)
