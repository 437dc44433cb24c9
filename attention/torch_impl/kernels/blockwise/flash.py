"""Torch's fused CPU kernel with logsumexp, forward and backward, called for one block at a time.

    out, lse = softmax(q k^T * scale + added) v, logsumexp
    dq, dk, dv = its backward pass with the out and lse of the whole row: the sum over blocks is the exact gradient

The operators are private to torch: in a release without them, `products` computes the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_FORWARD: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
_BACKWARD: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward", None)
PRESENT = _FORWARD is not None and _BACKWARD is not None


def readable(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return tensors with the features of a token contiguous, as the operators require; other strides are free."""
    return tuple(x if x.stride(-1) == 1 else x.contiguous() for x in tensors)


def forward(q: Tensor, k: Tensor, v: Tensor, scale: float, added: Tensor | None, triangle: bool) -> tuple[Tensor, Tensor]:
    """Return the context `(b, h, t, D)` and logsumexp `(b, h, t)`, which is wrongly 0 for a row whose every score is -inf.

    Args:
        q: `(b, h, t, D)`.
        k: `(b, h, s, D)`.
        v: `(b, h, s, D)`, the width of the keys.
        scale: factor of `q . k`.
        added: float32 or wider, `(b, h, t, s)`, or None.
        triangle: whether query t attends to keys 0..t alone.
    """
    sign, scale = positive(scale) if triangle else (1.0, scale)
    return _FORWARD(q if sign == 1.0 else q * sign, k, v, 0.0, triangle, attn_mask=added, scale=scale)


def backward(
    g: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float, added: Tensor | None, triangle: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v, in their shapes and dtype; `lse` is finite for empty rows."""
    sign, scale = positive(scale) if triangle else (1.0, scale)
    if sign == 1.0:
        return _BACKWARD(g, q, k, v, out, lse, 0.0, triangle, attn_mask=added, scale=scale)
    dq, dk, dv = _BACKWARD(g, q * sign, k, v, out, lse, 0.0, triangle, attn_mask=added, scale=scale)
    return dq * sign, dk, dv


def positive(scale: float) -> tuple[float, float]:
    """Return a factor for the queries and a positive scale with the same products.

    The operators mask later keys by -inf before they multiply by the scale; a scale of 0 or less would give NaN or inf.
    """
    return (1.0, scale) if scale > 0 else (-1.0 if scale else 0.0, -scale or 1.0)
