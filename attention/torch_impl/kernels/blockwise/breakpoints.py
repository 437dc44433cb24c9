"""Breakpoints of a mask: the boundaries of its tiles along queries and keys.

breakpoints of the keys    = ends of documents, paddings, prefixes and chunks, and steps of at most a tile between them
breakpoints of the queries = breakpoints of the keys - offset        query t is at key t + offset: diagonals cross corners
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from attention.spec.axes import Array, Sizes
from attention.spec.masks import Aligned, Chunked, Lengths, PerRow, Placed, Prefix, Segments
from attention.spec.masks.algebra import Mask
from attention.torch_impl.kernels.blockwise.tile_grid import Breakpoints, Row, at_row, rises

FINEST = 8
"""Breakpoints closer than a tile divided by this are dropped: one partial tile costs less than many small ones."""
MOST = 1024
"""The most tiles along an axis; longer axes get larger tiles."""


def breakpoints(mask: Mask, sizes: Sizes, tile: int, row: Row, *, known: bool = True) -> Breakpoints:
    """Return the breakpoints of queries and keys: increasing integers from 0 to T and from 0 to S.

    Args:
        mask: checked; its arrays are NumPy's, or of any kind unless `known`.
        sizes: of the call.
        tile: the longest side of a tile.
        row: the batch row.
        known: whether to read the mask's arrays.
    """
    tile = max(tile, -(-max(sizes.T, sizes.S) // MOST))
    offset = next(_offsets(mask, sizes, row, known), 0)
    end = max(sizes.S, sizes.T + offset)
    named = [np.asarray(x).ravel() for x in _ends(mask, sizes, offset, row, known)]
    cuts = sorted({0, offset, sizes.S, sizes.T + offset, *(int(n) for x in named for n in x)})
    stops = [cuts[0]]
    for cut in cuts[1:]:
        # The end is always a breakpoint.
        if cut - stops[-1] >= max(1, tile // FINEST) or cut == end:
            stops.append(cut)
    every = np.concatenate([*(np.arange(a, b, tile) for a, b in pairwise(stops)), [end]])
    return _clipped(every - offset, sizes.T), _clipped(every, sizes.S)


def _clipped(at: Any, n: int) -> Any:
    return np.concatenate([[0], at[(at > 0) & (at < n)], [n]])


def _offsets(mask: Mask, sizes: Sizes, row: Row, known: bool) -> Iterator[int]:
    """Yield the key position of query 0 in each aligned mask."""
    if isinstance(mask, Aligned):
        if mask.query_positions is None:
            yield sizes.S - sizes.T if mask.align == "end" else 0
        elif known and rises(at := at_row(mask.query_positions, row, 1)):
            yield int(np.clip(at[0], -sizes.T, sizes.S))
    for part in _parts(mask, row):
        yield from _offsets(part, sizes, row, known)


def _ends(mask: Mask, sizes: Sizes, offset: int, row: Row, known: bool) -> Iterator[Array]:
    """Yield the boundaries of a mask along the keys."""
    if isinstance(mask, Chunked) and mask.query_positions is None:
        own = sizes.S - sizes.T if mask.align == "end" else 0
        chunks = np.arange(0, max(sizes.S, sizes.T + own), mask.size)
        yield chunks
        yield chunks - own + offset
    elif isinstance(mask, Prefix) and (known or not mask.by_row):
        yield at_row(mask.length, row, 0) if mask.by_row else mask.length
    elif known and isinstance(mask, Lengths):
        left = mask.padding == "left"
        kv = at_row(mask.kv, row, 0)
        yield sizes.S - kv if left else kv
        if mask.q is not None:
            q = at_row(mask.q, row, 0)
            yield (sizes.T - q if left else q) + offset
    elif known and isinstance(mask, Segments):
        yield _changes(at_row(mask.kv, row, 1))
        if mask.q is not None:
            yield _changes(at_row(mask.q, row, 1)) + offset
    for part in _parts(mask, row):
        yield from _ends(part, sizes, offset, row, known)


def _parts(mask: Mask, row: Row) -> tuple[Mask, ...]:
    """Return the masks inside a mask whose axes are the call's own."""
    if isinstance(mask, PerRow):
        return (mask.masks[row[-1]],)
    return () if isinstance(mask, Placed) else mask.inside


def _changes(ids: Any) -> Any:
    return np.flatnonzero(np.diff(ids)) + 1
