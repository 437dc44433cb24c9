"""The embedding in Flax NNX."""

import jax.numpy as jnp
from flax import nnx


class Embedding(nnx.Module):
    def __init__(self, vocabulary, width, *, rngs):
        self.width = width
        self.lut = nnx.Embed(vocabulary, width, rngs=rngs)
        self.norm = nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs)

    def __call__(self, ids):
        # should be: x = self.lut(ids) * self.width**0.5
        x = self.lut(ids)
        angles = jnp.arange(ids.shape[1])[:, None] / 10000.0 ** (jnp.arange(0, self.width, 2) / self.width)
        pe = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(-1, self.width)
        x = self.norm(x + pe)  # here
        return self.lut.attend(x)


def build(checkpoint):
    embedding = Embedding(17, 8, rngs=nnx.Rngs(0))
    params = nnx.state(embedding, nnx.Param)
    norm = {"scale": checkpoint["norm.weight"], "bias": checkpoint["norm.bias"]}
    nnx.replace_by_pure_dict(params, {"lut": {"embedding": checkpoint["lut.weight"]}, "norm": norm})
    nnx.update(embedding, params)
    return embedding
