"""Parameters in JAX: canonical weights to `nnx.LinearGeneral` and back, which store the same layout.

kernel (in..., out...) = kernel        bias (out...) = bias
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attention.jax_impl import random
from attention.spec import random as spec_random
from attention.spec.axes import Array, dtype_name
from attention.spec.params import Param, Weights, check_weights


def init(params: Mapping[str, Param], seed: Array) -> dict[str, jax.Array]:
    """Return first weights in float32: the bits of the contract's own `init`, drawn in JAX; the seed may be traced."""
    return dict(zip(params, _draw(tuple(params.items()), random.key(seed)), strict=True))


@partial(jax.jit, static_argnums=0)
def _draw(params: tuple[tuple[str, Param], ...], root: spec_random.Key) -> list[jax.Array]:
    # One compilation for all of them: op by op, the generator costs seconds.
    return [
        random.uniform(spec_random.fold_in(root, jnp.uint32(spec_random.label(name))), param.shape) * jnp.float32(param.limit)
        for name, param in params
    ]


def parameter(module: nnx.Module, name: str) -> Any:
    """Return the module's `nnx.Param` with a canonical name."""
    for part in name.split("."):
        module = getattr(module, part)
    return module


def load(module: nnx.Module, params: Mapping[str, Param], weights: Mapping[str, Array]) -> None:
    """Load canonical weights into a module whose parameters bear the canonical names; all are checked before any moves.

    Raises:
        ParamError: weights are missing, unexpected or misshapen; all are named.
        DTypeError: weights would lose digits in the module's dtype.
    """
    dtype = dtype_name(parameter(module, next(iter(params))))
    check_weights(params, weights, dtype, (np.ndarray, jax.Array))
    # A copy: jnp.asarray may share the caller's memory, and change with it.
    native = {name: jnp.array(weights[name], dtype) for name in params}
    for name, array in native.items():
        parameter(module, name).set_value(array)


def canonical(module: nnx.Module, params: Mapping[str, Param]) -> Weights:
    """Return a module's parameters as canonical weights, bit for bit."""
    return {name: np.array(parameter(module, name).get_value()) for name in params}
