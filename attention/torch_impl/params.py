"""Parameters in PyTorch: conversion between canonical weights and `nn.Linear` by reshape and transpose.

weight (out, in) = kernel (in..., out...) as a matrix, transposed        bias (out) = bias, flattened
weight (N) = scale        any other = itself
"""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from attention.spec import random as spec_random
from attention.spec.axes import Array, dtype_name
from attention.spec.errors import ParamError
from attention.spec.norms import Norm
from attention.spec.params import Param, Weights, check_weights
from attention.torch_impl import norms as modules
from attention.torch_impl import random


def init(params: Mapping[str, Param], seed: int) -> dict[str, Tensor]:
    """Return first weights in float32: the bits of the contract's own `init`, drawn in torch."""
    root = spec_random.key(seed)
    return {name: _first(name, param, root) for name, param in params.items()}


def _first(name: str, param: Param, root: spec_random.Key) -> Tensor:
    if not param.limit:
        return torch.full(param.shape, param.fill)
    return random.uniform(spec_random.fold_in(root, spec_random.label(name)), param.shape) * param.limit


def build(module: nn.Module, params: Mapping[str, Param], norms: Mapping[str, Norm], dtype: str) -> None:
    """Give a module what a parameter tree names: an `nn.Linear` for a kernel and its bias, a `Norm`, an `nn.Parameter`.

    Args:
        module: has none of them yet.
        params: the tree, without the parts that are layers of their own.
        norms: the norms among the names of the tree.
        dtype: of the parameters.
    """
    kind = getattr(torch, dtype)
    for name, norm in norms.items():
        # A norm that learns nothing is of any width.
        widths = [param.shape[0] for inner, param in params.items() if inner.startswith(f"{name}.")]
        module.add_module(name, modules.Norm(norm, widths[0] if widths else 1, dtype=dtype))
    for name, param in params.items():
        part, _, leaf = name.rpartition(".")
        if param.inputs:
            width, out = (torch.Size(axes).numel() for axes in (param.shape[: param.inputs], param.shape[param.inputs :]))
            # torch's own first values would move its global generator for nothing.
            linear = skip_init(nn.Linear, width, out, bias=f"{part}.bias" in params, dtype=kind)
            module.add_module(part, linear)
        elif not part:
            module.register_parameter(leaf, nn.Parameter(torch.full(param.shape, param.fill, dtype=kind)))


def loose(module: nn.Module, params: Mapping[str, Param], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the parameters that belong to no part of a module, in `dtype`."""
    # Not get_parameter: torch.func puts tensors that are no parameters in their place.
    return {name: getattr(module, name).to(dtype) for name in params if "." not in name}


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
    """Return a canonical array in torch's layout; arrays that are not kernels keep their axes."""
    rows = int(np.prod(param.shape[: param.inputs]))
    return array.reshape(rows, -1).T if param.inputs else array


def to_canonical(param: Param, tensor: Tensor) -> Tensor:
    """Return what torch stores in the canonical layout."""
    return (tensor.T if param.inputs else tensor).reshape(param.shape)


def parameter(module: nn.Module, name: str) -> nn.Parameter:
    """Return the module's parameter with a canonical name: "kernel" and "scale" are torch's "weight"."""
    part, dot, leaf = name.rpartition(".")
    return module.get_parameter(part + dot + ({"kernel": "weight", "scale": "weight"}.get(leaf, leaf) if dot else leaf))


@torch.no_grad()
def load(module: nn.Module, params: Mapping[str, Param], weights: Mapping[str, Array]) -> None:
    """Load canonical weights into a module whose parameters bear the canonical names; all are checked before any moves.

    Raises:
        ParamError: weights are missing, unexpected or misshapen; all are named.
        DTypeError: weights would lose digits in the module's dtype.
    """
    # A layer that learns nothing has no dtype, and takes no weights.
    dtype = dtype_name(parameter(module, next(iter(params)))) if params else ""
    check_weights(params, weights, dtype, (np.ndarray, Tensor))
    for name, array in weights.items():
        if isinstance(array, Tensor) and (array.is_meta or array.layout is not torch.strided):
            raise ParamError(f"{name} must be a dense torch.Tensor that holds numbers, not on the meta device")
    native = {name: to_native(param, to_tensor(weights[name])) for name, param in params.items()}
    for name, tensor in native.items():
        target = parameter(module, name)
        _ = target.copy_(tensor.reshape(target.shape))


def canonical(module: nn.Module, params: Mapping[str, Param]) -> Weights:
    """Return a module's parameters as canonical weights, bit for bit."""
    return {name: to_numpy(to_canonical(param, parameter(module, name))) for name, param in params.items()}
