"""Positions in JAX: angles in float64 whatever the 64-bit switch says, rotation in the compute dtype.

angle[p, i] = p * base^(-2i / R)        radians
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from attention.spec.axes import COMPUTE, Array, dtype_name
from attention.spec.positions import Rotary


def rotate(rotary: Rotary | None, x: jax.Array, positions: Array = None) -> jax.Array:
    """Rotate heads to their positions.

    Args:
        rotary: the contract's positions; None returns `x`.
        x: `(*batch, N, heads, D)`.
        positions: integers that broadcast to `(*batch, N)`; None counts from 0.

    Returns:
        The shape and dtype of `x`.
    """
    if rotary is None:
        return x
    compute = COMPUTE[dtype_name(x)]
    where = jnp.arange(x.shape[-3]) if positions is None else jnp.asarray(positions)
    # In float32 the angle of position 8190 is off by 2e-4 radians; this scope reaches no other computation.
    with jax.enable_x64(True):
        angles = where.astype(jnp.float64)[..., None] * rotary.frequencies(x.shape[-1])
        cos, sin = jnp.cos(angles).astype(compute), jnp.sin(angles).astype(compute)
    return rotary.rotate(jnp, x.astype(compute), cos, sin).astype(x.dtype)
