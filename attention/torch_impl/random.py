"""Random bits in torch: the spec's threefry on int64, whose low 32 bits are the words.

keep[i] = (bits[i] >> 9) < ceil(float32(1 - rate) * 2^23)        the same bits as NumPy's and JAX's
"""

from __future__ import annotations

import torch
from torch import Tensor

from attention.spec import random as spec
from attention.spec.axes import Array


def index(shape: tuple[int, ...], device: torch.device | None = None) -> Tensor:
    """Return the row-major index of every element."""
    return torch.arange(spec.count(shape), device=device).reshape(shape)


def keep(seed: Array, rate: float, shape: tuple[int, ...], device: torch.device | None = None) -> Tensor:
    """Return the dropout mask of `shape`, True where a weight is kept.

    Args:
        seed: an int, or a 0-d integer tensor (which `torch.compile` does not specialise on).
        rate: probability of dropping, in [0, 1).
        shape: `(*batch, H, T, S)`.
        device: where the tensor shall be.
    """
    high, low = spec.key(seed)
    if isinstance(seed, Tensor):
        low = seed.to(device=device, dtype=torch.int64) & spec.WORD
        high = low * 0
    return spec.mantissa((high, low), index(shape, device)) < spec.keep_threshold(rate)


def uniform(of: spec.Key, shape: tuple[int, ...]) -> Tensor:
    """Return float32 numbers in [-1, 1), multiples of 2^-22."""
    return spec.mantissa(of, index(shape)).to(torch.float32) * 2.0**-22 - 1.0
