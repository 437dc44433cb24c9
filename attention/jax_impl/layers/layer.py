"""Layer: what every contract's `nnx.Module` can do.

layer.load_weights(w); layer.weights() == w        bit for bit
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from attention.jax_impl import params, random
from attention.jax_impl.attend import check_x64
from attention.spec.axes import Array
from attention.spec.layers.contract import Contract
from attention.spec.params import Weights, numpy_dtype


class Layer(nnx.Module):
    """A layer of a contract. Abstract.

    Args:
        contract: what the layer is.
        seed: of the first weights: the same bits in every framework. None leaves them undrawn, for a part of a layer.
        dtype: of the parameters.

    Raises:
        UnknownName: no such dtype.
        DTypeError: float64 while JAX's 64-bit mode is off.
    """

    contract: Any

    def __init__(self, contract: Contract, *, seed: int | None = 0, dtype: str = "float32") -> None:
        self.contract = contract
        kind = numpy_dtype(dtype)
        check_x64("dtype", dtype)
        self._build_parts(dtype)
        params.build(self, contract.own_params, contract.norms, dtype, getattr(contract, "precision", None))
        self.deterministic = False
        # A key of our own making: nnx would take neither a traced seed nor one of 64 bits.
        stream = jax.random.wrap_key_data(jnp.stack(random.key(0 if seed is None else seed)), impl="threefry2x32")
        self.rngs = nnx.Rngs(dropout=stream) if contract.drops else None
        if seed is not None:
            first = params.init(contract.params, seed)
            self.load_weights({name: value.astype(kind) for name, value in first.items()})

    def _build_parts(self, dtype: str) -> None:
        """Make the layers of which this one consists."""

    def set_view(self, deterministic: bool | None = None) -> None:
        """Switch dropout off or on, as `nnx.view(layer, deterministic=True)` asks of every module it finds."""
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
        if given is not None or self.deterministic or self.rngs is None:
            return given
        return jax.random.bits(self.rngs.dropout())
