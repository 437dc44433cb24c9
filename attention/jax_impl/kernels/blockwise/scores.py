"""One tile of the scores: which numbers stand in it, which of them count, and their exponentials.

    raw     = q' k^T                                    q' = q * factor, padded and in the dtype of the products
    logits  = score_mod(cap(raw) + bias, b, h, t, s)
    logits  = -inf where the mask forbids, or where a key is padding
    weight  = base^(logits - top)                       base = 2 where q is times log2(e), else e

A tile has its queries along the first axis, or along the second where it is `turned`.

References:
    Schraudolph, "A fast, compact approximation of the exponential function", 1999 (the exponent as an integer); Muller,
    "Elementary Functions", 2016 (reduction and minimax polynomial).
"""

from __future__ import annotations

import math
from functools import reduce

import jax
import jax.numpy as jnp
from jax import lax

from attention.jax_impl.kernels.blockwise.place import Place
from attention.jax_impl.kernels.blockwise.plan import Plan, Rest, Spot
from attention.spec.axes import Array
from attention.spec.masks import Mask
from attention.spec.random import Key, keep_threshold, mantissa
from attention.spec.scores import soft_cap

POWERS = (0.6931470036506653, 0.24022242426872253, 0.05550733581185341, 0.009671512991189957, 0.001326472731307149)
"""2^f = 1 + f (POWERS[0] + f (POWERS[1] + ...)) for |f| <= 1/2, minimax: off by at most 9.2e-8 of itself."""
LOG2E = math.log2(math.e)
ROUNDER = 1.5 * 2.0**23
"""A float32 added to this has its nearest integer in its last bits."""


def dot(plan: Plan, a: jax.Array, b: jax.Array, axis: int) -> jax.Array:
    """Return the product over the last axis of `a` and an axis of `b`, summed in the compute dtype."""
    dims = (((1,), (axis,)), ((), ()))
    return lax.dot_general(a, b.astype(a.dtype), dims, precision=plan.precision, preferred_element_type=plan.compute)


def finished(
    plan: Plan, spot: Spot, raw: jax.Array, bias: jax.Array | None, consts: tuple[jax.Array, ...], rest: Rest, turned: bool
) -> jax.Array:
    """Return a tile's logits, made of its products: differentiable."""
    if plan.plain and bias is None:
        return raw
    scores = soft_cap(jnp, raw if plan.scale == 1.0 else raw * plan.scale, plan.softcap)
    scores = scores if bias is None else scores + bias
    if plan.score_mod is not None:
        # A padded place is asked about the last real one, where the function is finite if it is anywhere.
        places = zip(indices(plan, spot, turned), (plan.sizes.T, plan.sizes.S), strict=True)
        t, s = (jnp.broadcast_to(jnp.minimum(x, n - 1), scores.shape) for x, n in places)
        mod = jax.vmap(jax.vmap(lambda x, t, s: plan.score_mod(x, spot.n % plan.rows, spot.h, t, s, consts, rest.numbers)))  # type: ignore[misc]
        scores = mod(scores, t, s)
    return scores


def indices(plan: Plan, spot: Spot, turned: bool) -> tuple[jax.Array, jax.Array]:
    """Return the queries and the keys of a tile, each along its axis."""
    t, s = (at + jnp.arange(size, dtype=jnp.int32) for at, size in zip((spot.t, spot.s), plan.tile, strict=True))
    return (t[None, :], s[:, None]) if turned else (t[:, None], s[None, :])


def bias_tile(plan: Plan, spot: Spot, bias: jax.Array | None, turned: bool) -> jax.Array | None:
    """Return a tile of the bias, in the compute dtype; an axis along which it does not change is 1."""
    if bias is None:
        return None
    cut = lax.dynamic_slice(bias, bias_start(spot, bias), bias_shape(plan, bias))[0, 0].astype(plan.compute)
    return cut.T if turned else cut


def bias_start(spot: Spot, bias: jax.Array) -> tuple[Array, ...]:
    """Return where a tile of the bias begins."""
    return tuple(jnp.int32(0) if size == 1 else jnp.int32(x) for x, size in zip(spot, bias.shape, strict=True))


def bias_shape(plan: Plan, bias: jax.Array) -> tuple[int, ...]:
    """Return the shape of a tile of the bias, with its row and head."""
    return tuple(min(size, wanted) for size, wanted in zip(bias.shape, (1, 1, *plan.tile), strict=True))


def masked(plan: Plan, spot: Spot, mask: Mask | None, logits: jax.Array, turned: bool) -> jax.Array:
    """Return a tile's logits, -inf where its mask forbids or a key is padding."""
    t, s = indices(plan, spot, turned)
    real = s < plan.sizes.S if plan.cut.whole[1] > plan.sizes.S else None
    if mask is not None:
        allowed = mask.allowed(Place(t, s, plan.sizes.T, plan.sizes.S, xp=jnp, plan=plan, spot=spot, turned=turned))
        real = allowed if real is None else real & allowed
    return logits if real is None else jnp.where(real, logits, -jnp.inf)


def kept(plan: Plan, spot: Spot, key: Key, turned: bool) -> jax.Array:
    """Return what dropout multiplies a tile's weights by: 0 or 1 / (1 - rate), by the bits of the whole scores' indices."""
    t, s = (x.astype(jnp.uint32) for x in indices(plan, spot, turned))
    head = (spot.n % plan.rows) * plan.sizes.H + spot.h
    index = (head.astype(jnp.uint32) * plan.sizes.T + t) * plan.sizes.S + s
    kept = mantissa(key, index) < keep_threshold(plan.rate)
    return jnp.where(kept, jnp.asarray(1.0 / (1.0 - plan.rate), plan.compute), 0.0)


def power(plan: Plan, logits: jax.Array, top: jax.Array) -> jax.Array:
    """Return base^(logits - top), exactly 0 for -inf and 1 for 0; `top` broadcasts and is finite.

    Base 2 is a whole power, added to the exponent as an integer, times a polynomial: a dozen simple operations, where XLA's
    own exponential on CPU takes twice as long.
    """
    if not plan.binary:
        return jnp.exp(logits - top)
    lowered = logits - top if plan.unit != 1.0 else (logits - top) * jnp.float32(LOG2E)
    # XLA would cancel a number that is added and subtracted, and round nothing, but for the bound.
    whole = jnp.minimum(lowered + jnp.float32(ROUNDER), jnp.float32(ROUNDER + 127))
    f = lowered - (whole - jnp.float32(ROUNDER))
    mantissas = reduce(lambda total, c: total * f + jnp.float32(c), POWERS[-2::-1], jnp.full_like(f, POWERS[-1])) * f + 1
    bits = lax.bitcast_convert_type(mantissas, jnp.int32) + (lax.bitcast_convert_type(whole, jnp.int32) << 23)
    # Below 2^-126 is 0; a NaN is not below, and stays.
    return jnp.where(lowered < -126.0, 0.0, lax.bitcast_convert_type(bits, jnp.float32))


def rescale(plan: Plan, difference: jax.Array) -> jax.Array:
    """Return base^difference for a few numbers of any size."""
    return jnp.exp(difference) if plan.unit == 1.0 else jnp.exp2(difference)
