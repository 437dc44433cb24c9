"""The kernel `decode` in JAX: a few new queries against a long cache, reading only tiles of keys that are attended to.

    m' = max(m, max_s x[s])        l' = l e^(m - m') + sum_s e^(x[s] - m')        o' = o e^(m - m') + sum_s e^(x[s] - m') v[s]
    context = o / l                over the tiles with a key that some query of the row attends to

The query heads of a group fold into the query axis, so each key is read once, where it lies, and never repeated. How many
tiles a row reads is known when the program runs, so one compilation serves a cache while it fills. Its derivatives, of every
order and in both directions, are the formula's, which for so few queries is small.

References:
    Milakov and Gimelshein, arXiv:1805.02867, algorithm 3 (online softmax); Ainslie et al., arXiv:2305.13245 (groups).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from attention.jax_impl.kernels import precision
from attention.jax_impl.kernels.varying import alike
from attention.jax_impl.masks import allowed
from attention.spec.attend import attend
from attention.spec.axes import COMPUTE, Array, Sizes, dtype_name, sizes
from attention.spec.kernels import Request
from attention.spec.masks.algebra import Mask
from attention.spec.scores import heads_first, soft_cap

FEATURES = ("softcap", "sinks", "bias", "wide bias", "E != D", "float64", "float32", "bfloat16", "float16")
MOST = 8
"""Queries beyond which arithmetic and not memory sets the time: a kernel for whole sequences is then the better one."""
SUMS = 8
"""Rows, queries times heads of a group, up to which a sum of products on the spot beats a matrix product, which copies keys."""

Moments = tuple[Array, Array, Array]
"""Maximum `(K, R)`, sum `(K, R)` and weighted sum of values `(K, R, E)` of the keys so far."""
Inputs = tuple[Array, Array, Array, Mask | None, Array, Array]
"""q, k, v, mask, bias and sinks of a call."""


@dataclass(frozen=True)
class Decode:
    """Online softmax over the tiles of a cache that are seen.

    Attributes:
        tile: keys of a tile, so few that its float32 copy stays in a processor's cache.
    """

    name: str = "decode"
    rounds: tuple[str, ...] = ()
    tile: int = 128

    def refuses(self, request: Request) -> str | None:
        """Refuse many queries, empty axes, and what needs the index of every score."""
        if 0 in (*request.q.shape, *request.k.shape, *request.v.shape):
            return "does not support axes of size 0"
        if request.sizes.T > MOST:
            return f"has no more than {MOST} queries, not {request.sizes.T}"
        return request.lacks(*FEATURES)

    def run(self, request: Request) -> dict[str, jax.Array]:
        """Return the context."""
        how = How(request.scale, request.softcap, request.precision, self.tile)
        return {"context": _run(how, request.q, request.k, request.v, request.mask, request.bias, request.sinks)}


@dataclass(frozen=True)
class How:
    """The static part of a call: a change compiles anew.

    Attributes:
        scale: factor of `q . k`.
        softcap: bound of the scores, or None.
        precision: of products, see `Request`.
        tile: keys of a tile.
    """

    scale: float
    softcap: float | None
    precision: str | None
    tile: int


@partial(jax.jit, static_argnums=0)
def _run(how: How, *inputs: Any) -> jax.Array:
    return _attended(how, inputs)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _attended(how: How, inputs: Inputs) -> jax.Array:
    """Return the context `(*batch, T, H, E)`."""
    q, k, v, mask, bias, sinks = inputs
    of, kind = sizes(q, k, v), COMPUTE[dtype_name(q)]
    seen = _rows(of, jnp.ones((1, of.S), bool) if mask is None else allowed(mask, of))
    seen = jnp.broadcast_to(seen, (*seen.shape[:-1], of.S))
    bias = None if bias is None else _rows(of, bias.astype(kind))
    sinks = None if sinks is None else jnp.repeat(sinks.astype(kind), of.T).reshape(of.K, -1)
    q = heads_first(jnp, q.astype(kind) * how.scale).reshape(-1, of.K, of.group * of.T, of.D)
    cache = tuple(x.reshape(-1, *x.shape[-3:]) for x in (k, v))

    def row(b: Array) -> jax.Array:
        with precision.scope(how.precision):
            return _row(how, cache, b, q[b], sinks, _at(seen, b), _at(bias, b))

    # One row after another, each as far as its own keys go.
    out = row(jnp.asarray(0))[None] if q.shape[0] == 1 else lax.map(row, jnp.arange(q.shape[0]))
    return heads_first(jnp, out.reshape(*of.batch, of.H, of.T, of.E)).astype(v.dtype)


@_attended.defjvp
def _slope(how: How, primals: tuple[Inputs], tangents: tuple[Inputs]) -> tuple[Any, Any]:
    # Traced after the call has returned, whose scope is then no more.
    with precision.scope(how.precision):
        return jax.jvp(partial(_formula, how), primals, tangents)


def _formula(how: How, inputs: Inputs) -> jax.Array:
    q, k, v, mask, bias, sinks = inputs
    of, kind = sizes(q, k, v), COMPUTE[dtype_name(q)]
    wide = [None if x is None else x.astype(kind) for x in (q, k, v, bias, sinks)]
    made = attend(
        jnp,
        *wide[:3],
        scale=how.scale,
        allowed=allowed(mask, of),
        bias=wide[3],
        softcap=how.softcap,
        sinks=wide[4],
        constant=lax.stop_gradient,
    )
    return made["context"].astype(q.dtype)


def _row(how: How, cache: tuple[Array, Array], b: Array, q: Array, sinks: Array, seen: Array, bias: Array) -> jax.Array:
    """Return the context `(K, R, E)` of batch row b.

    Args:
        how: the structure of the call.
        cache: all keys `(B, S, K, D)` and values `(B, S, K, E)`.
        b: the row.
        q: `(K, R, D)`, times the scale, in the compute dtype.
        sinks: `(K, R)`, or None.
        seen: bool `(K or 1, R, S)`.
        bias: `(K or 1, R, S or 1)`, or None.
    """
    length = seen.shape[-1]
    tile = min(how.tile, length)
    count, order = tiles(seen, tile)

    def step(i: Array, carried: tuple[Moments, tuple[Array, Array]]) -> tuple[Moments, tuple[Array, Array]]:
        so_far, cache = carried
        # XLA would find that half precision is widened here, always alike, and widen the whole cache ahead of the loop.
        cache = lax.optimization_barrier(cache)
        # The last tile begins early enough to be whole, and leaves out what the one before has had.
        begin = order[i] * tile
        start = jnp.minimum(begin, length - tile)
        key, value = (lax.dynamic_slice(x, (b, start, 0, 0), (1, tile, *x.shape[2:]))[0].astype(q.dtype) for x in cache)
        live = _cut(seen, start, tile) & (start + jnp.arange(tile) >= begin)
        scores = soft_cap(jnp, _products(q, key), how.softcap)
        if bias is not None:
            scores = scores + _cut(bias, start, tile)
        # Masked tokens may be NaN, and 0 * NaN is NaN.
        value = jnp.where(jnp.any(live, axis=1).T[..., None], value, 0)
        return _merged(so_far, jnp.where(live, scores, -jnp.inf), value), cache

    top = jnp.full(q.shape[:-1], -jnp.inf, q.dtype) if sinks is None else sinks
    total = jnp.full_like(top, 0 if sinks is None else 1)
    out = jnp.zeros((*top.shape, cache[1].shape[-1]), q.dtype)
    start = alike((top, total, out), q, cache, seen, bias)
    (_, total, out), _ = lax.fori_loop(0, count, step, (start, cache))
    # A row without a key is 0.
    return out / jnp.where(total == 0, 1, total)[..., None]


def _cut(x: Array, start: Array, tile: int) -> jax.Array:
    """Return a tile of the last axis; an axis of 1 is kept."""
    return x if x.shape[-1] == 1 else lax.dynamic_slice_in_dim(x, start, tile, -1)


def tiles(seen: Array, tile: int) -> tuple[jax.Array, jax.Array]:
    """Return how many tiles hold a key that some query sees, and which, in rising order; `seen` is `(K or 1, R, S)`."""
    keys = jnp.any(seen, axis=(0, 1))
    n = -(-len(keys) // tile)
    needed = jnp.any(jnp.pad(keys, (0, n * tile - len(keys))).reshape(n, tile), axis=-1)
    return jnp.sum(needed), jnp.argsort(~needed, stable=True)


def _products(q: Array, k: Array) -> Array:
    """Return the scores `(K, R, tile)` of queries `(K, R, D)` and keys `(tile, K, D)`."""
    if q.shape[1] <= SUMS:
        return jnp.sum(q * k[:, :, None], axis=-1).transpose(1, 2, 0)
    return jnp.einsum("skd,krd->ksr", k, q).transpose(0, 2, 1)


def _merged(so_far: Moments, scores: Array, v: Array) -> Moments:
    """Return maximum, sum and weighted sum of values `(K, R, E)` with a tile more: the file's equation."""
    top, total, out = so_far
    new = jnp.maximum(top, jnp.max(scores, axis=-1))
    # -inf - -inf is NaN, so a row that has seen nothing yet is shifted by 0.
    shift = jnp.where(new == -jnp.inf, 0, new)
    shrink, raised = jnp.exp(top - shift), jnp.exp(scores - shift[..., None])
    mixed = jnp.einsum("krs,ske->kre", raised, v)
    return new, total * shrink + jnp.sum(raised, axis=-1), out * shrink[..., None] + mixed


def _rows(of: Sizes, x: Array) -> jax.Array:
    """Bring what broadcasts to `(*batch, H, T, S)` to `(B or 1, K or 1, R, S or 1)`, R = H // K * T rows for each key head."""
    *batch, h, _, s = (1,) * (len(of.scores) - x.ndim) + x.shape
    batch = of.batch if any(n > 1 for n in batch) else batch
    heads = of.K if h > 1 else 1
    return jnp.broadcast_to(x, (*batch, heads * of.group, of.T, s)).reshape(math.prod(batch), heads, -1, s)


def _at(x: Array, b: Array) -> Array:
    return x if x is None else x[0] if x.shape[0] == 1 else x[b]
