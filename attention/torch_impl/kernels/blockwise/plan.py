"""The plan: a mask as few large pieces, each of which one call of a kernel computes.

    piece = queries x keys of one kind, count times, a step apart
    FULL: a rectangle without a mask      TRIANGLE: a causal square      PARTIAL: a rectangle with its mask

Every score that is allowed lies in one piece, and what no piece covers is never read. Causal attention is one triangle, a
prefix a rectangle and a triangle, documents one square each, and a window one piece many times over, which a kernel reads
as overlapping strided views.
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
from attention.torch_impl.kernels.blockwise.cells import TRIANGLE, Lines, Row, kinds
from attention.torch_impl.kernels.blockwise.lines import lines

MERGE = 2.0
"""To compute a row in two pieces and merge them is worth while where it saves masks on this many times what needs them."""


@dataclass(frozen=True)
class Piece:
    """Rectangles of the scores that one call computes.

    Attributes:
        kind: FULL, TRIANGLE or PARTIAL; those of `count` > 1 have one mask.
        t: the first query.
        queries: how many.
        s: the first key.
        keys: how many.
        count: how many rectangles.
        step: queries and keys from one to the next.
        first: no piece before it has any of its queries, so that it need not be merged.
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
    """Batch rows and heads that share their pieces.

    Attributes:
        rows: the first row, counted through all batch axes, and one past the last.
        heads: the first key/value head and one past the last.
        row: the index at which to ask for a piece's mask; None: of all rows at once.
        pieces: in the order in which they are computed.
        complete: every query is in a piece that is the first to have it; else some see nothing, and begin as that.
        alone: no two pieces have a query in common.
    """

    rows: tuple[int, int]
    heads: tuple[int, int]
    row: Row | None
    pieces: tuple[Piece, ...]
    complete: bool
    alone: bool


Plan = tuple[Part, ...]


def plan(mask: Mask | None, sizes: Sizes, tile: int, *, known: bool = True) -> Plan:
    """Return the pieces of a checked mask.

    Args:
        mask: its arrays are NumPy's, or anything where they are not `known`; None allows everything.
        sizes: of the call.
        tile: the longest side of a cell that is looked at as one.
        known: whether to read the mask's arrays; else what depends on them is PARTIAL.
    """
    rows = prod(sizes.batch)
    if 0 in (rows, sizes.T, sizes.S, sizes.K):
        return ()
    if mask is None:
        return (_part((0, rows), (0, sizes.K), None, [Piece(FULL, 0, sizes.T, 0, sizes.S)], sizes.T),)
    if mask.is_static:
        return _remembered(mask, sizes, tile)
    return tuple(_joined(_parts(mask, sizes, tile, known), known))


@lru_cache(maxsize=256)
def _remembered(mask: Mask, sizes: Sizes, tile: int) -> Plan:
    return tuple(_joined(_parts(mask, sizes, tile, known=True), known=True))


def _parts(mask: Mask, sizes: Sizes, tile: int, known: bool) -> Iterator[tuple[Row, Part]]:
    """Yield each part, of one row or of all, and what tells its rows from others."""
    told = schedule(mask, sizes, (sizes.T, sizes.S), known=known).kinds.shape[:-3]
    alike = all(n == 1 for n in told)
    made: dict[Row, list[Part]] = {}
    for i, row in enumerate(np.ndindex(*((1,) * len(told) if alike else sizes.batch))):
        own = tuple(min(index, n - 1) for index, n in zip(row, told, strict=True))
        if own not in made:
            made[own] = list(_of_row(mask, sizes, tile, row, known))
        for part in made[own]:
            yield own, replace(part, rows=(0, prod(sizes.batch)) if alike else (i, i + 1), row=None if alike else row)


def _joined(parts: Iterator[tuple[Row, Part]], known: bool) -> Iterator[Part]:
    """Yield the parts, those of neighbouring rows as one where their pieces, and masks, are the same."""
    kept: list[tuple[Row, Part]] = []
    for own, part in parts:
        at = next((i for i, (_, last) in enumerate(kept) if (last.rows[1], last.heads) == (part.rows[0], part.heads)), None)
        if at is not None and kept[at][1].pieces == part.pieces:
            masks = any(piece.kind == PARTIAL for piece in part.pieces)
            if not masks or (known and kept[at][0] == own):
                kept[at] = (own, replace(kept[at][1], rows=(kept[at][1].rows[0], part.rows[1])))
                continue
        kept.append((own, part))
    return (part for _, part in kept)


def _of_row(mask: Mask, sizes: Sizes, tile: int, row: Row, known: bool) -> Iterator[Part]:
    """Yield a part for each run of key/value heads that have the same cells."""
    edges = lines(mask, sizes, tile, row, known=known)
    kind = kinds(mask, sizes, edges, row, known=known)
    if kind.shape[0] > 1:
        grouped = kind.reshape(sizes.K, sizes.group, *kind.shape[1:])
        most = grouped.max(1)
        kind = np.where(grouped.min(1) == most, most, PARTIAL)
    moves = slides(mask)
    for _, heads in groupby(range(kind.shape[0]), lambda h: kind[h].tobytes()):
        first, *rest = heads
        end = sizes.K if kind.shape[0] == 1 else first + len(rest) + 1
        pieces = list(_batched(_cover(kind[first], edges), moves))
        yield _part((0, 0), (first, end), None, pieces, sizes.T)


