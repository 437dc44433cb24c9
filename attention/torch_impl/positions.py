"""Positions in PyTorch: rotary tables in float64 on the tensor's device, rotation and biases in the compute dtype.

rotate(x, p)      x turned by p                             Rotary, AxialRotary
bias(q, p, r)     what the scores of q are added            Alibi, RelativeBias, RelativeKeys
"""

from __future__ import annotations

from collections.abc import Mapping

import array_api_compat.torch as xp
import numpy as np
import torch
from torch import Tensor

from attention.spec import positions as spec
from attention.spec.axes import COMPUTE, Array, Sizes, dtype_name
from attention.spec.errors import PositionError
from attention.spec.positions import AxialRotary, Positions, Rotation, ScoreBias, check_positions


def rotate(rotary: Rotation | None, x: Tensor, positions: Array = None, *, length: Array = None) -> Tensor:
    """Rotate heads to their positions.

    Args:
        rotary: the contract's rotation; None returns `x`.
        x: `(*batch, N, heads, D)`.
        positions: integers that broadcast to `(*batch, N)`, for `AxialRotary` to `(*batch, N, 2)`; None counts from 0.
        length: of the call, for a scaling that depends on it: an int or an integer without axes; None: the largest
            position + 1. Queries and keys of one call share one, see `shared_length`; so do the steps of a decode whose
            cache keeps rotated keys.

    Returns:
        The shape and dtype of `x`.

    Raises:
        PositionError: no positions for `AxialRotary`.
    """
    if rotary is None:
        return x
    if positions is None and isinstance(rotary, AxialRotary):
        raise PositionError("positions None must be given for AxialRotary: (*batch, N, 2) rows and columns")
    compute, device = getattr(torch, COMPUTE[dtype_name(x)]), x.device
    where = _counted(positions, x.shape[-3], device)
    constants = tuple(torch.as_tensor(c, device=device) for c in rotary.constants(x.shape[-1]))
    span = None if length is None else _native(length, device).to(torch.float64)
    cos, sin = rotary.turns(xp, where.to(torch.float64), constants, span)
    return rotary.rotate(xp, x.to(compute), cos.to(compute), sin.to(compute)).to(x.dtype)


def shared_length(positions: Positions | None, query_positions: Array, key_positions: Array) -> Tensor | None:
    """Return the length that both rotations of a call are given, or None: the spec's `shared_length`."""
    if not getattr(positions, "grows", False) or query_positions is None or key_positions is None:
        return None
    where = (_native(x, None) for x in (query_positions, key_positions))
    return spec.shared_length(xp, positions, *where)


def bias(
    positions: ScoreBias | None,
    weights: Mapping[str, Tensor],
    q: Tensor,
    query_positions: Array = None,
    key_positions: Array = None,
    *,
    scale: float,
    sizes: Sizes,
) -> Tensor | None:
    """Return what the scores are added.

    Args:
        positions: the contract's score bias; None returns None.
        weights: its learned arrays, by the names of its `params`.
        q: `(*batch, T, H, D)`, as the scores read it, not scaled.
        query_positions: integers that broadcast to `(*batch, T)`; None, for both where T = S, counts from 0.
        key_positions: integers that broadcast to `(*batch, S)`.
        scale: of the scores.
        sizes: of the call.

    Returns:
        Broadcasts to `(*batch, H, T, S)`, in the compute dtype.

    Raises:
        PositionError: positions are missing or do not fit.
        ShapeError: the wrong shape.
    """
    if positions is None:
        return None
    check_positions(query_positions, key_positions, sizes, positions)
    compute = getattr(torch, COMPUTE[dtype_name(q)])
    where = _counted(query_positions, sizes.T, q.device), _counted(key_positions, sizes.S, q.device)
    learned = {name: value.to(compute) for name, value in weights.items()}
    return positions.bias(xp, learned, q.to(compute), *where, scale)


def _counted(positions: Array, count: int, device: torch.device) -> Tensor:
    """Return the positions as a tensor, those that are None counting from 0."""
    return torch.arange(count, device=device) if positions is None else _native(positions, device)


def _native(x: Array, device: torch.device | None) -> Tensor:
    if not isinstance(x, (Tensor, np.ndarray, int)):
        raise PositionError(f"positions {type(x).__module__}.{type(x).__name__} must be a torch.Tensor or numpy.ndarray")
    if isinstance(x, np.ndarray):
        # A copy: torch warns of memory that must not be written to, and cannot count backwards through it.
        x = x.copy()
    return torch.as_tensor(x, device=device)
