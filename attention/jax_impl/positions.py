"""Positions in JAX: rotary tables in float64 regardless of jax_enable_x64, rotation and biases in the compute dtype.

rotate(x, p)      x turned by p                             Rotary, AxialRotary
bias(q, p, r)     what the scores of q are added            Alibi, RelativeBias, RelativeKeys
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from attention.spec import positions as spec
from attention.spec.axes import COMPUTE, Array, Sizes, dtype_name
from attention.spec.errors import PositionError
from attention.spec.positions import AxialRotary, Positions, Rotation, ScoreBias, check_positions


def rotate(rotary: Rotation | None, x: jax.Array, positions: Array = None, *, length: Array = None) -> jax.Array:
    """Rotate heads to their positions.

    Args:
        rotary: the contract's rotation; None returns `x`.
        x: `(*batch, N, heads, D)`.
        positions: integers that broadcast to `(*batch, N)`, for `AxialRotary` to `(*batch, N, 2)`; None counts from 0.
        length: of the call, for a scaling that depends on it: an int or an integer without axes; None: the largest
            position + 1. Queries and keys of one call share one, see `shared_length`; so do the steps of a decode whose
            cache keeps rotated keys.

    Returns:
        The shape and dtype of `x`.

    Raises:
        PositionError: no positions for `AxialRotary`.
    """
    if rotary is None:
        return x
    if positions is None and isinstance(rotary, AxialRotary):
        raise PositionError("positions None must be given for AxialRotary: (*batch, N, 2) rows and columns")
    compute = COMPUTE[dtype_name(x)]
    where = _counted(positions, x.shape[-3])
    # In float32 the angle of position 8190 is off by 2e-4 radians; this scope reaches no other computation.
    with jax.enable_x64(True):
        constants = tuple(jnp.asarray(c) for c in rotary.constants(x.shape[-1]))
        span = None if length is None else jnp.asarray(length).astype(jnp.float64)
        cos, sin = (t.astype(compute) for t in rotary.turns(jnp, where.astype(jnp.float64), constants, span))
    return rotary.rotate(jnp, x.astype(compute), cos, sin).astype(x.dtype)


def shared_length(positions: Positions | None, query_positions: Array, key_positions: Array) -> jax.Array | None:
    """Return the length that both rotations of a call are given, or None: the spec's `shared_length`."""
    if not getattr(positions, "grows", False) or query_positions is None or key_positions is None:
        return None
    where = (_native(x) for x in (query_positions, key_positions))
    return spec.shared_length(jnp, positions, *where)


def bias(
    positions: ScoreBias | None,
    weights: Mapping[str, jax.Array],
    q: jax.Array,
    query_positions: Array = None,
    key_positions: Array = None,
    *,
    scale: float,
    sizes: Sizes,
) -> jax.Array | None:
    """Return what the scores are added.

    Args:
        positions: the contract's score bias; None returns None.
        weights: its learned arrays, by the names of its `params`.
        q: `(*batch, T, H, D)`, as the scores read it, not scaled.
        query_positions: integers that broadcast to `(*batch, T)`; None, for both where T = S, counts from 0.
        key_positions: integers that broadcast to `(*batch, S)`.
        scale: of the scores.
        sizes: of the call.

    Returns:
        Broadcasts to `(*batch, H, T, S)`, in the compute dtype.

    Raises:
        PositionError: positions are missing or do not fit.
        ShapeError: the wrong shape.
    """
    if positions is None:
        return None
    check_positions(query_positions, key_positions, sizes, positions)
    compute = COMPUTE[dtype_name(q)]
    where = _counted(query_positions, sizes.T), _counted(key_positions, sizes.S)
    learned = {name: value.astype(compute) for name, value in weights.items()}
    return positions.bias(jnp, learned, q.astype(compute), *where, scale)


def _counted(positions: Array, count: int) -> jax.Array:
    """Return the positions as an array of JAX, those that are None counting from 0."""
    return jnp.arange(count) if positions is None else _native(positions)


def _native(x: Array) -> jax.Array:
    if not isinstance(x, (jax.Array, np.ndarray)):
        raise PositionError(f"positions {type(x).__module__}.{type(x).__name__} must be a jax.Array or numpy.ndarray")
    return jnp.asarray(x)
