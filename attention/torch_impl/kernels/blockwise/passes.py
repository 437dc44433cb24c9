"""Forward and backward passes: the blocks of a plan one after another, merged by logsumexp.

    lse = log(exp lse1 + exp lse2)        out = exp(lse1 - lse) out1 + exp(lse2 - lse) out2        exact, in any order
    a sink adds exp(sink) to the sum and nothing to out
    backward: each block with the out and lse of the whole row; gradients are summed

Memory beyond inputs and outputs is that of one block, independent of T * S, and a bounded part of dropout's mask.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attention.spec.axes import COMPUTE, dtype_name
from attention.torch_impl.kernels.blockwise import flash, products
from attention.torch_impl.kernels.blockwise.plan import Plan
from attention.torch_impl.kernels.blockwise.products import finite
from attention.torch_impl.kernels.blockwise.steps import Call, Step, steps
from attention.torch_impl.kernels.blockwise.tile_grid import TRIANGLE
from attention.torch_impl.kernels.blockwise.views import biases


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
