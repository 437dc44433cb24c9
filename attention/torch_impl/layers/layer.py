"""The base class of all layers in PyTorch: building parts, loading weights, dropout.

layer.load_weights(w); layer.weights() == w        bit for bit
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import array_api_compat.torch as xp
import torch
from torch import Tensor, nn

from attention import spec
from attention.spec import random as spec_random
from attention.spec.axes import Array
from attention.spec.dtypes import numpy_dtype
from attention.spec.layers.architecture import Architecture, check_contract
from attention.spec.layers.tokens import dropped
from attention.spec.options import TEXT, checked
from attention.spec.params import Weights
from attention.torch_impl import params, random
from attention.torch_impl.kernels.constants import constant
from attention.torch_impl.random import check_seed


class Layer(nn.Module):
    """A layer of a contract, or a model of an architecture. Abstract.

    Args:
        contract: what the layer is; what its tree of parameters names becomes the module's, under the same names.
        seed: of the first weights: the same bits in every framework. None leaves them undrawn, for a part of a layer.
        dtype: of the parameters.

    Raises:
        OptionError: no contract of this layer, or no seed.
        UnknownName: no such dtype.
    """

    contract: Any

    def __init__(self, contract: Architecture, *more: Any, seed: int | None = 0, dtype: str = "float32", **other: Any) -> None:
        check_contract(type(self).__name__, contract, _described(type(self)), *more, **other)
        dtype = numpy_dtype(dtype).name
        if seed is not None:
            check_seed(seed)
        super().__init__()
        self.contract = contract
        self.build_parts(dtype)
        params.build(self, contract.own_params, contract.norms, dtype)
        if seed is not None:
            first = params.init(contract.params, seed)
            self.load_weights({name: value.to(getattr(torch, dtype)) for name, value in first.items()})

    def build_parts(self, dtype: str) -> None:
        """Build the parts of the layer; override it if a part is not a contract of this package."""
        for name, part in self.contract.parts.items():
            self.add_module(name, part.build("torch", seed=None, dtype=dtype))

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
        if given is not None:
            check_seed(given)
            return given
        if not (self.training and self.contract.drops):
            return None
        return torch.randint(2**31, ())

    def drop(self, x: Tensor, rate: float, seed: Any) -> Tensor:
        """Return `x` with features dropped while training: the same ones in every framework, by the bits of `seed`."""
        if not (self.training and rate):
            return x
        return dropped(xp, x, random.keep(self._seed(seed), rate, tuple(x.shape), x.device), rate)


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
    return spec_random.bits(random.key(seed), _label(name))


@constant
def _label(name: str) -> int:
    # A compiler that traces Python cannot look into zlib.
    return spec_random.label(name)
