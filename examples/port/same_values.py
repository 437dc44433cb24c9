"""Both blocks of this folder with the same parameter values, for `attention layers`."""

import jax.numpy as jnp
import torch
from torch import nn

from examples.port import model_jax, model_torch


def make_torch() -> model_torch.Block:
    """Return the block in PyTorch."""
    _ = torch.manual_seed(0)
    return model_torch.Block()


def make_jax() -> model_jax.Block:
    """Return the block in Flax with the values of the block in PyTorch: a kernel is the transpose of a weight."""
    block = model_jax.Block()
    for name, layer in make_torch().named_children():
        linear = getattr(block, name)
        assert isinstance(layer, nn.Linear)  # noqa: S101 - for the type checker
        linear.kernel.set_value(jnp.asarray(layer.weight.detach().numpy().T))
        linear.bias.set_value(jnp.asarray(layer.bias.detach().numpy()))
    return block
