"""Views of the queries, keys, bias and mask of a block as a kernel takes them, `(batch, heads, length, width)`, uncopied.

    q[r, i, k, g, t] = query[r, t0 + i * step + t, k, g]      k[r, i, k, 0, s] = key[r, s0 + i * step + s, k]

Windows overlap, so their keys are strided views in which a key appears more than once; the query heads of a group share
keys through an axis of stride 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import array_api_compat.torch as xp
import torch
from torch import Tensor

from attention.spec.axes import Sizes
from attention.spec.masks.algebra import Mask
from attention.spec.masks.tile_schedule import FULL, PARTIAL
from attention.torch_impl.kernels.blockwise.plan import Block, Part
from attention.torch_impl.kernels.blockwise.tile_grid import TRIANGLE, Region

Index = tuple[Any, ...]
"""An index into rows, repetitions, key/value heads and heads of a group that leaves two of the four axes."""


def strips(x: Tensor, t: int, size: int, count: int, step: int) -> Tensor:
    """Return `(rows, count, size, ...)`, a view of `count` ranges of the second axis of `x`."""
    if count == 1:
        return x[:, t : t + size].unsqueeze(1)
    rows, along, *rest = x.stride()
    shape = (x.shape[0], count, size, *x.shape[2:])
    return x.as_strided(shape, (rows, step * along, along, *rest), x.storage_offset() + t * along)


def queries(x: Tensor, part: Part, block: Block) -> Tensor:
    """Return `(R, count, K, G, queries, *width)` of `(B, T, K, G, *width)`."""
    x = x[slice(*part.rows), :, slice(*part.heads)]
    return strips(x, block.t, block.queries, block.count, block.step[0]).movedim(2, 4)


def keys(x: Tensor, part: Part, block: Block) -> Tensor:
    """Return `(R, count, K, 1, keys, width)` of `(B, S, K, width)`."""
    x = x[slice(*part.rows), :, slice(*part.heads)]
    return strips(x, block.s, block.keys, block.count, block.step[1]).movedim(2, 3).unsqueeze(3)


def calls(q: Tensor) -> Iterator[Index]:
    """Yield the indices under which `(R, count, K, G, ...)` becomes `(batch, heads, ...)`, one for each call of a kernel."""
    rows, count, _, group = q.shape[:4]
    every = slice(None)
    if count == 1 and group == 1:
        yield every, 0, every, 0
        return
    for r in range(rows):
        if count == 1:
            yield r, 0
        else:
            yield from ((r, every, every, g) for g in range(group))


def spread(x: Tensor, q: Tensor) -> Tensor:
    """Return `x` `(1 or R, 1 or count, 1 or K, 1 or G, ...)` with the first four axes of `q`, as a view."""
    return x.expand(*q.shape[:4], *x.shape[4:])


def divided(block: Block, heads: int, most: int, side: int | None) -> Iterator[Block]:
    """Yield the block divided into blocks of at most about `most` scores for all heads.

    Args:
        block: of any kind.
        heads: rows times heads.
        most: scores.
        side: the longest side of a rectangle; None leaves unrepeated blocks whole.
    """
    if block.count > 1:
        count = max(1, most // (heads * block.queries * block.keys))
        if count > 1 or side is None or max(block.queries, block.keys) <= side:
            for i in range(0, block.count, count):
                yield replace(_moved(block, i), count=min(count, block.count - i))
        else:
            for i in range(block.count):
                yield from divided(replace(_moved(block, i), count=1), heads, most, side)
    elif side is None or max(block.queries, block.keys) <= side:
        yield block
    else:
        for t in range(block.t, block.t + block.queries, side):
            yield from _row(replace(block, t=t, queries=min(side, block.t + block.queries - t)), t - block.t, side)


def _row(block: Block, down: int, side: int) -> Iterator[Block]:
    """Yield the squares of one row of a block, `down` queries below its top."""
    end = block.s + (down if block.kind == TRIANGLE else block.keys)
    kind = FULL if block.kind == TRIANGLE else block.kind
    for s in range(block.s, end, side):
        yield replace(block, kind=kind, s=s, keys=min(side, end - s), first=block.first and s == block.s)
    if block.kind == TRIANGLE:
        yield replace(block, s=end, keys=block.queries, first=block.first and not down)


def _moved(block: Block, i: int) -> Block:
    return replace(block, t=block.t + i * block.step[0], s=block.s + i * block.step[1])


@dataclass(frozen=True)
class Masks:
    """The addend of the scores of a block: the bias, and -inf where the mask forbids.

    Attributes:
        mask: with tensors, or None.
        sizes: of the call.
        bias: `(1 or B, 1 or T, 1 or K, 1 or G, 1 or S)`, or None.
    """

    mask: Mask | None
    sizes: Sizes
    bias: Tensor | None

    def added(self, part: Part, block: Block, q: Tensor, dtype: torch.dtype, *, triangle: bool) -> Tensor | None:
        """Return `(1 or R, 1 or count, 1 or K, 1 or G, queries, keys)`, or None for nothing.

        Args:
            part: the rows and heads.
            block: of one kind.
            q: the queries of the block, for the device.
            dtype: its type.
            triangle: whether a TRIANGLE needs a mask.
        """
        bias = None if self.bias is None else biases(self.bias, part, block).to(dtype)
        if block.kind == PARTIAL:
            allowed = self._allowed(part, block, q.device)
        elif block.kind == TRIANGLE and triangle:
            allowed = torch.ones(block.queries, block.keys, dtype=torch.bool, device=q.device).tril()
        else:
            return bias
        if bias is not None:
            return torch.where(allowed, bias, -torch.inf)
        made = torch.full(allowed.shape, -torch.inf, dtype=dtype, device=q.device).masked_fill_(allowed, 0.0)
        return made[(None,) * (6 - made.ndim) + (...,)]

    def _allowed(self, part: Part, block: Block, device: torch.device) -> Tensor:
        """Return the exact mask, `(1 or R, 1, 1 or K, 1 or G, queries, keys)`; repetitions share one."""
        of, (t, s) = self.sizes, ((block.t, block.t + block.queries), (block.s, block.s + block.keys))
        if self.mask is None:
            raise RuntimeError("a block is partial although there is no mask")
        at = (torch.arange(*t, device=device)[:, None], torch.arange(*s, device=device))
        allowed = self.mask.allowed(Region(*at, of.T, of.S, xp=xp, queries=t, keys=s, row=part.row))
        allowed = allowed[(None,) * (len(of.batch) + 3 - allowed.ndim) + (...,)]
        *batch, heads, n, m = allowed.shape
        n, m = block.queries, block.keys
        rows = of.batch if any(size > 1 for size in batch) else batch
        allowed = allowed.expand(*rows, heads, n, m).reshape(-1, heads, n, m)
        if allowed.shape[0] > 1:
            allowed = allowed[slice(*part.rows)]
        grouped = allowed.unflatten(1, (of.K, of.group))[:, slice(*part.heads)] if heads > 1 else allowed.unsqueeze(1)
        return grouped.unsqueeze(1)


def biases(x: Tensor, part: Part, block: Block) -> Tensor:
    """Return `(1 or R, 1, 1 or K, 1 or G, 1 or queries, 1 or keys)` of `(1 or B, 1 or T, 1 or K, 1 or G, 1 or S)`: a view."""
    ranges = (part.rows, (block.t, block.t + block.queries), part.heads, (0, x.shape[3]), (block.s, block.s + block.keys))
    own = x[tuple(slice(None) if n == 1 else slice(*at) for n, at in zip(x.shape, ranges, strict=True))]
    return own.movedim(1, 3).unsqueeze(1)
