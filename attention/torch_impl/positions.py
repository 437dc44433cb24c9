"""Positions in torch: angles in float64 on the tensor's device, rotation in the compute dtype.

angle[p, i] = p * base^(-2i / R)        radians
"""

from __future__ import annotations

import array_api_compat.torch as xp
import torch
from torch import Tensor

from attention.spec.axes import COMPUTE, Array, dtype_name
from attention.spec.positions import Rotary


def rotate(rotary: Rotary | None, x: Tensor, positions: Array = None) -> Tensor:
    """Rotate heads to their positions.

    Args:
        rotary: the contract's positions; None returns `x`.
        x: `(*batch, N, heads, D)`.
        positions: integers that broadcast to `(*batch, N)`; None counts from 0.

    Returns:
        The shape and dtype of `x`.
    """
    if rotary is None:
        return x
    compute = getattr(torch, COMPUTE[dtype_name(x)])
    where = torch.arange(x.shape[-3], device=x.device) if positions is None else torch.as_tensor(positions, device=x.device)
    frequencies = torch.as_tensor(rotary.frequencies(x.shape[-1]), device=x.device)
    angles = where.to(torch.float64)[..., None] * frequencies
    return rotary.rotate(xp, x.to(compute), angles.cos().to(compute), angles.sin().to(compute)).to(x.dtype)
