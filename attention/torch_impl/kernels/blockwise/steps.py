"""Steps of a blockwise call: one kernel call per block or part of a block, with views of the arrays, mask and dropout."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attention.spec.axes import COMPUTE, Array, Sizes, dtype_name
from attention.spec.masks.algebra import Mask
from attention.spec.random import keep_threshold
from attention.torch_impl import random
from attention.torch_impl.kernels.blockwise.plan import Block, Part, Plan
from attention.torch_impl.kernels.blockwise.products import Rule
from attention.torch_impl.kernels.blockwise.views import Index, Masks, calls, divided, keys, queries, spread

HELD = 2**26
"""Bytes of dropout masks that a call keeps for its backward pass; others are drawn again."""


@dataclass(frozen=True, eq=False)
class Call:
    """A call without its arrays.

    Attributes:
        plan: of the mask.
        mask: with tensors, or None.
        sizes: of the call.
        rule: scale, soft cap and dropout rate.
        seed: of dropout.
        rows: batch rows after which dropout masks repeat.
        fused: whether torch's fused kernel supports the call.
        most: approximate number of scores per kernel call if a block is divided.
        side: the longest side of a rectangle of plain products.
        kept: dropout masks by block, for the backward pass.
    """

    plan: Plan
    mask: Mask | None
    sizes: Sizes
    rule: Rule
    seed: Array
    rows: int
    fused: bool
    most: int
    side: int
    kept: dict[Hashable, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """One kernel call: views of the arrays."""

    part: Part
    block: Block
    index: Index
    added: Tensor | None
    empty: Tensor | None
    keep: Tensor | None

    def of_queries(self, x: Tensor) -> Tensor:
        return queries(x, self.part, self.block)[self.index]

    def of_keys(self, x: Tensor, q: Tensor | None = None) -> Tensor:
        """Return the keys, expanded to the query heads of their group if `q` is given."""
        x = keys(x, self.part, self.block)
        if q is not None:
            return x[self.index] if len(self.index) == 1 else spread(x, queries(q, self.part, self.block))[self.index]
        return x[(*self.index[:3], 0) if len(self.index) == 4 else self.index]

    @property
    def repeats(self) -> int:
        """The axis of the repetitions of a repeated block."""
        return 1 if len(self.index) == 1 else 0


def steps(call: Call, q: Tensor, bias: Tensor | None, fused: bool) -> Iterator[Step]:
    """Yield the kernel calls in order, for the fused kernel or for plain products."""
    masks = Masks(call.mask, call.sizes, bias)
    dtype = getattr(torch, COMPUTE[dtype_name(q)])
    for part in call.plan:
        heads = (part.rows[1] - part.rows[0]) * (part.heads[1] - part.heads[0]) * q.shape[3]
        for whole in part.blocks:
            shown: tuple[int, ...] | None = None
            added, empty = None, None
            for block in _divided(call, whole, heads, bias is None, None if fused else call.side):
                view = queries(q, part, block)
                # The mask of a repeated block depends only on the distance of its keys from its queries.
                place = (block.kind, block.queries, block.keys, block.s - block.t)
                if place != shown or whole.count == 1 or bias is not None:
                    added = masks.added(part, block, view, dtype, triangle=not fused or bias is not None)
                    # Computed before the mask is expanded over heads and repetitions.
                    empty = None if added is None else (added == -torch.inf).all(-1)
                    shown = place
                for index in calls(view) if fused else ((...,),):
                    mask, rows = (x if x is None or not fused else spread(x, view)[index] for x in (added, empty))
                    yield Step(part, block, index, mask, rows, None if fused else _keep(call, part, block, q))


def _divided(call: Call, block: Block, heads: int, repeats: bool, side: int | None) -> Iterator[Block]:
    """Yield a block divided into kernel calls; with a bias no block is repeated."""
    for one in divided(block, heads, call.most if repeats else 1, side):
        if side is None or one.count > 1 or heads * one.queries * one.keys <= call.most:
            yield one
        else:
            # More heads, smaller squares.
            yield from divided(one, heads, call.most, max(16, int((call.most / heads) ** 0.5)))


def _keep(call: Call, part: Part, block: Block, q: Tensor) -> Tensor | None:
    """Return which weights dropout keeps, `(R, count, K, G, queries, keys)`, from their indices in the whole scores."""
    if not call.rule.rate:
        return None
    held = (part.rows, part.heads, block.t, block.s, block.queries, block.keys, block.count, block.step)
    if held in call.kept:
        return call.kept[held]
    of, device = call.sizes, q.device
    b, k, g, n = (torch.arange(*at, device=device) for at in (part.rows, part.heads, (0, of.group), (0, block.count)))
    t, s = (torch.arange(size, device=device) for size in (block.queries, block.keys))
    t = block.t + n[:, None] * block.step[0] + t  # (count, queries)
    s = block.s + n[:, None] * block.step[1] + s
    head = (b % call.rows)[:, None, None] * of.H + k[:, None] * of.group + g  # (R, K, G)
    row = (head[:, None, :, :, None] * of.T + t[:, None, None]) * of.S
    # Modulo 2^32: the generator uses the low 32 bits of an index.
    at = row[..., None].to(torch.int32) + s[:, None, None, None].to(torch.int32)
    made = random.below(random.key(call.seed, device), keep_threshold(call.rule.rate), at)
    # The backward pass needs it again, and drawing costs more than the products.
    if sum(x.numel() for x in call.kept.values()) + made.numel() <= HELD:
        call.kept[held] = made
    return made
