"""Plan of a mask: few large blocks of scores, each computed by one kernel call.

    block = queries x keys of one kind, repeated `count` times, `step` apart
    FULL: a rectangle without a mask      TRIANGLE: a causal square      PARTIAL: a rectangle with its mask

Every allowed score is in exactly one block, and scores outside the blocks are never computed. Causal attention is one
triangle, a prefix a rectangle and a triangle, documents one square each, and a window one repeated block, read through
overlapping strided views.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby, pairwise
from math import prod
from typing import Any

import numpy as np

from attention.spec.axes import Sizes
from attention.spec.masks import And, Causal, Not, Or, Window
from attention.spec.masks.algebra import Mask
from attention.spec.masks.tile_schedule import EMPTY, FULL, PARTIAL, schedule
from attention.torch_impl.kernels.blockwise.breakpoints import breakpoints
from attention.torch_impl.kernels.blockwise.tile_grid import TRIANGLE, Breakpoints, Row, kinds

MERGE = 2.0
"""A row of tiles is split into full and partial blocks if the full keys exceed this many times the partial ones."""


@dataclass(frozen=True)
class Block:
    """Rectangles of scores of one kind that one call computes.

    Attributes:
        kind: FULL, TRIANGLE or PARTIAL; repetitions share one mask.
        t: the first query.
        queries: their number.
        s: the first key.
        keys: their number.
        count: number of rectangles.
        step: offset in queries and keys between repetitions.
        first: whether no earlier block has any of its queries, so that nothing is merged.
    """

    kind: int
    t: int
    queries: int
    s: int
    keys: int
    count: int = 1
    step: tuple[int, int] = (0, 0)
    first: bool = False


@dataclass(frozen=True)
class Part:
    """Batch rows and heads with the same blocks.

    Attributes:
        rows: the first row, counted through all batch axes, and one past the last.
        heads: the first key/value head and one past the last.
        row: the batch row whose mask the blocks use; None for all rows at once.
        blocks: in the order in which they are computed.
        complete: whether every query is in a `first` block; else the outputs are initialised to an empty row.
        alone: whether no two blocks share a query.
    """

    rows: tuple[int, int]
    heads: tuple[int, int]
    row: Row | None
    blocks: tuple[Block, ...]
    complete: bool
    alone: bool


Plan = tuple[Part, ...]


def plan(mask: Mask | None, sizes: Sizes, tile: int, *, known: bool = True) -> Plan:
    """Return the blocks of a checked mask.

    Args:
        mask: its arrays are NumPy's, or of any kind unless `known`; None allows everything.
        sizes: of the call.
        tile: the longest side of a tile.
        known: whether to read the mask's arrays; if not, tiles that depend on them are PARTIAL.
    """
    rows = prod(sizes.batch)
    if 0 in (rows, sizes.T, sizes.S, sizes.K):
        return ()
    if mask is None:
        return (_part((0, rows), (0, sizes.K), None, [Block(FULL, 0, sizes.T, 0, sizes.S)], sizes.T),)
    if mask.is_static:
        return _remembered(mask, sizes, tile)
    return tuple(_joined(_parts(mask, sizes, tile, known), known))


@lru_cache(maxsize=256)
def _remembered(mask: Mask, sizes: Sizes, tile: int) -> Plan:
    return tuple(_joined(_parts(mask, sizes, tile, known=True), known=True))


def _parts(mask: Mask, sizes: Sizes, tile: int, known: bool) -> Iterator[tuple[Row, Part]]:
    """Yield each part, of one batch row or of all, and the index that its mask depends on."""
    batch = schedule(mask, sizes, (sizes.T, sizes.S), known=known).kinds.shape[:-3]
    alike = all(n == 1 for n in batch)
    made: dict[Row, list[Part]] = {}
    for i, row in enumerate(np.ndindex(*((1,) * len(batch) if alike else sizes.batch))):
        own = tuple(min(index, n - 1) for index, n in zip(row, batch, strict=True))
        if own not in made:
            made[own] = list(_of_row(mask, sizes, tile, row, known))
        for part in made[own]:
            yield own, replace(part, rows=(0, prod(sizes.batch)) if alike else (i, i + 1), row=None if alike else row)


def _joined(parts: Iterator[tuple[Row, Part]], known: bool) -> Iterator[Part]:
    """Yield the parts; neighbouring rows with the same blocks and masks are joined."""
    kept: list[tuple[Row, Part]] = []
    for own, part in parts:
        at = next((i for i, (_, last) in enumerate(kept) if (last.rows[1], last.heads) == (part.rows[0], part.heads)), None)
        if at is not None and kept[at][1].blocks == part.blocks:
            masks = any(block.kind == PARTIAL for block in part.blocks)
            if not masks or (known and kept[at][0] == own):
                kept[at] = (own, replace(kept[at][1], rows=(kept[at][1].rows[0], part.rows[1])))
                continue
        kept.append((own, part))
    return (part for _, part in kept)


def _of_row(mask: Mask, sizes: Sizes, tile: int, row: Row, known: bool) -> Iterator[Part]:
    """Yield a part for each run of key/value heads with the same tiles."""
    edges = breakpoints(mask, sizes, tile, row, known=known)
    kind = kinds(mask, sizes, edges, row, known=known)
    if kind.shape[0] > 1:
        grouped = kind.reshape(sizes.K, sizes.group, *kind.shape[1:])
        most = grouped.max(1)
        kind = np.where(grouped.min(1) == most, most, PARTIAL)
    moves = slides(mask)
    for _, heads in groupby(range(kind.shape[0]), lambda h: kind[h].tobytes()):
        first, *rest = heads
        end = sizes.K if kind.shape[0] == 1 else first + len(rest) + 1
        blocks = list(_batched(_cover(kind[first], edges), moves))
        yield _part((0, 0), (first, end), None, blocks, sizes.T)


def _part(rows: tuple[int, int], heads: tuple[int, int], row: Row | None, blocks: list[Block], T: int) -> Part:
    """Return a part, its largest block first."""
    seen, begun = np.zeros(T, bool), np.zeros(T, bool)
    marked: list[Block] = []
    for block in sorted(blocks, key=lambda p: -p.queries * p.count):
        at = (block.t + block.step[0] * np.arange(block.count)[:, None] + np.arange(block.queries)).ravel()
        marked.append(replace(block, first=not seen[at].any()))
        seen[at] = True
        begun[at] |= marked[-1].first
    return Part(rows, heads, row, tuple(marked), bool(begun.all()), all(block.first for block in marked))


def is_masked(plan: Plan) -> bool:
    """Return whether a block needs a mask; such a block reads masked tokens."""
    return any(block.kind == PARTIAL for part in plan for block in part.blocks)


def repeated(plan: Plan, n: int, batch: Row) -> Plan:
    """Return the plan of n calls as one call with batch axes `(n, *batch)`."""
    rows = prod(batch)
    if all(part.rows == (0, rows) for part in plan):
        return tuple(replace(part, rows=(0, n * rows)) for part in plan)
    return tuple(replace(part, rows=(i * rows + part.rows[0], i * rows + part.rows[1])) for i in range(n) for part in plan)


def slides(mask: Mask) -> bool:
    """Return whether the mask depends on s - t alone, so that all tiles along a diagonal share one mask."""
    if isinstance(mask, (Causal, Window)):
        return mask.query_positions is None
    return isinstance(mask, (And, Or, Not)) and all(slides(part) for part in mask.inside)


def _cover(kind: Any, edges: Breakpoints) -> Iterator[Block]:
    """Yield the blocks of tiles `(tiles of T, tiles of S)`."""
    left, (t, s) = kind.copy(), edges
    widths = np.diff(s)

    def take(kind: int, i: tuple[int, int], j: tuple[int, int]) -> Block:
        left[slice(*i), slice(*j)] = EMPTY
        (t0, t1), (s0, s1) = t[list(i)].tolist(), s[list(j)].tolist()
        return Block(kind, t0, t1 - t0, s0, s1 - s0)

    for i in np.flatnonzero((left == PARTIAL).any(1)).tolist():
        for j in _runs(left[i] != EMPTY):
            run, width = left[i, slice(*j)], widths[slice(*j)]
            if (run == PARTIAL).any() and width[run == FULL].sum() <= MERGE * width[run != FULL].sum():
                yield take(PARTIAL, (i, i + 1), j)
    for i, j in np.argwhere(left == TRIANGLE).tolist():
        if left[i, j] == TRIANGLE:
            n = _grown(left, i, j)
            yield take(TRIANGLE, (i, i + n), (j, j + n))
    for i in range(len(left)):
        for j in _runs(left[i] == FULL):
            yield take(FULL, (i, i + _deep(left, i, j)), j)
        for j in _runs(left[i] == PARTIAL):
            yield take(PARTIAL, (i, i + 1), j)


def _grown(kind: Any, i: int, j: int) -> int:
    """Return the side of a triangle in tiles: full below the diagonal, empty above, every row starting at the same tile."""
    begins = (kind != EMPTY).argmax(1)
    for n in range(1, min(kind.shape[0] - i, kind.shape[1] - j)):
        below, above = kind[i + n, j : j + n], kind[i : i + n, j + n]
        if kind[i + n, j + n] != TRIANGLE or (below != FULL).any() or (above != EMPTY).any() or begins[i + n] != begins[i]:
            return n
    return min(kind.shape[0] - i, kind.shape[1] - j)


def _deep(kind: Any, i: int, j: tuple[int, int]) -> int:
    """Return the number of rows from i on with exactly this run of full tiles."""
    # With the tiles beside the run, or padding.
    wide = np.pad(kind[i:] == FULL, ((0, 0), (1, 1)))[:, j[0] : j[1] + 2]
    same = (wide == wide[0]).all(1)
    return len(same) if same.all() else int(same.argmin())


def _runs(flags: Any) -> list[tuple[int, int]]:
    """Return begin and end of each run of True."""
    at = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]))).tolist()
    return list(zip(at[::2], at[1::2], strict=True))


def _batched(blocks: Iterator[Block], moves: bool) -> Iterator[Block]:
    """Yield the blocks; blocks of one shape at a constant step become one repeated block."""
    chain: list[Block] = []
    for block in [*sorted(blocks, key=lambda p: (p.kind, p.queries, p.keys, p.t, p.s)), None]:
        if block and _follows(chain, block, moves):
            chain.append(block)
            continue
        if chain:
            yield replace(chain[0], count=len(chain), step=_step(*chain[:2]) if len(chain) > 1 else (0, 0))
        chain = [block] if block else []


def _follows(chain: list[Block], block: Block, moves: bool) -> bool:
    if not chain or (chain[-1].kind, chain[-1].queries, chain[-1].keys) != (block.kind, block.queries, block.keys):
        return False
    t, s = _step(chain[-1], block)
    even = all(_step(a, b) == (t, s) for a, b in pairwise(chain[:2]))
    return even and t >= block.queries and s > 0 and (block.kind != PARTIAL or (moves and t == s))


def _step(one: Block, other: Block) -> tuple[int, int]:
    return other.t - one.t, other.s - one.s
