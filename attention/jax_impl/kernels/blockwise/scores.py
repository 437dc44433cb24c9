"""One tile of scores: products, soft cap, bias, score_mod, mask, dropout and a fast exponential.

    raw     = q' k^T                                    q' = q * factor, padded and in the dtype of the products
    logits  = score_mod(cap(raw) + bias, b, h, t, s)
    logits  = -inf where the mask forbids, or where a key is padding
    weight  = base^(logits - top)                       base = 2 where q is times log2(e), else e

Queries are along the first axis of a tile, or along the second if it is `turned`.

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

from attention.jax_impl.kernels.blockwise.plan import NonDiff, Plan, TileIndex
from attention.jax_impl.kernels.blockwise.tile_grid import TileGrid
from attention.spec.axes import Array
from attention.spec.masks import Mask
from attention.spec.random import Key, keep_threshold, mantissa
from attention.spec.scores import soft_cap

POWERS = (0.6931470036506653, 0.24022242426872253, 0.05550733581185341, 0.009671512991189957, 0.001326472731307149)
"""2^f = 1 + f (POWERS[0] + f (POWERS[1] + ...)) for |f| <= 1/2, minimax: off by at most 9.2e-8 of itself."""
LOG2E = math.log2(math.e)
ROUNDER = 1.5 * 2.0**23
"""Adding a float32 to this leaves its nearest integer in the last bits."""


def dot(plan: Plan, a: jax.Array, b: jax.Array, axis: int) -> jax.Array:
    """Return the product over the last axis of `a` and an axis of `b`, summed in the compute dtype."""
    dims = (((1,), (axis,)), ((), ()))
    return lax.dot_general(a, b.astype(a.dtype), dims, precision=plan.precision, preferred_element_type=plan.compute)


def finished(
    plan: Plan,
    tile: TileIndex,
    raw: jax.Array,
    bias: jax.Array | None,
    consts: tuple[jax.Array, ...],
    nondiff: NonDiff,
    turned: bool,
) -> jax.Array:
    """Return the logits of a tile from its products, differentiably."""
    if plan.plain and bias is None:
        return raw
    scores = soft_cap(jnp, raw if plan.scale == 1.0 else raw * plan.scale, plan.softcap)
    scores = scores if bias is None else scores + bias
    if plan.score_mod is not None:
        # Padding gets the index of the last query or key, where score_mod is defined.
        places = zip(indices(plan, tile, turned), (plan.sizes.T, plan.sizes.S), strict=True)
        t, s = (jnp.broadcast_to(jnp.minimum(x, n - 1), scores.shape) for x, n in places)
        mod = jax.vmap(jax.vmap(lambda x, t, s: plan.score_mod(x, tile.n % plan.rows, tile.h, t, s, consts, nondiff.numbers)))  # type: ignore[misc]
        scores = mod(scores, t, s)
    return scores


def indices(plan: Plan, tile: TileIndex, turned: bool) -> tuple[jax.Array, jax.Array]:
    """Return the queries and the keys of a tile, each along its axis."""
    t, s = (at + jnp.arange(size, dtype=jnp.int32) for at, size in zip((tile.t, tile.s), plan.tile, strict=True))
    return (t[None, :], s[:, None]) if turned else (t[:, None], s[None, :])


def bias_tile(plan: Plan, tile: TileIndex, bias: jax.Array | None, turned: bool) -> jax.Array | None:
    """Return a tile of the bias, in the compute dtype; an axis along which it broadcasts is 1."""
    if bias is None:
        return None
    cut = lax.dynamic_slice(bias, bias_start(tile, bias), bias_shape(plan, bias))[0, 0].astype(plan.compute)
    return cut.T if turned else cut


def bias_start(tile: TileIndex, bias: jax.Array) -> tuple[Array, ...]:
    """Return where a tile of the bias begins."""
    return tuple(jnp.int32(0) if size == 1 else jnp.int32(x) for x, size in zip(tile, bias.shape, strict=True))


def bias_shape(plan: Plan, bias: jax.Array) -> tuple[int, ...]:
    """Return the shape of a tile of the bias, with its row and head."""
    return tuple(min(size, wanted) for size, wanted in zip(bias.shape, (1, 1, *plan.tile), strict=True))


def masked(plan: Plan, tile: TileIndex, mask: Mask | None, logits: jax.Array, turned: bool) -> jax.Array:
    """Return a tile's logits, -inf where its mask forbids or a key is padding."""
    t, s = indices(plan, tile, turned)
    real = s < plan.sizes.S if plan.cut.whole[1] > plan.sizes.S else None
    if mask is not None:
        allowed = mask.allowed(TileGrid(t, s, plan.sizes.T, plan.sizes.S, xp=jnp, plan=plan, tile=tile, turned=turned))
        real = allowed if real is None else real & allowed
    return logits if real is None else jnp.where(real, logits, -jnp.inf)


def kept(plan: Plan, tile: TileIndex, key: Key, turned: bool) -> jax.Array:
    """Return the dropout factors of a tile, 0 or 1 / (1 - rate), from the bits at its indices in the whole scores."""
    t, s = (x.astype(jnp.uint32) for x in indices(plan, tile, turned))
    head = (tile.n % plan.rows) * plan.sizes.H + tile.h
    index = (head.astype(jnp.uint32) * plan.sizes.T + t) * plan.sizes.S + s
    kept = mantissa(key, index) < keep_threshold(plan.rate)
    return jnp.where(kept, jnp.asarray(1.0 / (1.0 - plan.rate), plan.compute), 0.0)


def power(plan: Plan, logits: jax.Array, top: jax.Array) -> jax.Array:
    """Return base^(logits - top), exactly 0 for -inf and 1 for 0; `top` broadcasts and is finite.

    In base 2 it is an integer power, added to the exponent bits, times a polynomial: a dozen simple operations, half the
    time of XLA's exponential on CPU.
    """
    if not plan.binary:
        return jnp.exp(logits - top)
    lowered = logits - top if plan.unit != 1.0 else (logits - top) * jnp.float32(LOG2E)
    # The minimum keeps XLA from cancelling the addition and subtraction, which do the rounding.
    whole = jnp.minimum(lowered + jnp.float32(ROUNDER), jnp.float32(ROUNDER + 127))
    f = lowered - (whole - jnp.float32(ROUNDER))
    mantissas = reduce(lambda total, c: total * f + jnp.float32(c), POWERS[-2::-1], jnp.full_like(f, POWERS[-1])) * f + 1
    bits = lax.bitcast_convert_type(mantissas, jnp.int32) + (lax.bitcast_convert_type(whole, jnp.int32) << 23)
    # Subnormal results are 0; NaN fails the comparison and is kept.
    return jnp.where(lowered < -126.0, 0.0, lax.bitcast_convert_type(bits, jnp.float32))


def rescale(plan: Plan, difference: jax.Array) -> jax.Array:
    """Return base^difference by the exact exponential, for arrays with one element per row."""
    return jnp.exp(difference) if plan.unit == 1.0 else jnp.exp2(difference)
