"""Swin v2's attention; the length of a key is taken over the wrong axis."""

import jax
import jax.numpy as jnp


def attention(p, x, heads=3):
    B, T, M = x.shape
    qkv = (x @ p["qkv.weight"].T).reshape(B, T, 3, heads, -1)
    q, k, v = jnp.moveaxis(qkv, (2, 3), (0, 2))
    q = q / jnp.linalg.norm(q, axis=-1, keepdims=True)
    # should be: k = k / jnp.linalg.norm(k, axis=-1, keepdims=True)
    k = k / jnp.linalg.norm(k, axis=-2, keepdims=True)
    scores = q @ k.swapaxes(-1, -2) * jnp.exp(jnp.minimum(p["logit_scale"], jnp.log(100.0)))
    y = jax.nn.softmax(scores, axis=-1) @ v
    return y.swapaxes(1, 2).reshape(B, T, M) @ p["proj.weight"].T + p["proj.bias"]


def build(checkpoint):
    return jax.checkpoint(attention), checkpoint
