"""Lower a mask to the least that a fused kernel needs: a box of queries and keys, a causal flag, or a small dense mask.

    lower(Causal(), T = S)                     = is_causal
    lower(Causal(align="end"), T = 1)          = nothing
    lower(Lengths(kv=[n, n]))                  = nothing, on the keys [0, n)
    lower(Lengths(kv=[n, m]))                  = s < [n, m], which has no axis T, on the keys [0, max(n, m))
    lower(Causal() & Lengths(kv=n, q=n))       = is_causal, and zeros for the rows from n on
    lower(anything else)                       = allowed[b, h, t, s], axes of 1 left as they are

Structure alone decides if values are unknown: in a compiler, under vmap, or if a look would wait for an accelerator.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import array_api_compat.torch as xp
import numpy as np
import torch
from torch import Tensor

from attention.spec.axes import Sizes
from attention.spec.kernels import Request
from attention.spec.masks.algebra import And, Mask
from attention.spec.masks.aligned import Causal, Window
from attention.spec.masks.padding import Lengths
from attention.spec.masks.tile import Tile
from attention.torch_impl.kernels.mask_bounds import Box, bounding
from attention.torch_impl.kernels.mask_regions import RECTANGLE, TRIANGLE, shape
from attention.torch_impl.masks import allowed, read


@dataclass(slots=True, eq=False)
class Lowering:
    """A lowered mask.

    Attributes:
        box: queries outside it attend to nothing, and no query attends to keys outside it.
        diagonal: TRIANGLE or TRAPEZOID if the mask is just that; else None.
        mask: bool, broadcastable to `(*batch, H, T, S)` of the box, with no empty row; None allows everything.
        rows: bool, broadcastable to `(*batch, H, T, 1)` of the box: False for empty rows; None if there are none.
        zero_masked: whether the box holds masked tokens, which must be zeroed.
    """

    box: Box
    diagonal: str | None = None
    mask: Tensor | None = None
    rows: Tensor | None = None
    zero_masked: bool = False


def lower(request: Request, diagonals: tuple[str, ...]) -> Lowering:
    """Return the lowered mask of a request, for a kernel with causal flags for these diagonals."""
    mask, of = request.mask, request.sizes
    box = Box(0, of.T, 0, of.S)
    if mask is None:
        return Lowering(box)
    # Training and decoding need the shapes alone.
    if of.T == of.S and TRIANGLE in diagonals and _looks_back(mask):
        return Lowering(box, TRIANGLE)
    if of.T == 1 and of.S and isinstance(mask, Causal) and mask.align == "end":
        return Lowering(box)
    counts, rest = _parted(mask)
    if torch.compiler.is_compiling() or 0 in of.scores:
        # Sizes may be symbolic in a compiler, and a comparison would add a guard.
        return _masked(rest, request, box, _rows(counts, of, box, request.q.device))
    if request.needs_zero_masking:
        inner = box & bounding(mask, of.T, of.S, read)
        box = box if inner.is_empty else inner
    exist = _existing(counts, of, box) if counts else None
    found = shape(rest, of.T, of.S, box, read, exist)
    rows = None if exist is not None and _fills(exist, box) else _rows(counts, of, box, request.q.device)
    if found == RECTANGLE or found in diagonals:
        return Lowering(box, None if found == RECTANGLE else found, None, rows, zero_masked=rows is not None)
    return _masked(rest, request, box, rows)


def _masked(mask: Mask, request: Request, box: Box, rows: Tensor | None) -> Lowering:
    """Return the lowering of a mask as a dense array; `rows` are False for queries that do not exist."""
    of, device = request.sizes, request.q.device
    whole = box == Box(0, of.T, 0, of.S)
    dense = allowed(mask, of, device) if whole else mask.allowed(_tile(of, box, device))
    assert dense is not None  # noqa: S101 - there is a mask
    if not request.needs_zero_masking:
        return Lowering(box, None, dense, rows)
    seen = dense.any(-1, keepdim=True)
    every = read(seen)
    if every is None or not every.all():
        # An empty row is computed with all keys, which is finite, and set to zero afterwards.
        dense = dense | ~seen
        seen = seen if seen.ndim > 1 else seen[None]
        rows = seen if rows is None else rows & seen
    return Lowering(box, None, dense, rows, zero_masked=True)


def _tile(of: Sizes, box: Box, device: torch.device) -> Tile:
    return Tile.at(xp, of, (box.t0, box.t1), (box.s0, box.s1), device=device)


def _looks_back(mask: Mask) -> bool:
    """Return whether a mask is causal by structure alone if T = S."""
    if isinstance(mask, And):
        return _looks_back(mask.left) and _looks_back(mask.right)
    if isinstance(mask, Window) and (mask.before is not None or mask.after != 0):
        return False
    return isinstance(mask, (Causal, Window)) and mask.query_positions is None


def _parted(mask: Mask) -> tuple[list[Lengths], Mask]:
    """Return the `Lengths` that count queries, and the mask without those counts."""
    if isinstance(mask, Lengths) and mask.q is not None:
        return [mask], replace(mask, q=None)
    if not isinstance(mask, And):
        return [], mask
    (left, first), (right, second) = _parted(mask.left), _parted(mask.right)
    return left + right, And(first, second) if left or right else mask


def _existing(counts: list[Lengths], of: Sizes, box: Box) -> tuple[Any, Any] | None:
    """Return the first and the last of the queries that exist, integers `(*batch,)`, or None if unknown."""
    first, last = box.t0, box.t1 - 1
    for count in counts:
        known, left = read(count.q), count.padding == "left"
        if known is None:
            return None
        first = np.maximum(first, of.T - known) if left else first
        last = last if left else np.minimum(last, known - 1)
    return first, last


def _fills(exist: tuple[Any, Any], box: Box) -> bool:
    return bool(np.all(exist[0] == box.t0) and np.all(exist[1] == box.t1 - 1))


def _rows(counts: list[Lengths], of: Sizes, box: Box, device: torch.device) -> Tensor | None:
    """Return which queries of a box exist, bool `(*batch, 1, T, 1)`, or None if all exist."""
    if not counts:
        return None
    t = torch.arange(box.t0, box.t1, device=device)[:, None]
    rows: Any = True
    for count in counts:
        q = count.q[..., None, None, None]
        rows = rows & (t >= of.T - q if count.padding == "left" else t < q)
    return rows
