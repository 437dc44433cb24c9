"""Gemma 2's attention as its authors write it: einsum kernels, attention logits soft-capped."""

import jax
import jax.numpy as jnp

CAP, QUERY_SCALE, MASKED = 5.0, 9.0, -2.3819763e38


def attention(params, x):
    T = x.shape[1]
    q = jnp.einsum("btm,mhd->bthd", x, params["q"]) * QUERY_SCALE**-0.5
    k, v = jnp.einsum("bsm,cmhd->cbshd", x, params["kv"])
    logits = jnp.einsum("bthd,bshd->bhts", q, k)
    logits = jnp.tanh(logits / CAP) * CAP  # here
    logits = jnp.where(jnp.tril(jnp.ones((T, T), bool)), logits, MASKED)
    encoded = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(logits, axis=-1), v)
    return jnp.einsum("bthd,hdm->btm", encoded, params["o"])


def build(checkpoint):
    q, k, v = (checkpoint[f"{n}_proj.weight"].T.reshape(9, 2, 7) for n in "qkv")
    return attention, {"q": q, "kv": jnp.stack([k, v]), "o": checkpoint["o_proj.weight"].T.reshape(2, 7, 9)}
