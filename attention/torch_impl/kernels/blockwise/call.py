"""Build a `Call` from mask, sizes and options, with or without known mask values; zero masked tokens.

call = plan(mask, tile) + rule + limits
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from attention.spec.axes import Array, Sizes, dtype_name
from attention.spec.kernels import Request
from attention.spec.masks.algebra import Mask
from attention.torch_impl.kernels import derivatives
from attention.torch_impl.kernels.blockwise.plan import is_masked, plan
from attention.torch_impl.kernels.blockwise.products import Rule
from attention.torch_impl.kernels.blockwise.steps import Call
from attention.torch_impl.masks import zero_masked

SHORT = 1024
"""Keys of a window below which tiles are short."""


# Torch has no public way to leave its transforms temporarily.
_outside: Any = getattr(torch._C, "_DisableFuncTorch", nullcontext)  # noqa: SLF001


@dataclass(frozen=True)
class Limits:
    """Size limits of tiles and blocks.

    Attributes:
        tile: the longest side of a tile; None: see `tile_of`.
        most: approximate number of scores per kernel call if blocks are divided.
        side: the longest side of a rectangle of plain products.
        fused: whether torch's fused kernel may be used.
    """

    tile: int | None
    most: int
    side: int
    fused: bool


def call_of(limits: Limits, mask: Mask | None, sizes: Sizes, rule: Rule, seed: Array, device: torch.device) -> Call:
    """Return the call without its arrays; `sizes` are those of the arrays that the passes get."""
    fused = limits.fused and device.type == "cpu" and rule.softcap is None and not rule.rate
    # The fused kernel supports one width for keys and values.
    fused = fused and sizes.D == sizes.E > 0
    known, host = _on_host(mask)
    blocks = plan(host, sizes, limits.tile or tile_of(mask), known=known)
    return Call(blocks, mask, sizes, rule, seed, prod(sizes.batch), fused, limits.most, limits.side)


def tile_of(mask: Mask | None) -> int:
    """Return the side of the tiles of a mask.

    Under a short window every row has partial tiles, and small tiles waste least at its two ends: at S 4096 and 256 keys,
    tiles of 64, 128 and 256 take 1, 1.15 and 1.3 times as long. Otherwise breakpoints follow the mask, and the tile only
    limits the size of partial ones.
    """
    reach = None if mask is None else mask.reach
    return 64 if reach is not None and reach < SHORT else 256


def zero_masked_call(call: Call, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return `(B, T, K, G, D)`, `(B, S, K, D)` and `(B, S, K, E)` with zeros for masked tokens.

    Only blocks with a mask read such tokens: tokens outside the blocks are never read.
    """
    if not is_masked(call.plan):
        return q, k, v
    of = call.sizes
    shapes = ((of.T, of.H, of.D), (of.S, of.K, of.D), (of.S, of.K, of.E))
    q1, k1, v1 = (x.reshape(*of.batch, *shape) for x, shape in zip((q, k, v), shapes, strict=True))
    clean = zero_masked(Request(q1, k1, v1, of, dtype_name(q), call.rule.scale, call.mask, device=q.device.type))
    q1, k1, v1 = clean
    return q1.reshape(q.shape), k1.reshape(k.shape), v1.reshape(v.shape)


def _on_host(mask: Mask | None) -> tuple[bool, Mask | None]:
    """Return whether every array of the mask can be read without waiting, and the mask with arrays of NumPy if so."""
    if mask is None or mask.is_static:
        return True, mask
    hidden: list[Tensor] = []

    def numpy(x: Tensor) -> Any:
        if type(x) is Tensor and x.device.type == "cpu" and not derivatives.is_transformed(x):
            # Inside torch.func.grad the view would be a wrapper without values.
            with _outside():
                return x.numpy()
        hidden.append(x)
        return x

    host = mask.map(numpy)
    return not hidden, mask if hidden else host
