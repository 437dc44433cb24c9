"""The kernel `reference` in PyTorch: the spec's formula with every option, every intermediate and any derivative.

context = softmax(mask(cap(q k^T * scale) + bias)) v        in float32, or float64 for float64
"""

from __future__ import annotations

from dataclasses import dataclass

import array_api_compat.torch as xp
import torch
from torch import Tensor

from attention.spec.attend import attend
from attention.spec.kernels import Request
from attention.spec.scores import bind
from attention.torch_impl.kernels import precision
from attention.torch_impl.masks import allowed
from attention.torch_impl.random import keep


@dataclass(frozen=True)
class Reference:
    """The formula, one operation at a time; memory grows with T * S."""

    name: str = "reference"
    rounds: tuple[str, ...] = ()

    def refuses(self, request: Request) -> str | None:
        """Refuse only a precision that torch is not set to."""
        return precision.refuses(request)

    def run(self, request: Request) -> dict[str, Tensor]:
        """Return the context and the named intermediates."""
        compute = getattr(torch, request.compute)
        device = request.q.device
        with torch.autocast(device.type, enabled=False):
            q, k, v, bias, sinks = (
                x if x is None else x.to(compute) for x in (request.q, request.k, request.v, request.bias, request.sinks)
            )
            intermediates = attend(
                xp,
                q,
                k,
                v,
                scale=request.scale,
                allowed=allowed(request.mask, request.sizes, device),
                bias=bias,
                softcap=request.softcap,
                score_mod=bind(request.score_mod, request.sizes, lambda n: torch.arange(n, device=device)),
                sinks=sinks,
                keep=_keep(request),
                dropout_rate=request.dropout_rate,
                constant=Tensor.detach,
            )
        intermediates["context"] = intermediates["context"].to(request.q.dtype)
        return {name: intermediates[name] for name in ("context", *request.intermediates)}


def _keep(request: Request) -> Tensor | None:
    if not request.dropout_rate:
        return None
    return keep(request.dropout_seed, request.dropout_rate, request.sizes.scores, request.q.device)