def _part(rows: tuple[int, int], heads: tuple[int, int], row: Row | None, pieces: list[Piece], T: int) -> Part:
    """Return a part, the largest of its pieces first."""
    seen, begun = np.zeros(T, bool), np.zeros(T, bool)
    marked: list[Piece] = []
    for piece in sorted(pieces, key=lambda p: -p.queries * p.count):
        at = (piece.t + piece.step[0] * np.arange(piece.count)[:, None] + np.arange(piece.queries)).ravel()
        marked.append(replace(piece, first=not seen[at].any()))
        seen[at] = True
        begun[at] |= marked[-1].first
    return Part(rows, heads, row, tuple(marked), bool(begun.all()), all(piece.first for piece in marked))


def is_masked(plan: Plan) -> bool:
    """Return whether a piece needs its mask, under which tokens are read that nobody may see."""
    return any(piece.kind == PARTIAL for part in plan for piece in part.pieces)


def repeated(plan: Plan, n: int, batch: Row) -> Plan:
    """Return the plan of n calls in one, whose batch axes are `(n, *batch)`."""
    rows = prod(batch)
    if all(part.rows == (0, rows) for part in plan):
        return tuple(replace(part, rows=(0, n * rows)) for part in plan)
    return tuple(replace(part, rows=(i * rows + part.rows[0], i * rows + part.rows[1])) for i in range(n) for part in plan)


def slides(mask: Mask) -> bool:
    """Return whether the mask depends on s - t alone, so that one tile of it serves all along a diagonal."""
    if isinstance(mask, (Causal, Window)):
        return mask.query_positions is None
    return isinstance(mask, (And, Or, Not)) and all(slides(part) for part in mask.inside)


def _cover(kind: Any, edges: Lines) -> Iterator[Piece]:
    """Yield the pieces of cells `(cells of T, cells of S)`."""
    left, (t, s) = kind.copy(), edges
    widths = np.diff(s)

    def take(kind: int, i: tuple[int, int], j: tuple[int, int]) -> Piece:
        left[slice(*i), slice(*j)] = EMPTY
        (t0, t1), (s0, s1) = t[list(i)].tolist(), s[list(j)].tolist()
        return Piece(kind, t0, t1 - t0, s0, s1 - s0)

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
    """Return how many cells a triangle reaches down the diagonal: full below it, empty above, its rows beginning alike."""
    begins = (kind != EMPTY).argmax(1)
    for n in range(1, min(kind.shape[0] - i, kind.shape[1] - j)):
        below, above = kind[i + n, j : j + n], kind[i : i + n, j + n]
        if kind[i + n, j + n] != TRIANGLE or (below != FULL).any() or (above != EMPTY).any() or begins[i + n] != begins[i]:
            return n
    return min(kind.shape[0] - i, kind.shape[1] - j)


def _deep(kind: Any, i: int, j: tuple[int, int]) -> int:
    """Return how many rows from i have exactly this run of full cells."""
    # What stands beside the run, or a wall.
    wide = np.pad(kind[i:] == FULL, ((0, 0), (1, 1)))[:, j[0] : j[1] + 2]
    same = (wide == wide[0]).all(1)
    return len(same) if same.all() else int(same.argmin())


def _runs(flags: Any) -> list[tuple[int, int]]:
    """Return where each run of True begins and ends."""
    at = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]))).tolist()
    return list(zip(at[::2], at[1::2], strict=True))


def _batched(pieces: Iterator[Piece], moves: bool) -> Iterator[Piece]:
    """Yield the pieces, those of one shape and a constant step apart as one."""
    chain: list[Piece] = []
    for piece in [*sorted(pieces, key=lambda p: (p.kind, p.queries, p.keys, p.t, p.s)), None]:
        if piece and _follows(chain, piece, moves):
            chain.append(piece)
            continue
        if chain:
            yield replace(chain[0], count=len(chain), step=_step(*chain[:2]) if len(chain) > 1 else (0, 0))
        chain = [piece] if piece else []


def _follows(chain: list[Piece], piece: Piece, moves: bool) -> bool:
    if not chain or (chain[-1].kind, chain[-1].queries, chain[-1].keys) != (piece.kind, piece.queries, piece.keys):
        return False
    t, s = _step(chain[-1], piece)
    even = all(_step(a, b) == (t, s) for a, b in pairwise(chain[:2]))
    return even and t >= piece.queries and s > 0 and (piece.kind != PARTIAL or (moves and t == s))


def _step(one: Piece, other: Piece) -> tuple[int, int]:
    return other.t - one.t, other.s - one.s
