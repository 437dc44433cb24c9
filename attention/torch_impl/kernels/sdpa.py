"""The kernel `sdpa`: torch.nn.functional.scaled_dot_product_attention, with the mask lowered to what stays fast.

    context = 0 outside the box and in empty rows, else SDPA(q, k, v of the box, is_causal | attn_mask)

A mask that is an array costs SDPA its fastest kernel (on an accelerator) or half its speed (is_causal skips what is above the
diagonal), so one is given only where lowering.py finds nothing less. Rows without a key and keys without a query are kept out
by zeros, because SDPA's treatment differs between its backends and releases; the diagonal of `is_causal` is only used
for where T = S, where all agree. Four axes and one width always, which is what the fused kernels take. A second derivative is
refused, because whether SDPA has one depends on the backend that it picks, which is not visible.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from attention.spec.kernels import Request
from attention.spec.kernels.nan_safety import Tokens
from attention.spec.kernels.plan_cache import Ready
from attention.torch_impl.kernels import derivatives, precision
from attention.torch_impl.kernels.blockwise.flash import positive
from attention.torch_impl.kernels.lowering import Lowering, lower
from attention.torch_impl.kernels.mask_bounds import Box
from attention.torch_impl.kernels.mask_regions import TRAPEZOID, TRIANGLE
from attention.torch_impl.masks import zero_masked

FEATURES = ("bias", "E != D", "float64", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Sdpa:
    """Torch's own fused attention."""

    name: str = "sdpa"
    rounds: tuple[str, ...] = ("weights", "d scores", "logsumexp")

    def refuses(self, request: Request) -> str | None:
        """Refuse what SDPA has no argument for, and the derivatives that its fused kernels lack."""
        return (
            derivatives.refuses(request.q, request.k, request.v, request.bias)
            or request.lacks(*FEATURES)
            or precision.refuses(request)
        )

    def ready(self, request: Request) -> Ready | None:
        """Return a function to the context for arrays of the request's signature if a causal flag suffices; else None."""
        of, told = request.sizes, lower(request, _diagonals(request))
        whole = told.box == Box(0, of.T, 0, of.S) and told.mask is None and told.rows is None and not told.zero_masked
        if not whole or told.diagonal == TRAPEZOID or request.bias is not None or len(of.batch) != 1 or of.E != of.D:
            return None
        if of.group > 1 and not _groups(request, None):
            return None
        return partial(_plain, self.name, told.diagonal == TRIANGLE, request.scale, of.group > 1, _packs(request))

    def run(self, request: Request) -> dict[str, Tensor]:
        """Return the context."""
        # It would make half precision of the inputs, and the context is of their dtype.
        with torch.autocast(request.q.device.type, enabled=False):
            return {"context": self._context(request)}

    def _context(self, request: Request) -> Tensor:
        told = lower(request, _diagonals(request))
        q, k, v = zero_masked(request) if told.zero_masked else (request.q, request.k, request.v)
        box, of = told.box, request.sizes
        if (box.t0, box.t1) != (0, of.T):
            q = q[..., box.t0 : box.t1, :, :]
        if (box.s0, box.s1) != (0, of.S):
            k, v = k[..., box.s0 : box.s1, :, :], v[..., box.s0 : box.s1, :, :]
        flat = _is_flat(request)
        q, k, v = (_four_axes(x) if flat else x.transpose(-3, -2) for x in (q, k, v))
        out = _fused(self.name, request, (q, k, v), _additive(request, told), told.diagonal)
        if told.rows is not None:
            out = torch.where(_flattened(told.rows, request), out, torch.zeros_like(out))
        out = out.transpose(-3, -2)
        if (box.t0, box.t1) != (0, of.T):
            out = pad(out, (0, 0, 0, 0, box.t0, of.T - box.t1))
        return out.reshape(*of.batch, *out.shape[1:]) if flat and len(of.batch) != 1 else out


