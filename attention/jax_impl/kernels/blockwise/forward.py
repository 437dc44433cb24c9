"""The forward pass: a row of tiles at a time, with a running maximum and a running sum.

    top'  = max(top, max_s logits)
    total = total * base^(top - top') + sum_s base^(logits - top')
    sums  = sums  * base^(top - top') + base^(logits - top') v
    context = sums / total            logsumexp = (top + log total) / unit

A row that sees nothing keeps total = 0. No more than one tile of scores is ever written down.

References:
    Milakov and Gimelshein, arXiv:1805.02867; Rabe and Staats, arXiv:2112.05682; Dao, arXiv:2307.08691.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from attention.jax_impl.kernels.blockwise.plan import Given, Plan, Rest, Spot
from attention.jax_impl.kernels.blockwise.scores import bias_tile, dot, finished, kept, masked, power, rescale
from attention.jax_impl.kernels.blockwise.tiles import Walk, part, walks
from attention.jax_impl.kernels.varying import alike
from attention.spec.axes import Array


class Made(NamedTuple):
    """What the forward pass makes: the context, and the normaliser of each row in two parts.

    Attributes:
        context: `(N, H, T', E)` in the dtype of the inputs.
        top: `(N, H, T')`, what the logits of a row are lowered by.
        total: `(N, H, T')`, the sum of the exponentials that are left; 0 for an empty row.
    """

    context: jax.Array
    top: jax.Array
    total: jax.Array


def forward(plan: Plan, given: Given, rest: Rest) -> Made:
    """Return the context and the normalisers."""
    of, (tq, _) = plan.sizes, plan.tile
    visits, rows = walks(rest.mask, of, plan.cut), given.q.shape[2] // tq

    def row(at: Array) -> Made:
        n, h, i = at // (rows * of.H), at // rows % of.H, at % rows
        q, carry = part(given.q, n, h, i * tq, tq), alike(_start(plan, given, h), given, rest)
        for walk in visits:

            def step(s: Array, carry: tuple[Any, ...], walk: Walk = walk) -> tuple[Any, ...]:
                return _tile(plan, given, rest, Spot(n, h, i * tq, s), walk.masked, q, carry)

            carry = walk.visit(n, h, i, step, carry)
        top, total, sums = carry
        context = sums / jnp.where(total == 0, 1, total)[:, None]
        return Made(context.astype(plan.dtype), top, total)

    made = lax.map(row, jnp.arange(given.q.shape[0] * of.H * rows, dtype=jnp.int32))
    return Made(*(x.reshape(-1, of.H, given.q.shape[2], *x.shape[2:]) for x in made))


def _start(plan: Plan, given: Given, h: Array) -> tuple[jax.Array, ...]:
    """Return the carry before the first tile: of nothing, or of a sink."""
    tq, compute = plan.tile[0], plan.compute
    # Finite, so that a row of -inf is lowered by a number; and no finite score lies below.
    top = jnp.asarray(jnp.finfo(compute).min, compute)
    total = jnp.zeros((), compute)
    if given.sinks is not None:
        sink = given.sinks[h] * jnp.asarray(plan.unit, compute)
        top = jnp.maximum(top, sink)
        total = rescale(plan, sink - top)
    return jnp.full((tq,), top), jnp.full((tq,), total), jnp.zeros((tq, plan.sizes.E), compute)


def _tile(
    plan: Plan, given: Given, rest: Rest, spot: Spot, is_masked: bool, q: jax.Array, carry: tuple[Any, ...]
) -> tuple[Any, ...]:
    top, total, sums = carry
    k, v = (part(x, spot.n, spot.h // plan.sizes.group, spot.s, plan.tile[1]) for x in (given.k, given.v))
    logits = finished(plan, spot, dot(plan, q, k, 1), bias_tile(plan, spot, given.bias, False), given.consts, rest, False)
    if is_masked:
        logits = masked(plan, spot, rest.mask, logits, False)
    higher = jnp.maximum(top, jnp.max(logits, axis=1))
    lowered = rescale(plan, top - higher)
    weights = power(plan, logits, higher[:, None])
    total = total * lowered + jnp.sum(weights, axis=1)
    if rest.key is not None:
        weights = weights * kept(plan, spot, rest.key, False)
    return higher, total, sums * lowered[:, None] + dot(plan, weights.astype(v.dtype), v, 0)
