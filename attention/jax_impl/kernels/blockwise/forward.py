"""Forward pass of the blockwise kernel: one row of tiles at a time, with a running maximum and sum (online softmax).

    top'  = max(top, max_s logits)
    total = total * base^(top - top') + sum_s base^(logits - top')
    sums  = sums  * base^(top - top') + base^(logits - top') v
    context = sums / total            logsumexp = (top + log total) / unit

An empty row keeps total = 0. One tile of scores is in memory at a time.

References:
    Milakov and Gimelshein, arXiv:1805.02867; Rabe and Staats, arXiv:2112.05682; Dao, arXiv:2307.08691.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from attention.jax_impl.kernels.blockwise.plan import Inputs, NonDiff, Plan, TileIndex
from attention.jax_impl.kernels.blockwise.scores import bias_tile, dot, finished, kept, masked, power, rescale
from attention.jax_impl.kernels.blockwise.tiles import Walk, part, walks
from attention.jax_impl.kernels.varying import alike
from attention.spec.axes import Array


class Outputs(NamedTuple):
    """The results of the forward pass: the context, and the softmax normaliser of each row in two parts.

    Attributes:
        context: `(N, H, T', E)` in the dtype of the inputs.
        top: `(N, H, T')`, subtracted from the logits of a row: their maximum so far.
        total: `(N, H, T')`, the sum of base^(logits - top); 0 for an empty row.
    """

    context: jax.Array
    top: jax.Array
    total: jax.Array


def forward(plan: Plan, inputs: Inputs, nondiff: NonDiff) -> Outputs:
    """Return the context and the normalisers."""
    of, (tq, _) = plan.sizes, plan.tile
    visits, rows = walks(nondiff.mask, of, plan.cut), inputs.q.shape[2] // tq

    def row(at: Array) -> Outputs:
        n, h, i = at // (rows * of.H), at // rows % of.H, at % rows
        q, carry = part(inputs.q, n, h, i * tq, tq), alike(_start(plan, inputs, h), inputs, nondiff)
        for walk in visits:

            def step(s: Array, carry: tuple[Any, ...], walk: Walk = walk) -> tuple[Any, ...]:
                return _tile(plan, inputs, nondiff, TileIndex(n, h, i * tq, s), walk.masked, q, carry)

            carry = walk.visit(n, h, i, step, carry)
        top, total, sums = carry
        context = sums / jnp.where(total == 0, 1, total)[:, None]
        return Outputs(context.astype(plan.dtype), top, total)

    outputs = lax.map(row, jnp.arange(inputs.q.shape[0] * of.H * rows, dtype=jnp.int32))
    return Outputs(*(x.reshape(-1, of.H, inputs.q.shape[2], *x.shape[2:]) for x in outputs))


def _start(plan: Plan, inputs: Inputs, h: Array) -> tuple[jax.Array, ...]:
    """Return the carry before the first tile: that of an empty row, or of a sink."""
    tq, compute = plan.tile[0], plan.compute
    # Finite, so that -inf - top is not NaN; no finite score is below it.
    top = jnp.asarray(jnp.finfo(compute).min, compute)
    total = jnp.zeros((), compute)
    if inputs.sinks is not None:
        sink = inputs.sinks[h] * jnp.asarray(plan.unit, compute)
        top = jnp.maximum(top, sink)
        total = rescale(plan, sink - top)
    return jnp.full((tq,), top), jnp.full((tq,), total), jnp.zeros((tq, plan.sizes.E), compute)


def _tile(
    plan: Plan, inputs: Inputs, nondiff: NonDiff, tile: TileIndex, is_masked: bool, q: jax.Array, carry: tuple[Any, ...]
) -> tuple[Any, ...]:
    top, total, sums = carry
    k, v = (part(x, tile.n, tile.h // plan.sizes.group, tile.s, plan.tile[1]) for x in (inputs.k, inputs.v))
    logits = finished(plan, tile, dot(plan, q, k, 1), bias_tile(plan, tile, inputs.bias, False), inputs.consts, nondiff, False)
    if is_masked:
        logits = masked(plan, tile, nondiff.mask, logits, False)
    higher = jnp.maximum(top, jnp.max(logits, axis=1))
    lowered = rescale(plan, top - higher)
    weights = power(plan, logits, higher[:, None])
    total = total * lowered + jnp.sum(weights, axis=1)
    if nondiff.key is not None:
        weights = weights * kept(plan, tile, nondiff.key, False)
    return higher, total, sums * lowered[:, None] + dot(plan, weights.astype(v.dtype), v, 0)
