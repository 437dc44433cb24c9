"""The base class of all layers in Flax NNX: building parts, loading weights, dropout.

layer.load_weights(w); layer.weights() == w        bit for bit
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from attention import spec
from attention.jax_impl import params, random
from attention.jax_impl.attend import check_x64
from attention.jax_impl.random import check_seed
from attention.spec import random as spec_random
from attention.spec.axes import COMPUTE, Array, dtype_name
from attention.spec.dtypes import numpy_dtype
from attention.spec.layers.architecture import Architecture, check_contract
from attention.spec.layers.tokens import dropped
from attention.spec.options import SWITCH, TEXT, checked
from attention.spec.params import Weights


class Layer(nnx.Module):
    """A layer of a contract, or a model of an architecture. Abstract.

    Args:
        contract: what the layer is; what its tree of parameters names becomes the module's, under the same names.
        seed: of the first weights: the same bits in every framework. None leaves them undrawn, for a part of a layer.
        dtype: of the parameters.

    Raises:
        OptionError: no contract of this layer, or no seed.
        UnknownName: no such dtype.
        DTypeError: float64 while JAX's 64-bit mode is off.
    """

    contract: Any

    def __init__(self, contract: Architecture, *more: Any, seed: int | None = 0, dtype: str = "float32", **other: Any) -> None:
        check_contract(type(self).__name__, contract, _described(type(self)), *more, **other)
        kind = numpy_dtype(dtype)
        dtype = kind.name
        check_x64("dtype", dtype)
        if seed is not None:
            check_seed(seed)
        self.contract = contract
        self.build_parts(dtype)
        params.build(self, contract.own_params, contract.norms, dtype, getattr(contract, "precision", None))
        self.deterministic = False
        # A key of our own making: nnx would take neither a traced seed nor one of 64 bits.
        stream = jax.random.wrap_key_data(jnp.stack(random.key(0 if seed is None else seed)), impl="threefry2x32")
        self.rngs = nnx.Rngs(dropout=stream) if contract.drops else None
        if seed is not None:
            first = params.init(contract.params, seed)
            self.load_weights({name: value.astype(kind) for name, value in first.items()})

    def build_parts(self, dtype: str) -> None:
        """Build the parts of the layer; override it if a part is not a contract of this package."""
        for name, part in self.contract.parts.items():
            setattr(self, name, part.build("jax", seed=None, dtype=dtype))

    def set_view(self, deterministic: bool | None = None) -> None:
        """Switch dropout off or on, called by `nnx.view(layer, deterministic=True)` for every module."""
        (SWITCH | ", or None").check("deterministic", deterministic)
        if deterministic is not None:
            self.deterministic = deterministic

    def load_weights(self, weights: Mapping[str, Array]) -> None:
        """Load canonical weights, all or none.

        Raises:
            ParamError: weights are missing, unexpected or misshapen; all are named.
            DTypeError: weights would lose digits in the layer's dtype.
        """
        params.load(self, self.contract.params, weights)

    def weights(self) -> Weights:
        """Return the canonical weights, bit for bit."""
        return params.canonical(self, self.contract.params)

    def _seed(self, given: Any) -> Any:
        """Return the dropout seed of this call: drawn from the layer's own stream while training, unless given."""
        if given is not None:
            check_seed(given)
            return given
        if self.deterministic or self.rngs is None:
            return None
        return jax.random.bits(self.rngs.dropout())

    def drop(self, x: jax.Array, rate: float, seed: Any) -> jax.Array:
        """Return `x` with features dropped while training: the same ones in every framework, by the bits of `seed`."""
        if self.deterministic or not rate:
            return x
        # JAX would round 1 - rate to a narrow dtype before it divides by it.
        wide = x.astype(COMPUTE[dtype_name(x)])
        return dropped(jnp, wide, random.keep(self._seed(seed), rate, x.shape), rate).astype(x.dtype)


def _described(layer: type[Layer]) -> type[Architecture]:
    """Return the class of a layer's contract: that of the same name, of the class of ours from which it is derived."""
    ours = (kind for kind in layer.__mro__ if kind.__module__.startswith(__name__.rpartition(".")[0]))
    return getattr(spec, next(ours).__name__, Architecture)


@checked(name=TEXT)
def seed_at(seed: Any, name: str) -> Any:
    """Return the dropout seed of a place inside a layer: 32 bits that depend on the layer's seed and the place's name."""
    if seed is None:
        return None
    check_seed(seed)
    return spec_random.bits(random.key(seed), jnp.uint32(spec_random.label(name)))
