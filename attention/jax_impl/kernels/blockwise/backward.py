"""The backward pass: the weights made anew, a column of tiles at a time, with the gradient of q carried whole.

    p  = base^(logits - top) / total                    the weights
    dv = (p z)^T dy                                     dy: of the context, z = keep / (1 - rate)
    dx = p (z (dy v^T) - delta)                         delta = sum(dy context) - d logsumexp, one number for each row
    dk = draw^T q,  dq = draw k                         draw: dx through what happens to the scores

A tile has its keys along the first axis, so that dv and dk are plain products; only for dq is it turned, and kept from being
turned inside that product, where XLA would take a slow path.

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

from attention.jax_impl.kernels.blockwise.forward import Made
from attention.jax_impl.kernels.blockwise.plan import Given, Plan, Rest, Spot
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


class Beside(NamedTuple):
    """Gradients that all heads add to: of the bias, and of what the user's function closes over; None: not asked for."""

    bias: jax.Array | None
    consts: tuple[jax.Array, ...] | None


class Rows(NamedTuple):
    """What a tile reads of its queries, each `(N, H, T', ...)`, or of a tile `(queries, ...)`.

    Attributes:
        q: width D.
        slope: width E, the gradient of the context over `total`.
        top: what logits are lowered by.
        delta: over `total`.
    """

    q: jax.Array
    slope: jax.Array
    top: jax.Array
    delta: jax.Array


def backward(plan: Plan, given: Given, rest: Rest, made: Made, slopes: tuple[Any, Any], wanted: frozenset[str]) -> Given:
    """Return the gradients of what was given; those that are not wanted, of bias, sinks and consts, are None.

    Args:
        plan: of the call.
        given: its arrays.
        rest: mask and key.
        made: by the forward pass.
        slopes: the gradients of the context, and of the logsumexp `(N, H, T')`.
        wanted: names of fields of `Given`.
    """
    of, columns = plan.sizes, given.k.shape[2] // plan.tile[1]
    empty = made.total == 0
    # What is said of an empty row reaches nothing, not even its NaN, for 0 * NaN is NaN.
    context, logsumexp = (
        jnp.where(at, 0, x.astype(plan.compute)) for at, x in zip((empty[..., None], empty), slopes, strict=True)
    )
    delta = jnp.sum(context * made.context.astype(plan.compute), axis=-1) - logsumexp
    share = jnp.where(empty, 0, 1 / jnp.where(empty, 1, made.total))
    rows = Rows(given.q, (context * share[..., None]).astype(given.q.dtype), made.top, delta * share)
    visits = walks(rest.mask, of, plan.cut, turned=True)
    zeros = partial(jax.tree.map, lambda x: alike(jnp.zeros(x.shape, plan.compute), given, rest, slopes))
    beside = Beside(*(zeros(getattr(given, name)) if name in wanted else None for name in Beside._fields))

    def column(carry: Any, at: Array) -> tuple[Any, Any]:
        n, kv, j = at // (columns * of.K), at // columns % of.K, at % columns
        k, v = (part(x, n, kv, j * plan.tile[1], plan.tile[1]) for x in (given.k, given.v))
        carry = *carry, *zeros((k, v))
        for walk in visits:
            for_head = partial(_head, plan, given, rest, walk, (k, v), rows, (n, kv, j))
            carry = for_head(jnp.int32(0), carry) if of.group == 1 else lax.fori_loop(0, of.group, for_head, carry)
        return carry[:2], carry[2:]

    numbers = jnp.arange(given.k.shape[0] * of.K * columns, dtype=jnp.int32)
    (dq, beside), (dk, dv) = lax.scan(column, (zeros(given.q), beside), numbers)
    sinks = None
    if given.sinks is not None and "sinks" in wanted:
        taken = rescale(plan, given.sinks[:, None] * jnp.asarray(plan.unit, plan.compute) - made.top) * share
        sinks = -jnp.sum((taken * delta)[..., : of.T], axis=(0, 2))
    # Logits were made in units of the base: what went through them was that much larger.
    dq, dk, beside = jax.tree.map(lambda x: x / plan.unit, (dq, dk.reshape(given.k.shape), beside))
    grads = Given(dq, dk, dv.reshape(given.v.shape), beside.bias, sinks, beside.consts)
    return Given(*(None if g is None else jax.tree.map(_as, g, x) for g, x in zip(grads, given, strict=True)))  # type: ignore[arg-type]


