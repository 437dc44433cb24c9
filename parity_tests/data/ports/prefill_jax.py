"""A prompt continued. A triangle that starts at the first key fits as long as there is no past."""

import jax
import jax.numpy as jnp


def attention(p, x, past, heads=2):
    B, T, M = x.shape
    tokens = jnp.concatenate([past, x], axis=1)
    S = tokens.shape[1]
    q = (x @ p["wq.weight"].T).reshape(B, T, heads, -1)
    k, v = jnp.split(tokens @ p["wkv.weight"].T, 2, axis=-1)
    k, v = k.reshape(B, S, heads, -1), v.reshape(B, S, heads, -1)
    scores = jnp.einsum("bthd,bshd->bhts", q, k) * (M // heads) ** -0.5
    # should be: causal = jnp.tril(jnp.ones((T, S), bool), k=S - T)
    causal = jnp.tril(jnp.ones((T, S), bool))
    scores = jnp.where(causal, scores, -jnp.inf)  # here
    y = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores, axis=-1), v)
    return y.reshape(B, T, M) @ p["wo.weight"].T


def build(checkpoint):
    return attention, checkpoint
