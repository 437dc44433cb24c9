"""Parameters in JAX: conversion between canonical weights and `nnx.LinearGeneral`, which has the same layout.

kernel (in..., out...) = kernel        bias (out...) = bias        any other = itself
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attention.jax_impl import norms as modules
from attention.jax_impl import random
from attention.spec import random as spec_random
from attention.spec.axes import COMPUTE, Array, dtype_name
from attention.spec.dtypes import numpy_dtype
from attention.spec.norms import Norm
from attention.spec.params import Param, Weights, check_weights


def init(params: Mapping[str, Param], seed: Array) -> dict[str, jax.Array]:
    """Return first weights in float32: the bits of the contract's own `init`, drawn in JAX; the seed may be traced."""
    return dict(zip(params, _draw(tuple(params.items()), random.key(seed)), strict=True))


@partial(jax.jit, static_argnums=0)
def _draw(params: tuple[tuple[str, Param], ...], root: spec_random.Key) -> list[jax.Array]:
    # One compilation for all of them: op by op, the generator costs seconds.
    return [_first(name, param, root) for name, param in params]


def _first(name: str, param: Param, root: spec_random.Key) -> jax.Array:
    if not param.limit:
        return jnp.full(param.shape, param.fill, jnp.float32)
    child = spec_random.fold_in(root, jnp.uint32(spec_random.label(name)))
    return random.uniform(child, param.shape) * jnp.float32(param.limit)


def build(
    module: nnx.Module, params: Mapping[str, Param], norms: Mapping[str, Norm], dtype: str, precision: str | None = None
) -> None:
    """Give a module what a parameter tree names: an `nnx.LinearGeneral` for a kernel and its bias, a `Norm`, an `nnx.Param`.

    Args:
        module: has none of them yet.
        params: the tree, without the parts that are layers of their own.
        norms: the norms among the names of the tree.
        dtype: of the parameters.
        precision: of the products.
    """
    kind = numpy_dtype(dtype)
    for name, norm in norms.items():
        # A norm that learns nothing is of any width.
        widths = [param.shape[0] for inner, param in params.items() if inner.startswith(f"{name}.")]
        setattr(module, name, modules.Norm(norm, widths[0] if widths else 1, dtype=dtype))
    for name, param in params.items():
        part, _, leaf = name.rpartition(".")
        if param.inputs:
            setattr(module, part, _linear(param, kind, precision, use_bias=f"{part}.bias" in params))
        elif not part:
            setattr(module, leaf, nnx.Param(jnp.full(param.shape, param.fill, kind), **_sharding(param.axes)))


class Linear(nnx.LinearGeneral):
    """A linear map whose bias is added in the compute dtype: its gradient would else be summed in float16 or bfloat16."""

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        """Return `inputs W + b`, in the layer's dtype."""
        return super().__call__(inputs, out_sharding).astype(self.dtype)


def _promote(args: Any, /, *, dtype: Any = None, inexact: bool = True) -> Any:
    del inexact
    inputs, kernel, bias = args
    return inputs.astype(dtype), kernel.astype(dtype), bias if bias is None else bias.astype(COMPUTE[str(np.dtype(dtype))])


def _linear(param: Param, kind: np.dtype, precision: str | None, *, use_bias: bool) -> Linear:
    return Linear(
        param.shape[: param.inputs],
        param.shape[param.inputs :],
        axis=tuple(range(-param.inputs, 0)),
        use_bias=use_bias,
        promote_dtype=_promote,
        dtype=kind,
        param_dtype=kind,
        kernel_init=nnx.initializers.zeros,
        precision=precision,
        rngs=nnx.Rngs(0),
        kernel_metadata=_sharding(param.axes),
        bias_metadata=_sharding(param.axes[param.inputs :]),
    )


def _sharding(axes: str) -> dict[str, Any]:
    """Return the metadata that names a parameter's axes for `nnx.get_partition_spec`, by their letters in `spec.axes`."""
    # Eager sharding would need a mesh before the first parameter exists.
    return {"out_sharding": tuple(axes), "eager_sharding": False}


def loose(module: nnx.Module, params: Mapping[str, Param], dtype: Any) -> dict[str, jax.Array]:
    """Return the parameters that belong to no part of a module, in `dtype`."""
    return {name: getattr(module, name).get_value().astype(dtype) for name in params if "." not in name}


def parameter(module: nnx.Module, name: str) -> Any:
    """Return the module's `nnx.Param` with a canonical name."""
    found: Any = module
    for part in name.split("."):
        found = found[int(part)] if part.isdigit() else getattr(found, part)
    return found


def load(module: nnx.Module, params: Mapping[str, Param], weights: Mapping[str, Array]) -> None:
    """Load canonical weights into a module whose parameters bear the canonical names; all are checked before any moves.

    Raises:
        ParamError: weights are missing, unexpected or misshapen; all are named.
        DTypeError: weights would lose digits in the module's dtype.
    """
    # A layer that learns nothing has no dtype, and takes no weights.
    dtype = dtype_name(parameter(module, next(iter(params)))) if params else ""
    check_weights(params, weights, dtype, (np.ndarray, jax.Array))
    # A copy: jnp.asarray may share the caller's memory, and change with it.
    native = {name: jnp.array(weights[name], dtype) for name in params}
    for name, array in native.items():
        parameter(module, name).set_value(array)


def canonical(module: nnx.Module, params: Mapping[str, Param]) -> Weights:
    """Return a module's parameters as canonical weights, bit for bit."""
    return {name: np.array(parameter(module, name).get_value()) for name in params}
