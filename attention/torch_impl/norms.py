"""Norms in PyTorch: the spec's formula with learned parameters, in the compute dtype.

y = norm(x)        see attention/spec/norms.py
"""

from __future__ import annotations

import array_api_compat.torch as xp
import torch
from torch import Tensor, nn

from attention.spec import norms as spec
from attention.spec.axes import COMPUTE, dtype_name


class Norm(nn.Module):
    """A norm over the last axis; its parameters are "weight" and perhaps "bias", as torch's own norms call them.

    Args:
        norm: what the norm is.
        width: the number of features.
        dtype: of the parameters.
    """

    def __init__(self, norm: spec.Norm, width: int, *, dtype: str = "float32") -> None:
        super().__init__()
        self.norm = norm
        for name, param in norm.params(width).items():
            first = torch.full(param.shape, param.fill, dtype=getattr(torch, dtype))
            self.register_parameter({"scale": "weight"}.get(name, name), nn.Parameter(first))

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` `(..., N)`, normalised, in its own dtype."""
        compute = getattr(torch, COMPUTE[dtype_name(x)])
        weights = {{"weight": "scale"}.get(name, name): value.to(compute) for name, value in self.named_parameters()}
        return self.norm.normalise(xp, weights, x.to(compute)).to(x.dtype)
