"""The kernel `blockwise` in torch: exact attention whose time and memory follow the mask.

    context = blocks of the mask, each by torch's fused kernel on its own keys, merged by logsumexp

A block is a rectangle without a mask, a causal square, or a rectangle with its own small mask (plan.py). Soft cap, dropout,
the gradient of a bias and other devices, which the fused kernel lacks, use plain products of bounded size.

References:
    Dao et al., "FlashAttention", arXiv:2205.14135; Milakov and Gimelshein, arXiv:1805.02867 (merging by logsumexp).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor
from torch.nn.functional import pad

from attention.spec.axes import Array, Sizes
from attention.spec.kernels import Request
from attention.spec.kernels.auto_rules import structure
from attention.spec.kernels.nan_safety import NanSafeRequest
from attention.spec.kernels.tuning import tile_for
from attention.spec.masks import Mask
from attention.torch_impl.kernels import derivatives, precision
from attention.torch_impl.kernels.blockwise import compiled, flash
from attention.torch_impl.kernels.blockwise.call import Limits, call_of, zero_masked_call
from attention.torch_impl.kernels.blockwise.function import Attention, bare
from attention.torch_impl.kernels.blockwise.products import Rule
from attention.torch_impl.kernels.derivatives import is_transformed

FEATURES = ("softcap", "sinks", "dropout", "bias", "wide bias", "E != D", "float64", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Blockwise:
    """Attention in blocks that follow the mask; `Limits` has their size limits."""

    name: str = "blockwise"
    rounds: tuple[str, ...] = ("weights", "d scores", "logsumexp")
    tile: int | None = None
    most: int = 2**21
    side: int = 512
    fused: bool = flash.PRESENT

    def refuses(self, request: Request) -> str | None:
        """Refuse derivatives beyond the first, and score_mod, which the fused kernel cannot differentiate."""
        return (
            derivatives.refuses(request.q, request.k, request.v, request.bias, request.sinks)
            or request.lacks(*FEATURES)
            or precision.refuses(request)
            or _refuses_mask(request.mask)
            or _refuses_seed(request.dropout_seed)
        )

    def run(self, request: Request) -> dict[str, Tensor]:
        """Return the context, and logsumexp."""
        of, rows = request.sizes, prod(request.sizes.batch)
        with torch.autocast(request.q.device.type, enabled=False):
            q = request.q.reshape(rows, of.T, of.K, of.group, of.D)
            k, v = request.k.reshape(rows, of.S, of.K, of.D), request.v.reshape(rows, of.S, of.K, of.E)
            if self.fused and of.E != of.D:
                # The fused kernel supports one width: zeros change no score, and padded values are cut off again.
                q, k, v = (pad(x, (0, max(of.D, of.E) - x.shape[-1])) for x in (q, k, v))
            sinks = None if request.sinks is None else request.sinks.reshape(1, 1, of.K, of.group)
            out, lse = self._answer(request, q, k, v, _rows_first(request.bias, of), sinks)
        made = {"context": out[..., : of.E].reshape(*of.batch, of.T, of.H, of.E)}
        # Beside intermediates of the reference formula, logsumexp comes from it too, so that they agree to the last bit.
        if set(request.intermediates) <= {"context", "logsumexp"}:
            made["logsumexp"] = lse.reshape(*of.batch, of.T, of.H).transpose(-1, -2)
        return made

    def _answer(self, request: Request, q: Tensor, k: Tensor, v: Tensor, *rest: Tensor | None) -> tuple[Tensor, Tensor]:
        of, limits = request.sizes, Limits(self.tile, self.most, self.side, self.fused)
        zero_masking = request.needs_zero_masking and not isinstance(request, NanSafeRequest)
        if torch.compiler.is_compiling():
            return compiled.attention(limits, request, zero_masking, q, k, v, *rest)
        sizes = Sizes(of.batch, of.T, of.S, of.H, of.K, q.shape[-1], v.shape[-1])
        rule = Rule(request.scale, request.softcap, request.dropout_rate)
        mask = None if request.mask is None else bare(request.mask)
        limits = limits if self.tile else replace(limits, tile=_tuned(request))
        call = call_of(limits, mask, sizes, rule, request.dropout_seed, q.device)
        return Attention.apply(call, *(zero_masked_call(call, q, k, v) if zero_masking else (q, k, v)), *rest)


def _tuned(request: Request) -> int | None:
    """Return the tile tuned for such calls on this machine, or None."""
    if request.device not in ("cpu", "cuda"):
        return None
    name = "cpu" if request.device == "cpu" else torch.cuda.get_device_name(request.q.device)
    tile = tile_for("torch.blockwise", name, request.dtype, request.sizes.D, structure(request.mask), None)
    return None if tile is None else tile[0]


def _refuses_mask(mask: Mask | None) -> str | None:
    if torch.compiler.is_compiling() or mask is None or mask.is_static:
        return None
    return "does not support a mask under vmap" if bare(mask) is None else None


def _refuses_seed(seed: Array) -> str | None:
    return "does not support a dropout seed under a transform" if isinstance(seed, Tensor) and is_transformed(seed) else None


def _rows_first(bias: Tensor | None, of: Sizes) -> Tensor | None:
    """Return a bias that broadcasts to `(*batch, H, T, S)` as `(1 or B, 1 or T, 1 or K, 1 or G, 1 or S)`."""
    if bias is None:
        return None
    bias = bias[(None,) * (len(of.batch) + 3 - bias.ndim) + (...,)]
    *batch, heads, t, s = bias.shape
    rows = 1
    if any(n != 1 for n in batch):
        bias, rows = bias.expand(*of.batch, heads, t, s), prod(of.batch)
    group = (of.K, of.group) if heads > 1 else (1, 1)
    return bias.reshape(rows, *group, t, s).movedim(3, 1)
