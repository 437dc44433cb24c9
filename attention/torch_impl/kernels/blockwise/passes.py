"""Forward and backward passes: the blocks of a plan one after another, merged by logsumexp.

    lse = log(exp lse1 + exp lse2)        out = exp(lse1 - lse) out1 + exp(lse2 - lse) out2        exact, in any order
    a sink adds exp(sink) to the sum and nothing to out
    backward: each block with the out and lse of the whole row; gradients are summed

Memory beyond inputs and outputs is that of one block, independent of T * S, and a bounded part of dropout's mask.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attention.spec.axes import COMPUTE, Array, Sizes, dtype_name
from attention.spec.masks.algebra import Mask
from attention.spec.random import keep_threshold
from attention.torch_impl import random
from attention.torch_impl.kernels.blockwise import flash, products
from attention.torch_impl.kernels.blockwise.plan import Block, Part, Plan
from attention.torch_impl.kernels.blockwise.products import Rule, finite
from attention.torch_impl.kernels.blockwise.tile_grid import TRIANGLE
from attention.torch_impl.kernels.blockwise.views import Index, Masks, biases, calls, divided, keys, queries, spread

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


def forward(call: Call, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, sinks: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the context `(B, T, K, G, E)` and logsumexp `(B, T, K, G)`.

    Args:
        call: what to compute.
        q: `(B, T, K, G, D)`.
        k: `(B, S, K, D)`.
        v: `(B, S, K, E)`.
        bias: `(1 or B, 1 or T, 1 or K, 1 or G, 1 or S)`, or None.
        sinks: `(1 or B, 1, K, G)`, or None.
    """
    compute = getattr(torch, COMPUTE[dtype_name(q)])
    kept = all(part.alone for part in call.plan) and sinks is None
    out = q.new_empty((*q.shape[:-1], v.shape[-1]), dtype=q.dtype if kept else compute)
    lse = q.new_empty(q.shape[:-1], dtype=compute)
    _blank(call.plan, (out, 0.0), (lse, -torch.inf))
    q, k, v = flash.readable(q, k, v)
    for step in steps(call, q, bias, call.fused):
        q1, k1, v1 = step.of_queries(q), step.of_keys(k, q), step.of_keys(v, q)
        # Merged halves in half precision would be rounded once more than a row computed at once.
        if not call.fused or not step.part.alone:
            q1, k1, v1 = (x.to(compute) for x in (q1, k1, v1))
        if call.fused:
            out1, lse1 = flash.forward(q1, k1, v1, call.rule.scale, step.added, _triangle(step, bias))
            lse1 = lse1 if step.empty is None else lse1.masked_fill(step.empty, -torch.inf)
        else:
            out1, lse1 = products.forward(call.rule, q1, k1, v1, step.added, step.keep)
        _merge(step.of_queries(out), step.of_queries(lse), out1, lse1, first=step.block.first)
    if sinks is not None:
        total = torch.logaddexp(lse, sinks.to(compute))
        _ = out.mul_((lse - finite(total)).exp_().unsqueeze(-1))
        lse = total
    return out.to(q.dtype), lse


def _triangle(step: Step, bias: Tensor | None) -> bool:
    """Return whether the fused kernel applies the causal mask itself."""
    return step.block.kind == TRIANGLE and bias is None


def _blank(plan: Plan, *filled: tuple[Tensor, float]) -> None:
    """Fill the rows and heads of incomplete parts, which no block may write."""
    for x, value in filled:
        if not plan:
            _ = x.fill_(value)
        for part in plan:
            if not part.complete:
                _ = x[slice(*part.rows), :, slice(*part.heads)].fill_(value)


def _merge(out: Tensor, lse: Tensor, out1: Tensor, lse1: Tensor, *, first: bool) -> None:
    """Merge one more block into its rows."""
    if first:
        _ = out.copy_(out1), lse.copy_(lse1)
        return
    both = torch.logaddexp(lse, lse1)
    least = finite(both)
    _ = out.mul_((lse - least).exp_().unsqueeze(-1)).addcmul_(out1, (lse1 - least).exp_().unsqueeze(-1))
    _ = lse.copy_(both)


