"""Published ports beside their PyTorch originals, in small random configurations, with mistakes planted in the packages.

The format of a pair is that of `conformance.wild`; an entry of MISTAKES with a "module" is planted in that module's source
text, and its line is a line of that module. A pair is skipped where its packages are not installed.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import torch
from flax import nnx


def spread(module: torch.nn.Module) -> torch.nn.Module:
    """Return the module in eval mode, with linear maps that keep the scale and vectors that are neither zeros nor ones."""
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, torch.nn.Linear):
                _ = part.weight.normal_(std=part.in_features**-0.5)
        for parameter in module.parameters():
            if parameter.ndim == 1 and parameter.requires_grad:
                _ = parameter.add_(0.2 * torch.randn_like(parameter))
    return module.eval()


def numbers(tensors: Mapping[str, torch.Tensor], rename: Callable[[str], Any]) -> dict[str, np.ndarray]:
    """Return a state dict by the port's names.

    Args:
        tensors: the state dict.
        rename: returns the port's name, and None or a pair (permutation or None, shape or None), as tunix has it.
    """
    arrays = {}
    for key, tensor in tensors.items():
        name, transform = rename(key)
        order, shape = transform or (None, None)
        array = tensor.detach().numpy()
        array = array if order is None else array.transpose(order)
        arrays[name] = array if shape is None else array.reshape(shape)
    return arrays


def fill(model: nnx.Module, arrays: Mapping[str, Any]) -> nnx.Module:
    """Return the model with arrays by dotted name: each of the model's, and none that it has not."""
    state = nnx.state(model)
    left = dict(arrays)
    for path, variable in state.flat_state():
        array = np.asarray(left.pop(".".join(map(str, path))))
        if array.shape != variable.shape:
            raise ValueError(f"{path} is of shape {array.shape}; wanted {variable.shape}")
        variable.set_value(array)
    if left:
        raise ValueError(f"{sorted(left)} have no place in the port")
    nnx.update(model, state)
    return model


def randomised(model: nnx.Module, seed: int) -> nnx.Module:
    """Return the model with values of its own everywhere, where a port starts from zeros and ones."""
    keys = iter(jax.random.split(jax.random.key(seed), 99))
    nnx.update(model, jax.tree.map(lambda p: p + 0.1 * jax.random.normal(next(keys), p.shape), nnx.state(model)))
    return model
