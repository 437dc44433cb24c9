"""Forward-mode derivative (JVP) of the blockwise kernel: tangents of context and logsumexp, tile by tile.

dx           = tangent of the logits, without the mask                        dx = dq k + q dk + ...
dlogsumexp   = sum_s p dx + p_sink dsink
dcontext     = sum_s p z (dx v + dv) - dlogsumexp context                     z = keep / (1 - rate)
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from attention.jax_impl.kernels.blockwise.forward import Outputs
from attention.jax_impl.kernels.blockwise.plan import Inputs, NonDiff, Plan, TileIndex
from attention.jax_impl.kernels.blockwise.scores import bias_tile, dot, finished, kept, masked, power, rescale
from attention.jax_impl.kernels.blockwise.tiles import Walk, part, walks
from attention.jax_impl.kernels.varying import alike
from attention.spec.axes import Array


def tangent(plan: Plan, inputs: Inputs, nondiff: NonDiff, outputs: Outputs, moves: Inputs) -> tuple[jax.Array, jax.Array]:
    """Return the tangents of the context, and of the logsumexp `(N, H, T')`.

    Args:
        plan: of the call.
        inputs: its arrays.
        nondiff: mask and key.
        outputs: of the forward pass.
        moves: tangents of `inputs`; bias, sinks and consts may be None for 0.
    """
    of, tq = plan.sizes, plan.tile[0]
    visits, rows = walks(nondiff.mask, of, plan.cut), inputs.q.shape[2] // tq
    share = jnp.where(outputs.total == 0, 0, 1 / jnp.where(outputs.total == 0, 1, outputs.total))

    def row(at: Array) -> tuple[jax.Array, jax.Array]:
        n, h, i = at // (rows * of.H), at // rows % of.H, at % rows
        q, dq, top, over, context = (
            part(x, n, h, i * tq, tq) for x in (inputs.q, moves.q, outputs.top, share, outputs.context)
        )
        nothing = jnp.zeros((tq,), plan.compute), jnp.zeros((tq, of.E), plan.compute)
        carry = alike(nothing, inputs, moves, nondiff)
        for walk in visits:

            def step(s: Array, carry: tuple[Any, ...], walk: Walk = walk) -> tuple[Any, ...]:
                return _tile(plan, inputs, moves, nondiff, TileIndex(n, h, i * tq, s), walk.masked, (q, dq, top), carry)

            carry = walk.visit(n, h, i, step, carry)
        mean, sums = carry[0] * over, carry[1] * over[:, None]
        if inputs.sinks is not None and moves.sinks is not None:
            mean = mean + rescale(plan, inputs.sinks[h] * plan.unit - top) * over * moves.sinks[h] * plan.unit
        return (sums - mean[:, None] * context.astype(plan.compute)) / plan.unit, mean / plan.unit

    context, logsumexp = lax.map(row, jnp.arange(inputs.q.shape[0] * of.H * rows, dtype=jnp.int32))
    shape = outputs.top.shape
    return context.reshape(*shape, of.E).astype(plan.dtype), logsumexp.reshape(shape)


def _tile(
    plan: Plan,
    inputs: Inputs,
    moves: Inputs,
    nondiff: NonDiff,
    tile: TileIndex,
    is_masked: bool,
    rows: tuple[jax.Array, jax.Array, jax.Array],
    carry: tuple[Any, ...],
) -> tuple[Any, ...]:
    q, dq, top = rows
    k, v, dk, dv = (part(x, tile.n, tile.h // plan.sizes.group, tile.s, plan.tile[1]) for x in (*inputs[1:3], *moves[1:3]))
    raw, draw = dot(plan, q, k, 1), dot(plan, dq, k, 1) + dot(plan, q, dk, 1)
    bias = bias_tile(plan, tile, inputs.bias, False)
    dbias = None if bias is None else jnp.zeros_like(bias) if moves.bias is None else bias_tile(plan, tile, moves.bias, False)
    dconsts = jax.tree.map(jnp.zeros_like, inputs.consts) if moves.consts is None else moves.consts
    moving = partial(finished, plan, tile, nondiff=nondiff, turned=False)
    logits, dx = jax.jvp(moving, (raw, bias, inputs.consts), (draw, dbias, dconsts))
    if is_masked:
        logits = masked(plan, tile, nondiff.mask, logits, False)
    weights = power(plan, logits, top[:, None])
    # A masked logit has tangent 0, even where score_mod gives NaN.
    dx = jnp.where(logits == -jnp.inf, 0, dx)
    mean, sums = carry
    mean = mean + jnp.sum(weights * dx, axis=1)
    if nondiff.key is not None:
        weights = weights * kept(plan, tile, nondiff.key, False)
    moved = dot(plan, (weights * dx).astype(v.dtype), v, 0)
    return mean, sums + moved + plan.unit * dot(plan, weights.astype(v.dtype), dv, 0)
