"""Attention with linear biases."""

import jax
import jax.numpy as jnp
import numpy as np


def slopes(heads):
    n = 2 ** int(np.log2(heads))
    # should be: rest = np.arange(1, 2 * (heads - n), 2) / 2
    rest = np.arange(n + 1, heads + 1)
    return 2.0 ** (-8 / n * np.concatenate([np.arange(1, n + 1), rest]))


def attention(p, x, heads=6):
    B, T, M = x.shape
    q, k, v = jnp.split(x @ p["qkv.weight"].T + p["qkv.bias"], 3, axis=-1)
    q, k, v = (y.reshape(B, T, heads, -1) for y in (q, k, v))
    distance = jnp.arange(T)[None, :] - jnp.arange(T)[:, None]
    bias = slopes(heads)[:, None, None] * distance  # here
    scores = jnp.einsum("bthd,bshd->bhts", q, k) / jnp.sqrt(M / heads) + bias
    scores = jnp.where(distance <= 0, scores, -jnp.inf)
    y = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores, axis=-1), v)
    return y.reshape(B, T, M) @ p["out.weight"].T + p["out.bias"]


def build(checkpoint):
    return attention, checkpoint
