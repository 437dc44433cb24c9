"""Norms in JAX: the spec's formula with learned parameters, in the compute dtype.

y = norm(x)        see attention/spec/norms.py
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from attention.spec import norms as spec
from attention.spec.axes import COMPUTE, dtype_name
from attention.spec.dtypes import numpy_dtype


class Norm(nnx.Module):
    """A norm over the last axis; its parameters are "scale" and perhaps "bias", as Flax's own norms call them.

    Args:
        norm: what the norm is.
        width: the number of features.
        dtype: of the parameters.
    """

    def __init__(self, norm: spec.Norm, width: int, *, dtype: str = "float32") -> None:
        self.norm = norm
        for name, param in norm.params(width).items():
            first = jnp.full(param.shape, param.fill, numpy_dtype(dtype))
            setattr(self, name, nnx.Param(first, out_sharding=tuple(param.axes), eager_sharding=False))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return `x` `(..., N)`, normalised, in its own dtype."""
        compute = COMPUTE[dtype_name(x)]
        weights = {name: getattr(self, name).get_value().astype(compute) for name in self.norm.params(x.shape[-1])}
        return self.norm.normalise(jnp, weights, x.astype(compute)).astype(x.dtype)
