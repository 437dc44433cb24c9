"""Flash: torch's fused kernel for CPUs, which also returns logsumexp, asked for one piece at a time.

    out, lse = softmax(q k^T * scale + added) v, logsumexp
    dq, dk, dv = its backward pass, given any row's out and lse: those of all pieces together make the gradient exact

The operators are torch's own but not public: where a release lacks them, `products` computes the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_FORWARD: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
_BACKWARD: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward", None)
PRESENT = _FORWARD is not None and _BACKWARD is not None


def readable(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return tensors as the operators read them: the numbers of one token side by side, whatever the other strides."""
    return tuple(x if x.stride(-1) == 1 else x.contiguous() for x in tensors)


def forward(q: Tensor, k: Tensor, v: Tensor, scale: float, added: Tensor | None, triangle: bool) -> tuple[Tensor, Tensor]:
    """Return the context `(b, h, t, D)` and logsumexp `(b, h, t)`, which is wrongly 0 of a row whose every score is -inf.

    Args:
        q: `(b, h, t, D)`.
        k: `(b, h, s, D)`.
        v: `(b, h, s, D)`, as wide as keys.
        scale: what `q . k` is multiplied by.
        added: float32 or wider, `(b, h, t, s)`, or None.
        triangle: whether query t sees keys 0..t alone.
    """
    sign, scale = positive(scale) if triangle else (1.0, scale)
    return _FORWARD(q if sign == 1.0 else q * sign, k, v, 0.0, triangle, attn_mask=added, scale=scale)


def backward(
    g: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float, added: Tensor | None, triangle: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v, in their shapes and dtype; `lse` is finite where a row is empty."""
    sign, scale = positive(scale) if triangle else (1.0, scale)
    if sign == 1.0:
        return _BACKWARD(g, q, k, v, out, lse, 0.0, triangle, attn_mask=added, scale=scale)
    dq, dk, dv = _BACKWARD(g, q * sign, k, v, out, lse, 0.0, triangle, attn_mask=added, scale=scale)
    return dq * sign, dk, dv


def positive(scale: float) -> tuple[float, float]:
    """Return what queries are multiplied by, and a scale above 0, so that products are what they were.

    The operators hide later keys by -inf before they multiply by the scale, which makes inf or NaN of that where it is not
    above 0.
    """
    return (1.0, scale) if scale > 0 else (-1.0 if scale else 0.0, -scale or 1.0)
