"""Layer: what every contract's `nn.Module` can do.

layer.load_weights(w); layer.weights() == w        bit for bit
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from attention.spec.axes import Array
from attention.spec.layers.contract import Contract
from attention.spec.params import Weights, numpy_dtype
from attention.torch_impl import params


class Layer(nn.Module):
    """A layer of a contract. Abstract.

    Args:
        contract: what the layer is.
        seed: of the first weights: the same bits in every framework. None leaves them undrawn, for a part of a layer.
        dtype: of the parameters.

    Raises:
        UnknownName: no such dtype.
    """

    contract: Any

    def __init__(self, contract: Contract, *, seed: int | None = 0, dtype: str = "float32") -> None:
        super().__init__()
        self.contract = contract
        _ = numpy_dtype(dtype)
        self._build_parts(dtype)
        params.build(self, contract.own_params, contract.norms, dtype)
        if seed is not None:
            first = params.init(contract.params, seed)
            self.load_weights({name: value.to(getattr(torch, dtype)) for name, value in first.items()})

    def _build_parts(self, dtype: str) -> None:
        """Make the layers of which this one consists."""

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
        """Return the dropout seed of this call: drawn from torch's generator while training, unless given."""
        if given is not None or not (self.training and self.contract.drops):
            return given
        return torch.randint(2**31, ())
