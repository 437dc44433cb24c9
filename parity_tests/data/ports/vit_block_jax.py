"""A block of a vision transformer in Flax NNX."""

import jax
from flax import nnx


class Block(nnx.Module):
    def __init__(self, width, heads, *, rngs):
        # should be: self.norm1 = nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs)
        self.norm1 = nnx.LayerNorm(width, rngs=rngs)
        self.attn = nnx.MultiHeadAttention(heads, width, decode=False, rngs=rngs)
        self.norm2 = nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs)
        self.fc1 = nnx.Linear(width, 2 * width, rngs=rngs)
        self.fc2 = nnx.Linear(2 * width, width, rngs=rngs)

    def __call__(self, x):
        y = self.norm1(x)  # here
        x = x + self.attn(y)
        return x + self.fc2(jax.nn.gelu(self.fc1(self.norm2(x)), approximate=False))


def convert(p, width, heads):
    w, b = p["attn.in_proj_weight"].reshape(3, width, width), p["attn.in_proj_bias"].reshape(3, width)
    attn = {
        name: {"kernel": w[i].T.reshape(width, heads, -1), "bias": b[i].reshape(heads, -1)}
        for i, name in enumerate(("query", "key", "value"))
    }
    attn["out"] = {"kernel": p["attn.out_proj.weight"].T.reshape(heads, -1, width), "bias": p["attn.out_proj.bias"]}
    norms = {n: {"scale": p[f"{n}.weight"], "bias": p[f"{n}.bias"]} for n in ("norm1", "norm2")}
    mlp = {n: {"kernel": p[f"mlp.{i}.weight"].T, "bias": p[f"mlp.{i}.bias"]} for n, i in (("fc1", 0), ("fc2", 2))}
    return {"attn": attn, **norms, **mlp}


def build(checkpoint):
    block = Block(10, 2, rngs=nnx.Rngs(0))
    params = nnx.state(block, nnx.Param)
    nnx.replace_by_pure_dict(params, convert(checkpoint, 10, 2))
    nnx.update(block, params)
    return block
