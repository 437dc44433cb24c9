"""Random bits in JAX: the spec's threefry on uint32, whatever generator JAX is set to.

keep[i] = (bits[i] >> 9) < ceil(float32(1 - rate) * 2^23)        the same bits as NumPy's and torch's
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from attention.spec import random as spec
from attention.spec.axes import Array


def key(seed: Array) -> spec.Key:
    """Return the generator key of a seed, an int in [0, 2^64) or an integer scalar, traced or not."""
    words = spec.key(seed)
    return jnp.asarray(words[0], jnp.uint32), jnp.asarray(words[1], jnp.uint32)


def index(shape: tuple[int, ...]) -> jax.Array:
    """Return the row-major index of every element."""
    return jnp.arange(spec.count(shape), dtype=jnp.uint32).reshape(shape)


def keep(seed: Array, rate: float, shape: tuple[int, ...]) -> jax.Array:
    """Return the dropout mask of `shape`, True where a weight is kept.

    Args:
        seed: an int, or an integer scalar, which may be traced.
        rate: probability of dropping, in [0, 1).
        shape: `(*batch, H, T, S)`.
    """
    return spec.mantissa(key(seed), index(shape)) < spec.keep_threshold(rate)


def uniform(of: spec.Key, shape: tuple[int, ...]) -> jax.Array:
    """Return float32 numbers in [-1, 1), multiples of 2^-22."""
    return spec.mantissa(of, index(shape)).astype(jnp.float32) * jnp.float32(2.0**-22) - jnp.float32(1.0)
