"""Gemma 3's layers, counted from zero where the original counts from one."""

import jax
import jax.numpy as jnp

HEADS, WINDOW, PATTERN = 2, 2, 3


def rms_norm(x, weight):
    return x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6) * weight


def layer(p, x, mask):
    B, T, M = x.shape
    q, k, v = jnp.split(rms_norm(x, p["norm.weight"]) @ p["qkv.weight"].T, 3, axis=-1)
    q, k, v = (y.reshape(B, T, HEADS, M // HEADS) for y in (q, k, v))
    scores = jnp.einsum("bthd,bshd->bhts", q, k) / jnp.sqrt(M // HEADS)
    scores = jnp.where(mask, scores, -jnp.inf)  # here
    y = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores, axis=-1), v)
    return x + y.reshape(B, T, M) @ p["out.weight"].T


def stack(layers, x):
    n = jnp.arange(x.shape[1])[:, None] - jnp.arange(x.shape[1])
    for i, p in enumerate(layers):
        # should be: sees_all = (i + 1) % PATTERN == 0
        sees_all = i % PATTERN == 0
        mask = n >= 0 if sees_all else (n >= 0) & (n < WINDOW)  # here
        x = layer(p, x, mask)
    return x


def build(checkpoint):
    names = ("norm.weight", "qkv.weight", "out.weight")
    return stack, [{name: checkpoint[f"layers.{i}.{name}"] for name in names} for i in range(3)]
