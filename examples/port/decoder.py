"""A small language model with a key/value cache, in JAX: what `attention decoding` and `attention logits` take."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attention import parity

VOCABULARY, WIDTH = 11, 8


def params() -> dict[str, jax.Array]:
    """Return the projections of each token, `(VOCABULARY, WIDTH)`."""
    # NumPy's numbers are the same in float64; JAX would draw others.
    rng = np.random.default_rng(0)
    return {name: jnp.asarray(rng.normal(size=(VOCABULARY, WIDTH)).astype(np.float32)) for name in "qkv"}


def step(params: Any, cache: Any, tokens: jax.Array, positions: jax.Array) -> tuple[jax.Array, Any]:
    """Return the logits `(B, T, VOCABULARY)` of some tokens, and the cache with their keys and values; None for no cache."""
    q, k, v = (params[name][tokens] for name in "qkv")
    seen = positions
    if cache is not None:
        first, last = int(cache["count"]), int(cache["count"]) + tokens.shape[1]
        added = {"k": k, "v": v, "seen": positions}
        cache = {"count": last, **{name: cache[name].at[:, first:last].set(x) for name, x in added.items()}}
        k, v, seen = cache["k"], cache["v"], cache["seen"]
    allowed = (seen[:, None] <= positions[:, :, None]) & (seen[:, None] >= 0)
    scores = jnp.where(allowed, jnp.einsum("btd,bsd->bts", q, k), -1e30)
    return jnp.einsum("bts,bsd->btd", jax.nn.softmax(scores, -1), v) @ params["q"].T, cache


def empty(batch: int, length: int) -> dict[str, Any]:
    """Return a cache of `length` slots; position -1 marks an empty one."""
    zeros = jnp.zeros((batch, length, WIDTH))
    return {"k": zeros, "v": zeros, "seen": jnp.full((batch, length), -1), "count": 0}


def make_decoder() -> parity.CachedModel:
    """Return the model with its cache."""
    return parity.CachedModel(step, empty, lambda params, tokens, at: step(params, None, tokens, at)[0], params())


def logits(tokens: jax.Array) -> jax.Array:
    """Return the logits of the whole pass over tokens `(B, T)`."""
    at = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    return step(params(), None, tokens, at)[0]
