"""Backward pass of the blockwise kernel: recomputed weights, one column of tiles at a time, the whole dq as carry.

    p  = base^(logits - top) / total                    the weights
    dv = (p z)^T dy                                     dy: of the context, z = keep / (1 - rate)
    dx = p (z (dy v^T) - delta)                         delta = sum(dy context) - d logsumexp, one number for each row
    dk = draw^T q,  dq = draw k                         draw: dx through score_mod, bias and soft cap

Keys are along the first axis of a tile, so that dv and dk are plain products. For dq the tile is transposed behind an
optimisation barrier: a transpose fused into the product takes a slow path in XLA.

References:
    Dao, arXiv:2307.08691, algorithm 2.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from attention.jax_impl.kernels.blockwise.forward import Outputs
from attention.jax_impl.kernels.blockwise.plan import Inputs, NonDiff, Plan, TileIndex
from attention.jax_impl.kernels.blockwise.scores import (
    bias_shape,
    bias_start,
    bias_tile,
    dot,
    finished,
    kept,
    masked,
    power,
    rescale,
)
from attention.jax_impl.kernels.blockwise.tiles import Walk, part, walks
from attention.jax_impl.kernels.varying import alike
from attention.spec.axes import Array


class SharedGrads(NamedTuple):
    """Gradients summed over all heads: of the bias and of the arrays that score_mod closes over; None if not wanted."""

    bias: jax.Array | None
    consts: tuple[jax.Array, ...] | None


class Rows(NamedTuple):
    """The arrays that have a row per query: each `(N, H, T', ...)`, or `(queries, ...)` of one tile.

    Attributes:
        q: width D.
        slope: width E, the gradient of the context over `total`.
        top: subtracted from the logits.
        delta: over `total`.
    """

    q: jax.Array
    slope: jax.Array
    top: jax.Array
    delta: jax.Array


def backward(
    plan: Plan, inputs: Inputs, nondiff: NonDiff, outputs: Outputs, slopes: tuple[Any, Any], wanted: frozenset[str]
) -> Inputs:
    """Return the gradients of the inputs; those of bias, sinks and consts are None unless wanted.

    Args:
        plan: of the call.
        inputs: its arrays.
        nondiff: mask and key.
        outputs: of the forward pass.
        slopes: the gradients of the context, and of the logsumexp `(N, H, T')`.
        wanted: names of fields of `Inputs`.
    """
    of, columns = plan.sizes, inputs.k.shape[2] // plan.tile[1]
    empty = outputs.total == 0
    # The cotangent of an empty row is replaced, not multiplied, by 0: 0 * NaN is NaN.
    context, logsumexp = (
        jnp.where(at, 0, x.astype(plan.compute)) for at, x in zip((empty[..., None], empty), slopes, strict=True)
    )
    delta = jnp.sum(context * outputs.context.astype(plan.compute), axis=-1) - logsumexp
    share = jnp.where(empty, 0, 1 / jnp.where(empty, 1, outputs.total))
    rows = Rows(inputs.q, (context * share[..., None]).astype(inputs.q.dtype), outputs.top, delta * share)
    visits = walks(nondiff.mask, of, plan.cut, turned=True)
    zeros = partial(jax.tree.map, lambda x: alike(jnp.zeros(x.shape, plan.compute), inputs, nondiff, slopes))
    shared = SharedGrads(*(zeros(getattr(inputs, name)) if name in wanted else None for name in SharedGrads._fields))

    def column(carry: Any, at: Array) -> tuple[Any, Any]:
        n, kv, j = at // (columns * of.K), at // columns % of.K, at % columns
        k, v = (part(x, n, kv, j * plan.tile[1], plan.tile[1]) for x in (inputs.k, inputs.v))
        carry = *carry, *zeros((k, v))
        for walk in visits:
            for_head = partial(_head, plan, inputs, nondiff, walk, (k, v), rows, (n, kv, j))
            carry = for_head(jnp.int32(0), carry) if of.group == 1 else lax.fori_loop(0, of.group, for_head, carry)
        return carry[:2], carry[2:]

    numbers = jnp.arange(inputs.k.shape[0] * of.K * columns, dtype=jnp.int32)
    (dq, shared), (dk, dv) = lax.scan(column, (zeros(inputs.q), shared), numbers)
    sinks = None
    if inputs.sinks is not None and "sinks" in wanted:
        taken = rescale(plan, inputs.sinks[:, None] * jnp.asarray(plan.unit, plan.compute) - outputs.top) * share
        sinks = -jnp.sum((taken * delta)[..., : of.T], axis=(0, 2))
    # Logits are in base 2 units, so gradients through them are larger by that factor.
    dq, dk, shared = jax.tree.map(lambda x: x / plan.unit, (dq, dk.reshape(inputs.k.shape), shared))
    grads = Inputs(dq, dk, dv.reshape(inputs.v.shape), shared.bias, sinks, shared.consts)
    return Inputs(*(None if g is None else jax.tree.map(_as, g, x) for g, x in zip(grads, inputs, strict=True)))  # type: ignore[arg-type]


def _as(x: jax.Array, like: jax.Array) -> jax.Array:
    return x.astype(like.dtype)


def _head(
    plan: Plan,
    inputs: Inputs,
    nondiff: NonDiff,
    walk: Walk,
    keys: tuple[jax.Array, jax.Array],
    rows: Rows,
    at: tuple[Array, Array, Array],
    g: Array,
    carry: tuple[Any, ...],
) -> tuple[Any, ...]:
    """Add the tiles of one column and one head of a group to the gradients."""
    n, kv, j = at
    h = kv * plan.sizes.group + jnp.int32(g)

    def step(t: Array, carry: tuple[Any, ...]) -> tuple[Any, ...]:
        queries = Rows(*(part(x, n, h, t, plan.tile[0]) for x in rows))
        return _tile(plan, inputs, nondiff, TileIndex(n, h, t, j * plan.tile[1]), walk.masked, keys, queries, carry)

    return walk.visit(n, h, j, step, carry)


def _tile(
    plan: Plan,
    inputs: Inputs,
    nondiff: NonDiff,
    tile: TileIndex,
    is_masked: bool,
    keys: tuple[jax.Array, jax.Array],
    rows: Rows,
    carry: tuple[Any, ...],
) -> tuple[Any, ...]:
    (k, v), (dq, shared, dk, dv) = keys, carry
    bias = bias_tile(plan, tile, inputs.bias, True)
    logits, pull = _differentiable(plan, tile, dot(plan, k, rows.q, 1), bias, inputs.consts, nondiff)
    if is_masked:
        logits = masked(plan, tile, nondiff.mask, logits, True)
    weights = power(plan, logits, rows.top[None, :])
    slope, dropped = dot(plan, v, rows.slope, 1), weights
    if nondiff.key is not None:
        keep = kept(plan, tile, nondiff.key, True)
        slope, dropped = slope * keep, weights * keep
    dv = dv + dot(plan, dropped.astype(v.dtype), rows.slope, 0)
    draw, dbias, dconsts = pull(weights * (slope - rows.delta[None, :]))
    draw = draw.astype(k.dtype)
    dk = dk + dot(plan, draw, rows.q, 0)
    added = dot(plan, lax.optimization_barrier(draw.T), k, 0)
    start = (tile.n, tile.h, tile.t, jnp.int32(0))
    dq = lax.dynamic_update_slice(dq, lax.dynamic_slice(dq, start, (1, 1, *added.shape)) + added, start)
    return dq, _added(plan, inputs, tile, shared, dbias, dconsts), dk, dv


def _differentiable(
    plan: Plan, tile: TileIndex, raw: jax.Array, bias: jax.Array | None, consts: tuple[jax.Array, ...], nondiff: NonDiff
) -> tuple[jax.Array, Callable[..., Any]]:
    """Return the logits of a tile and their VJP function: gradients of the products, the bias and the constants."""
    if plan.plain and bias is None:
        return raw, lambda slope: (slope, None, None)
    return jax.vjp(lambda *inputs: finished(plan, tile, *inputs, nondiff=nondiff, turned=True), raw, bias, consts)


def _added(plan: Plan, inputs: Inputs, tile: TileIndex, shared: SharedGrads, bias: Any, consts: Any) -> SharedGrads:
    """Return the shared gradients with those of a tile added."""
    if shared.bias is not None and inputs.bias is not None:
        start, shape = bias_start(tile, inputs.bias), bias_shape(plan, inputs.bias)
        part = lax.dynamic_slice(shared.bias, start, shape) + bias.T.reshape(shape)
        shared = shared._replace(bias=lax.dynamic_update_slice(shared.bias, part, start))
    if shared.consts is not None:
        shared = shared._replace(consts=jax.tree.map(jnp.add, shared.consts, consts))
    return shared
