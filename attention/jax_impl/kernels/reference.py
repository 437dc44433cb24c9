"""The kernel `reference` in JAX: the spec's formula with every option, every intermediate and any derivative.

context = softmax(mask(cap(q k^T * scale) + bias)) v        in float32, or float64 for float64
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from attention.jax_impl.kernels import precision
from attention.jax_impl.masks import allowed
from attention.jax_impl.random import keep
from attention.spec.attend import attend
from attention.spec.kernels import Request
from attention.spec.scores import bind


@dataclass(frozen=True)
class Reference:
    """The formula, one operation at a time; memory grows with T * S."""

    name: str = "reference"
    rounds: tuple[str, ...] = ()

    def refuses(self, request: Request) -> str | None:
        """Refuse nothing."""
        del request
        return None

    def run(self, request: Request) -> dict[str, jax.Array]:
        """Return the context and the named intermediates."""
        with precision.scope(request.precision):
            q, k, v, bias, sinks = (
                x if x is None else x.astype(request.compute)
                for x in (request.q, request.k, request.v, request.bias, request.sinks)
            )
            intermediates = attend(
                jnp,
                q,
                k,
                v,
                scale=request.scale,
                allowed=allowed(request.mask, request.sizes),
                bias=bias,
                softcap=request.softcap,
                score_mod=bind(request.score_mod, request.sizes, jnp.arange),
                sinks=sinks,
                keep=_keep(request),
                dropout_rate=request.dropout_rate,
                constant=jax.lax.stop_gradient,
            )
        intermediates["context"] = intermediates["context"].astype(request.q.dtype)
        return {name: intermediates[name] for name in ("context", *request.intermediates)}


def _keep(request: Request) -> jax.Array | None:
    if not request.dropout_rate:
        return None
    return keep(request.dropout_seed, request.dropout_rate, request.sizes.scores)