def _as(x: jax.Array, like: jax.Array) -> jax.Array:
    return x.astype(like.dtype)


def _head(
    plan: Plan,
    given: Given,
    rest: Rest,
    walk: Walk,
    keys: tuple[jax.Array, jax.Array],
    rows: Rows,
    at: tuple[Array, Array, Array],
    g: Array,
    carry: tuple[Any, ...],
) -> tuple[Any, ...]:
    """Add the tiles of one head of a group, of one column, to the gradients."""
    n, kv, j = at
    h = kv * plan.sizes.group + jnp.int32(g)

    def step(t: Array, carry: tuple[Any, ...]) -> tuple[Any, ...]:
        queries = Rows(*(part(x, n, h, t, plan.tile[0]) for x in rows))
        return _tile(plan, given, rest, Spot(n, h, t, j * plan.tile[1]), walk.masked, keys, queries, carry)

    return walk.visit(n, h, j, step, carry)


def _tile(
    plan: Plan,
    given: Given,
    rest: Rest,
    spot: Spot,
    is_masked: bool,
    keys: tuple[jax.Array, jax.Array],
    rows: Rows,
    carry: tuple[Any, ...],
) -> tuple[Any, ...]:
    (k, v), (dq, beside, dk, dv) = keys, carry
    bias = bias_tile(plan, spot, given.bias, True)
    logits, pull = _differentiable(plan, spot, dot(plan, k, rows.q, 1), bias, given.consts, rest)
    if is_masked:
        logits = masked(plan, spot, rest.mask, logits, True)
    weights = power(plan, logits, rows.top[None, :])
    slope, dropped = dot(plan, v, rows.slope, 1), weights
    if rest.key is not None:
        keep = kept(plan, spot, rest.key, True)
        slope, dropped = slope * keep, weights * keep
    dv = dv + dot(plan, dropped.astype(v.dtype), rows.slope, 0)
    draw, dbias, dconsts = pull(weights * (slope - rows.delta[None, :]))
    draw = draw.astype(k.dtype)
    dk = dk + dot(plan, draw, rows.q, 0)
    added = dot(plan, lax.optimization_barrier(draw.T), k, 0)
    start = (spot.n, spot.h, spot.t, jnp.int32(0))
    dq = lax.dynamic_update_slice(dq, lax.dynamic_slice(dq, start, (1, 1, *added.shape)) + added, start)
    return dq, _added(plan, given, spot, beside, dbias, dconsts), dk, dv


def _differentiable(
    plan: Plan, spot: Spot, raw: jax.Array, bias: jax.Array | None, consts: tuple[jax.Array, ...], rest: Rest
) -> tuple[jax.Array, Callable[..., Any]]:
    """Return a tile's logits and what takes their gradient to those of the products, the bias and the constants."""
    if plan.plain and bias is None:
        return raw, lambda slope: (slope, None, None)
    return jax.vjp(lambda *given: finished(plan, spot, *given, rest=rest, turned=True), raw, bias, consts)


def _added(plan: Plan, given: Given, spot: Spot, beside: Beside, bias: Any, consts: Any) -> Beside:
    """Return the gradients that all heads add to, with those of a tile."""
    if beside.bias is not None and given.bias is not None:
        start, shape = bias_start(spot, given.bias), bias_shape(plan, given.bias)
        part = lax.dynamic_slice(beside.bias, start, shape) + bias.T.reshape(shape)
        beside = beside._replace(bias=lax.dynamic_update_slice(beside.bias, part, start))
    if beside.consts is not None:
        beside = beside._replace(consts=jax.tree.map(jnp.add, beside.consts, consts))
    return beside
