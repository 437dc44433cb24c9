"""Additive attention scores in JAX, with all hidden features at once or in chunks, forward and backward.

x[t, s] = sum_a v[a] tanh(q[t, a] + k[s, a])        see attention/spec/layers/alignment_scores.py

A scan would keep every slice's tanh for the backward pass, and together they are the (*batch, T, S, A) array again; so each
slice is a checkpoint, and made anew.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from attention.spec.layers import alignment_scores as spec


def additive(q: jax.Array, k: jax.Array, v: jax.Array, *, chunk_size: int | None = None) -> jax.Array:
    """Return `v . tanh(q + k)` of every pair.

    Args:
        q: `(*batch, T, A)`, the mapped queries, in the compute dtype; so are the others.
        k: `(*batch, S, A)`, the mapped keys.
        v: `(A,)`.
        chunk_size: features computed at a time; None for all A.

    Returns:
        `(*batch, T, S)`.
    """
    if chunk_size is None:
        return spec.additive(jnp, q, k, v)
    # Only the term is a checkpoint: of the whole step JAX would keep the running sum as well.
    term = jax.checkpoint(partial(spec.additive, jnp), prevent_cse=False)

    def step(total: jax.Array, part: Any) -> tuple[jax.Array, None]:
        return total + term(*part), None

    nothing = jnp.zeros((*q.shape[:-1], k.shape[-2]), q.dtype)
    return jax.lax.scan(step, nothing, tuple(_slices(x, chunk_size) for x in (q, k, v)))[0]


def _slices(x: jax.Array, chunk_size: int) -> jax.Array:
    """Return `(..., A)` as `(ceil(A / chunk_size), ..., chunk_size)`, the last chunk padded with zeros."""
    chunk_size = min(chunk_size, x.shape[-1])
    # tanh 0 = 0, so a feature of zeros adds nothing.
    filled = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % chunk_size)])
    return jnp.moveaxis(filled.reshape(*x.shape[:-1], -1, chunk_size), -2, 0)
