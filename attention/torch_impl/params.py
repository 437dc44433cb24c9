"""Parameters in torch: canonical weights to `nn.Linear` and back, by reshape and transpose alone.

weight (out, in) = kernel (in..., out...) as a matrix, transposed        bias (out) = bias, flattened
"""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import torch
from torch import Tensor, nn

from attention.spec import random as spec_random
from attention.spec.axes import Array, dtype_name
from attention.spec.params import Param, Weights, check_weights
from attention.torch_impl import random


def init(params: Mapping[str, Param], seed: int) -> dict[str, Tensor]:
    """Return first weights in float32: the bits of the contract's own `init`, drawn in torch."""
    root = spec_random.key(seed)
    return {
        name: random.uniform(spec_random.fold_in(root, spec_random.label(name)), param.shape) * param.limit
        for name, param in params.items()
    }


def to_tensor(array: Array) -> Tensor:
    """Return a NumPy array as a tensor of the same bits, bfloat16 included. A tensor passes through."""
    if isinstance(array, Tensor):
        return array
    array = np.array(array)
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def to_numpy(tensor: Tensor) -> np.ndarray:
    """Return a copy of a tensor as a NumPy array of the same bits, bfloat16 included."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16).copy()
    return tensor.numpy().copy()


def to_native(param: Param, array: Tensor) -> Tensor:
    """Return a canonical array as `nn.Linear` stores it."""
    rows = int(np.prod(param.shape[: param.inputs]))
    return array.reshape(rows, -1).T if param.inputs else array.reshape(-1)


def to_canonical(param: Param, tensor: Tensor) -> Tensor:
    """Return what `nn.Linear` stores in the canonical layout."""
    return (tensor.T if param.inputs else tensor).reshape(param.shape)


def parameter(module: nn.Module, name: str) -> nn.Parameter:
    """Return the module's parameter with a canonical name: "kernel" is torch's "weight"."""
    return module.get_parameter(name.replace(".kernel", ".weight"))


@torch.no_grad()
def load(module: nn.Module, params: Mapping[str, Param], weights: Mapping[str, Array]) -> None:
    """Load canonical weights into a module whose parameters bear the canonical names; all are checked before any moves.

    Raises:
        ParamError: weights are missing, unexpected or misshapen; all are named.
        DTypeError: weights would lose digits in the module's dtype.
    """
    check_weights(params, weights, dtype_name(parameter(module, next(iter(params)))), (np.ndarray, Tensor))
    native = {name: to_native(param, to_tensor(weights[name])) for name, param in params.items()}
    for name, tensor in native.items():
        _ = parameter(module, name).copy_(tensor)


def canonical(module: nn.Module, params: Mapping[str, Param]) -> Weights:
    """Return a module's parameters as canonical weights, bit for bit."""
    return {name: to_numpy(to_canonical(param, parameter(module, name))) for name, param in params.items()}