def backward(
    call: Call,
    given: tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None],
    made: tuple[Tensor, Tensor],
    grads: tuple[Tensor | None, Tensor | None],
    wants_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return the gradients of the inputs of `forward`.

    Args:
        call: as there.
        given: q, k, v, bias and sinks.
        made: the context and logsumexp.
        grads: gradients of both; None for 0.
        wants_bias: whether the gradient of the bias is wanted.
    """
    (*qkv, bias, sinks), (out, lse), (g, g_lse) = given, made, grads
    q, k, v = flash.readable(*qkv)
    compute = getattr(torch, COMPUTE[dtype_name(q)])
    # The gradient of an empty row is replaced, not multiplied, by 0: 0 * NaN is NaN.
    empty = lse == -torch.inf
    g = torch.zeros_like(out) if g is None else g.masked_fill(empty.unsqueeze(-1), 0.0).contiguous()
    g_lse = None if g_lse is None else g_lse.masked_fill(empty, 0.0)
    fused = call.fused and g_lse is None and not wants_bias
    delta = torch.zeros_like(lse)
    if not fused or sinks is not None:
        delta = (g.to(compute) * out.to(compute)).sum(-1)
        delta = delta if g_lse is None else delta - g_lse
    dq = torch.empty(q.shape, dtype=compute, device=q.device)
    _blank(call.plan, (dq, 0.0))
    dk, dv = (torch.zeros(x.shape, dtype=compute, device=q.device) for x in (k, v))
    dbias = torch.zeros(bias.shape, dtype=compute, device=q.device) if bias is not None and wants_bias else None
    rows = (g, out, finite(lse), delta)
    for step in steps(call, q, bias, fused):
        dq1, dk1, dv1, d_added = _slopes(call, step, (q, k, v), rows, fused, triangle=_triangle(step, bias))
        _ = step.of_queries(dq).copy_(dq1) if step.block.first else step.of_queries(dq).add_(dq1)
        _add_keys(step, dk, dk1)
        _add_keys(step, dv, dv1)
        if dbias is not None and d_added is not None:
            own = biases(dbias, step.part, step.block)
            _ = own.add_(d_added.sum_to_size(own.shape))
    # The loss keeps this call alive, so its masks are dropped; a second backward pass draws them again.
    call.kept.clear()
    # The sink's weight times delta.
    taken = None if sinks is None else (sinks.to(compute) - finite(lse)).exp() * delta
    dsinks = None if sinks is None or taken is None else -taken.sum_to_size(sinks.shape).to(sinks.dtype)
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), dbias, dsinks


def _slopes(
    call: Call, step: Step, qkv: tuple[Tensor, ...], rows: tuple[Tensor, ...], fused: bool, triangle: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return the gradients of a block's q, k and v, and of `added` if computed by plain products."""
    q, k, v = step.of_queries(qkv[0]), step.of_keys(qkv[1], qkv[0]), step.of_keys(qkv[2], qkv[0])
    g, out, lse, delta = (step.of_queries(x) for x in rows)
    # The fused kernel sums the gradients of a key in the dtype of the inputs: one block, few terms.
    if not fused or sum(block.count for block in step.part.blocks) > 1:
        q, k, v, g, out = (x.to(lse.dtype) for x in (q, k, v, g, out))
    if fused:
        return *flash.backward(g, q, k, v, out, lse, call.rule.scale, step.added, triangle), None
    return products.backward(call.rule, g, q, k, v, delta, lse, step.added, step.keep)


def _add_keys(step: Step, total: Tensor, part: Tensor) -> None:
    """Add the gradient of a block's keys; overlapping repetitions of a window are added one after another."""
    own = step.of_keys(total)
    part = part.to(total.dtype).sum_to_size(own.shape)
    apart = 1 if step.block.count == 1 else -(-step.block.keys // step.block.step[1])
    for i in range(apart):
        at = (slice(None),) * step.repeats + (slice(i, None, apart),) if apart > 1 else (...,)
        _ = own[at].add_(part[at])