def _plain(name: str, causal: bool, scale: float, grouped: bool, packed: bool, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return SDPA of q, k and v `(B, N, heads, width)` as they are."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if packed:
        k, v = k.contiguous(), v.contiguous()
    if causal:
        q, scale = _above_zero(q, scale)
    out = scaled_dot_product_attention(q, k, v, attn_mask=None, is_causal=causal, scale=scale, enable_gqa=grouped)
    return (derivatives.last(name, out) if out.requires_grad else out).transpose(1, 2)


def _above_zero(q: Tensor, scale: float) -> tuple[Tensor, float]:
    """Return queries and a scale that give the same products, the scale above 0: see `flash.positive`."""
    sign, scale = positive(scale)
    return q if sign == 1.0 else q * sign, scale


def _diagonals(request: Request) -> tuple[str, ...]:
    """Return the diagonals that need no mask: none beside a bias, which is one; FlashAttention's own at the end of the keys."""
    if request.bias is not None:
        return ()
    eager = request.device == "cuda" and not torch.compiler.is_compiling()
    return (TRIANGLE, TRAPEZOID) if eager and _flashes(request) else (TRIANGLE,)


def _is_flat(request: Request) -> bool:
    """Return whether to bring the batch to one axis, as the fused kernels have it.

    SDPA takes other ranks, but not by them; which is right where torch.func's vmap would run a fused kernel row by row.
    """
    return len(request.sizes.batch) == 1 or not derivatives.is_transformed(request.q)


def _four_axes(x: Tensor) -> Tensor:
    """Bring `(*batch, N, heads, width)` to `(B, heads, N, width)`."""
    if x.ndim != 4:
        x = x[None] if x.ndim == 3 else x.reshape(-1, *x.shape[-3:])
    return x.transpose(1, 2)


def _flattened(x: Tensor, request: Request) -> Tensor:
    """Bring what broadcasts to `(*batch, a, b, c)` to the axes of the call, and leave those of 1 that can be left."""
    batch = request.sizes.batch
    missing = len(batch) + 3 - x.ndim
    x = x[(None,) * missing] if missing else x
    if len(batch) == 1 or not _is_flat(request):
        return x
    if all(n == 1 for n in x.shape[:-3]):
        return x.reshape(1, *x.shape[-3:])
    return x.expand(*batch, -1, -1, -1).reshape(-1, *x.shape[-3:])


def _additive(request: Request, told: Lowering) -> Tensor | None:
    """Return what SDPA takes as `attn_mask`: a bool mask, or the bias with -inf where the mask does not allow."""
    mask, bias, box = told.mask, request.bias, told.box
    mask = mask if mask is None else _flattened(mask, request)
    if bias is None:
        return mask
    bias = _flattened(bias, request)
    if bias.shape[-2] > 1:
        bias = bias[..., box.t0 : box.t1, :]
    if bias.shape[-1] > 1:
        bias = bias[..., box.s0 : box.s1]
    return bias if mask is None else torch.where(mask, bias, -torch.inf)


def _fused(name: str, request: Request, given: Tokens, mask: Tensor | None, diagonal: str | None) -> Tensor:
    """Return SDPA of q, k and v `(B, heads, N, width)`, shaped so that a fused kernel takes it."""
    (q, k, v), of = given, request.sizes
    # The CPU's kernel has one width for q, k and v. A zero changes no product.
    if of.E != of.D and request.device == "cpu" and not derivatives.is_transformed(q):
        q, k, v = (pad(x, (0, max(of.D, of.E) - x.shape[-1])) for x in (q, k, v))
    grouped = of.K != of.H
    if grouped and not _groups(request, mask):
        k, v, grouped = _repeated(k, of.group), _repeated(v, of.group), False
    if _packs(request):
        k, v = k.contiguous(), v.contiguous()
    attn_mask, scale = _lower_right(q, k) if diagonal == TRAPEZOID else mask, request.scale
    if diagonal is not None:
        q, scale = _above_zero(q, scale)
    out = scaled_dot_product_attention(
        q, k, v, attn_mask=attn_mask, is_causal=diagonal == TRIANGLE, scale=scale, enable_gqa=grouped
    )
    out = derivatives.last(name, out)
    return out if out.shape[-1] == of.E else out[..., : of.E]


def _groups(request: Request, mask: Tensor | None) -> bool:
    """Return whether the kernel that SDPA will pick reads grouped heads in place: on a CPU, and by FlashAttention.

    Torch's memory-efficient kernel, which takes the rest on CUDA, does not, and SDPA would go on to plain operations.
    """
    return request.device != "cuda" or (mask is None and _flashes(request))


def _packs(request: Request) -> bool:
    """Return whether to copy keys and values so that the rows of a head are contiguous.

    The CPU's kernel reads every key once for each block of queries, and wide rows with gaps slow it down: at D 128
    and S 2048, on two cores, 1.26 times the time of contiguous rows, and 1.11 with the copy. At S 512 the copy costs
    what it saves, and narrow rows (D 64) gain nothing.
    """
    of = request.sizes
    return request.device == "cpu" and request.dtype == "float32" and min(of.D, of.E) >= 128 and of.T >= 1024


def _flashes(request: Request) -> bool:
    """Return whether FlashAttention takes the types and widths of a call on CUDA."""
    return request.dtype in ("bfloat16", "float16") and request.sizes.E == request.sizes.D


def _repeated(x: Tensor, group: int) -> Tensor:
    """Return keys or values of each query head: memory along the sequence, where plain operations take its square."""
    return x.unsqueeze(-3).expand(*x.shape[:-2], group, -1, -1).flatten(-4, -3)


def _lower_right(q: Tensor, k: Tensor) -> Tensor:
    """Return torch's lower-right causal mask, which it passes to FlashAttention."""
    from torch.nn.attention.bias import causal_lower_right  # noqa: PLC0415 - only CUDA needs it

    return causal_lower_right(q.shape[-2], k.shape[-2])
