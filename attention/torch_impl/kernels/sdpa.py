"""torch.nn.functional.scaled_dot_product_attention: the framework's fused kernels.

Rows without a key and keys without a query are kept out by zeros, because what SDPA does with them differs between its
backends and releases; the diagonal of `is_causal` is only asked for where T = S, where all agree. A second derivative is
refused throughout, for whether SDPA has one depends on the backend that it picks, which nobody is told.
"""

from __future__ import annotations

from dataclasses import dataclass

import array_api_compat.torch as xp
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from attention.spec.attend import reachable, shield
from attention.spec.kernels import Request
from attention.spec.masks import Causal
from attention.torch_impl.kernels import derivatives, precision
from attention.torch_impl.masks import allowed

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

    def run(self, request: Request) -> dict[str, Tensor]:
        """Return the context."""
        q, k, v = request.q, request.k, request.v
        rows, mask, causal = None, None, False
        if request.mask is not None:
            causal = isinstance(request.mask, Causal) and not request.needs_shield and request.bias is None
            mask = None if causal else allowed(request.mask, request.sizes, q.device)
        if mask is not None and request.needs_shield:
            q, k, v = shield(xp, q, k, v, mask)
            rows, _ = reachable(xp, mask, request.sizes.group)
            # A row without a key is computed as if it saw all of them, which is finite everywhere, and zeroed below.
            mask = mask | ~rows.transpose(-3, -2)
        out = scaled_dot_product_attention(
            *(derivatives.once(self.name, x).transpose(-3, -2) for x in (q, k, v)),
            attn_mask=_additive(request, mask, self.name),
            is_causal=causal,
            scale=request.scale,
            enable_gqa=request.sizes.group > 1,
        ).transpose(-3, -2)
        if rows is not None:
            out = torch.where(rows, out, torch.zeros_like(out))
        return {"context": out}


def _additive(request: Request, mask: Tensor | None, name: str) -> Tensor | None:
    """Return what SDPA takes as `attn_mask`: a bool mask, or the bias with -inf where the mask does not allow."""
    if request.bias is None:
        return mask
    # SDPA asks for two axes at least.
    bias = torch.atleast_2d(derivatives.once(name, request.bias)).to(request.q.dtype)
    return bias if mask is None else torch.where(mask, bias, -torch.inf)
