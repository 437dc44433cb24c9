"""Random bits in JAX: the spec's threefry on uint32, independent of JAX's configured generator.

keep[i] = (bits[i] >> 9) < ceil(float32(1 - rate) * 2^23)        the same bits as NumPy's and torch's

A key of `jax.random` is a seed here, and `dropout_mask` is what `nnx.Dropout` keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attention.spec import random as spec
from attention.spec.axes import Array
from attention.spec.errors import OptionError, shown
from attention.spec.options import is_array
from attention.spec.random import jax_random, nnx_random

Device = Any
"""A device of JAX, a sharding, or None."""


def check_seed(seed: Any) -> None:
    """Raise OptionError unless a seed is an int, or integers of this framework or of NumPy."""
    if not isinstance(seed, (int, np.integer, np.ndarray, jax.Array)):
        of = ": a jax.Array or numpy.ndarray" if is_array(seed) else ""
        raise OptionError(f"seed {shown(seed)} must be an int in [0, 2**64), or an integer scalar{of}")


def key(seed: Array, device: Device = None) -> spec.Key:
    """Return the generator key of a seed, two uint32 scalars.

    Args:
        seed: an int in [0, 2^64), an integer scalar, whose low 32 bits count, a key of `jax.random` or its two words; arrays
            may be traced.
        device: of the words; None keeps their device.

    Raises:
        OptionError: an int outside the range, no integer, or a key of another generator.
    """
    if isinstance(seed, jax.Array) and jnp.issubdtype(seed.dtype, jax.dtypes.prng_key):
        seed = _key_data(seed)
    words = [jnp.asarray(word, jnp.uint32, device=device) for word in spec.key(seed)]
    return words[0], words[1]


def seed_of(of: Array) -> int:
    """Return the seed whose key this is, for `dropout_seed` in any backend: the two words of a key as one int.

    Args:
        of: a key, two words, of `jax.random` or of `spec.jax_random`.
    """
    if isinstance(of, jax.Array) and jnp.issubdtype(of.dtype, jax.dtypes.prng_key):
        of = _key_data(of)
    return jax_random.seed_of(jax_random.from_key_data(of))


def index(shape: tuple[int, ...], device: Device = None) -> jax.Array:
    """Return the row-major index of every element."""
    return jnp.arange(spec.count(shape), dtype=jnp.uint32, device=device).reshape(shape)


def keep(seed: Array, rate: float, shape: tuple[int, ...], device: Device = None) -> jax.Array:
    """Return the dropout mask of `shape`, True where a weight is kept.

    Args:
        seed: as in `key`.
        rate: probability of dropping, in [0, 1).
        shape: `(*batch, H, T, S)`.
        device: a device, or a sharding, each of whose devices computes its own part.
    """
    return below(key(seed), spec.keep_threshold(rate), index(shape, device))


def uniform(of: spec.Key, shape: tuple[int, ...]) -> jax.Array:
    """Return float32 numbers in [-1, 1), multiples of 2^-22."""
    return spec.mantissa(of, index(shape)).astype(jnp.float32) * jnp.float32(2.0**-22) - jnp.float32(1.0)


def below(of: spec.Key, threshold: int, index: jax.Array) -> jax.Array:
    """Return whether 23 random bits of each index are less than a threshold.

    Args:
        of: two words.
        threshold: an int in [0, 2^23].
        index: uint32, of any shape.
    """
    return spec.mantissa(of, index) < threshold


def bernoulli(of: Array, p: float = 0.5, shape: tuple[int, ...] = (), device: Device = None) -> jax.Array:
    """Return True with probability `p`: the bits of `jax.random.bernoulli(of, p, shape)`.

    Args:
        of: as `seed` in `key`: a key of `jax.random`, or one of `spec.jax_random`.
        p: in [0, 1].
        shape: of the answer.
        device: of the result.
    """
    if jax.config.read("jax_enable_x64"):
        # p is then a float64, for which JAX draws 64 bits a number.
        key = jax.random.wrap_key_data(jnp.stack(_words(of)), impl="threefry2x32")
        return jnp.asarray(jax.random.bernoulli(key, p, shape), device=device)
    return below(_words(of), jax_random.chance(p), index(shape, device))


def dropout_mask(
    rngs: Any, rate: float, shape: tuple[int, ...], broadcast_dims: Sequence[int] = (), device: Device = None
) -> jax.Array:
    """Return what `nnx.Dropout(rate, broadcast_dims)` keeps of an input: True where it is kept, and then over 1 - rate.

    Args:
        rngs: where the key comes from: `nnx.Rngs`, a stream of it, a key; or those of `spec.nnx_random`.
        rate: probability of dropping, in [0, 1]; at 0 and 1 no key is drawn.
        shape: of the input.
        broadcast_dims: axes along which one mask holds.
        device: of the array.
    """
    drawn = nnx_random.mask_shape(rate, shape, broadcast_dims)
    if rate in (0.0, 1.0):
        return jnp.full(shape, rate == 0.0, device=device)
    if isinstance(rngs, (nnx.Rngs, nnx.RngStream)):
        of = (rngs["dropout"] if isinstance(rngs, nnx.Rngs) else rngs)()
    else:
        of = rngs if isinstance(rngs, jax.Array) else nnx_random.next_key(rngs, "dropout")
    return jnp.broadcast_to(bernoulli(of, 1.0 - rate, drawn, device), shape)


def _words(of: Array) -> spec.Key:
    """Return the words of a key of either kind; an int is a seed."""
    return (jnp.asarray(of[0], jnp.uint32), jnp.asarray(of[1], jnp.uint32)) if isinstance(of, tuple) else key(of)


def _key_data(of: jax.Array) -> jax.Array:
    if "fry" not in str(of.dtype) or of.shape:
        raise OptionError(f"key {of.dtype} {of.shape} must be one key of threefry2x32, JAX's default generator")
    return jax.random.key_data(of)
