"""The kernel `xla`: jax.nn.dot_product_attention compiled by XLA.

Rows without a key and keys without a query are kept out by zeros: jax.nn gives such a row the mean of all values.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from attention.jax_impl.kernels import precision
from attention.jax_impl.masks import allowed
from attention.spec.attend import reachable, zero_masked
from attention.spec.axes import Array
from attention.spec.kernels import Request

# No float64: jax.nn computes its softmax in float32 whatever the inputs. No E != D: it needs keys and values of one shape.
FEATURES = ("bias", "wide bias", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Xla:
    """JAX's own attention."""

    name: str = "xla"
    rounds: tuple[str, ...] = ("weights",)

    def refuses(self, request: Request) -> str | None:
        """Refuse what jax.nn has no argument for, or would compute in too few digits."""
        if 0 in (*request.q.shape, *request.k.shape):
            return "does not support axes of size 0"
        if request.dtype == "float16" and request.device not in ("gpu", "cuda", "rocm"):
            return f"has no float16 on {request.device}: jax.nn asks for a product that XLA has on GPUs alone"
        return request.lacks(*FEATURES)

    def run(self, request: Request) -> dict[str, jax.Array]:
        """Return the context."""
        q, k, v = request.q, request.k, request.v
        mask, rows = allowed(request.mask, request.sizes), None
        if request.needs_zero_masking:
            q, k, v = zero_masked(jnp, q, k, v, mask)
        if request.bias is not None:
            # A bias of -inf forbids as a mask does; of a row of nothing else jax.nn would make NaN.
            finite = request.bias != -jnp.inf
            mask = finite if mask is None else mask & finite
        if mask is not None and (request.needs_zero_masking or request.bias is not None):
            rows, _ = reachable(jnp, mask, request.sizes.group)
        with precision.scope(request.precision):
            out = jax.nn.dot_product_attention(
                *(_one_batch(x, 3) for x in (q, k, v)),
                bias=_scores(request, request.bias),
                mask=_scores(request, mask),
                scale=request.scale,
                implementation="xla",
            ).reshape(q.shape)
        return {"context": out if rows is None else jnp.where(rows, out, jnp.zeros_like(out))}


def _one_batch(x: jax.Array, inner: int) -> jax.Array:
    """Fold all batch axes before the last `inner` ones into one."""
    return x.reshape(-1, *x.shape[x.ndim - inner :])


def _scores(request: Request, x: Array) -> Array:
    """Bring what broadcasts to `(*batch, H, T, S)` to the four axes that jax.nn takes, without growing H, T or S."""
    if x is None:
        return None
    x = x.reshape((1,) * (len(request.sizes.scores) - x.ndim) + x.shape)
    if all(size == 1 for size in x.shape[:-3]):
        return x.reshape(1, *x.shape[-3:])
    return _one_batch(jnp.broadcast_to(x, (*request.sizes.batch, *x.shape[-3:])), 3)
