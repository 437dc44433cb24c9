"""The kernel `cudnn`: cuDNN's fused attention through jax.nn.dot_product_attention.

    allowed[b, t, s] = s <= t                       is_causal
                     & t - before <= s              local_window_size
                     & t < q[b] & s < kv[b]         query_seq_lengths, key_value_seq_lengths

These three are structure that cuDNN skips work by; a mask given as an array it reads in full, at a seventh of the speed. So a
mask that is not a conjunction of them is refused. This adapter has run on no GPU: its refusals and the arguments that it makes
are tested, jax.nn answering them by XLA.

References:
    jax.nn.dot_product_attention; jax._src.cudnn.fused_attention_stablehlo, check_is_flash_attention (sizes and versions).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from attention.jax_impl.masks import zero_masked
from attention.spec.axes import Array, Sizes
from attention.spec.kernels import Request
from attention.spec.masks import Aligned, Causal, Lengths, Window
from attention.spec.masks.algebra import And, Mask

# No bias: cuDNN makes the gradient of some shapes alone, and NaN of a row of -inf.
FEATURES = ("bfloat16", "float16")
HOPPER = (9, 0)


@dataclass(frozen=True)
class Cudnn:
    """cuDNN's fused attention.

    Attributes:
        capability: NVIDIA's compute capability; None reads it from JAX when a call is on a GPU.
        implementation: of jax.nn; tests pass "xla".
    """

    name: str = "cudnn"
    rounds: tuple[str, ...] = ("weights", "d scores", "logsumexp")
    capability: tuple[int, int] | None = None
    implementation: Any = "cudnn"

    def refuses(self, request: Request) -> str | None:
        """Refuse what cuDNN has no kernel for, and masks that it would read as arrays."""
        if request.device not in ("gpu", "cuda"):
            return f"has no {request.device}"
        if 0 in (*request.q.shape, *request.k.shape):
            return "does not support axes of size 0"
        return request.lacks(*FEATURES) or self._lacks_here(request.sizes.D) or _lacks_mask(request)

    def _lacks_here(self, width: int) -> str | None:
        """Return what this GPU lacks, or None."""
        capability = self.capability or _capability()
        if capability is None:
            return "has no GPU but NVIDIA's"
        if capability < (8, 0):
            return f"has no GPU before Ampere, 8.0, and this is {capability[0]}.{capability[1]}"
        most = 256 if capability >= HOPPER else 128
        return None if width <= most and width % 8 == 0 else f"has no D but multiples of 8 up to {most}, not {width}"

    def run(self, request: Request) -> dict[str, jax.Array]:
        """Return the context."""
        of = request.sizes
        parts = [] if request.mask is None else list(conjuncts(request.mask))
        out = jax.nn.dot_product_attention(
            *(x.reshape(-1, *x.shape[-3:]) for x in zero_masked(request)),
            scale=request.scale,
            is_causal=_is_causal(parts),
            local_window_size=_window(parts, of),
            implementation=self.implementation,
            **_lengths(parts, of),
        ).reshape(request.q.shape)
        rows = _rows(parts, of)
        return {"context": out if rows is None else jnp.where(rows, out, jnp.zeros_like(out))}


def _capability() -> tuple[int, int] | None:
    """Return the compute capability of JAX's first device, or None where it has none."""
    major, dot, minor = str(getattr(jax.devices()[0], "compute_capability", "")).partition(".")
    return (int(major), int(minor)) if dot and major.isdigit() and minor.isdigit() else None


def conjuncts(mask: Mask) -> Iterator[Mask]:
    """Yield the masks that all have to allow a key."""
    if isinstance(mask, And):
        yield from conjuncts(mask.left)
        yield from conjuncts(mask.right)
    else:
        yield mask


def _lacks_mask(request: Request) -> str | None:
    """Return which part of the mask cuDNN would have to read as an array, or None."""
    parts = [] if request.mask is None else list(conjuncts(request.mask))
    for part in parts:
        if isinstance(part, Aligned) and not _from_start(part, request.sizes):
            return f"has no {type(part).__name__} that is aligned at the end or by positions"
        if not isinstance(part, (Causal, Window, Lengths)):
            return f"has no {type(part).__name__} but as an array, which is slow"
    lengths = [part for part in parts if isinstance(part, Lengths)]
    windows = [part for part in parts if isinstance(part, Window)]
    if any(part.padding == "left" for part in lengths):
        return "has no padding on the left"
    if len(lengths) > 1:
        return "has no two lengths"
    if any(part.after != 0 for part in windows) and not _is_causal(parts):
        return "has no Window that looks ahead without Causal"
    # Of a row whose window has passed the last key it is not known what cuDNN makes, nor of the row's gradients.
    passes = windows and (lengths or request.sizes.T > request.sizes.S)
    return "has no Window that may have passed the last key" if passes else None


def _from_start(mask: Aligned, of: Sizes) -> bool:
    """Return whether p(t) = t."""
    return mask.query_positions is None and (mask.align == "start" or of.T == of.S)


def _is_causal(parts: list[Mask]) -> bool:
    return any(isinstance(part, Causal) or (isinstance(part, Window) and part.after == 0) for part in parts)


def _window(parts: list[Mask], of: Sizes) -> tuple[int, int] | None:
    """Return how many keys before its own a query sees, and none after, or None for all before."""
    before = [part.before for part in parts if isinstance(part, Window) and part.before is not None]
    # No query has more keys before it than there are.
    return (min(*before, of.S), 0) if before else None


def _lengths(parts: list[Mask], of: Sizes) -> dict[str, Array]:
    """Return the lengths of queries and keys, int32 `(B,)`, or nothing."""
    found = [part for part in parts if isinstance(part, Lengths)]
    if not found:
        return {}
    # An empty row would be NaN; with one zeroed key it is finite and can be replaced afterwards.
    lengths = {"key_value_seq_lengths": jnp.maximum(found[0].kv, 1)}
    if found[0].q is not None:
        lengths["query_seq_lengths"] = jnp.maximum(found[0].q, 1)
    return {name: jnp.broadcast_to(x, of.batch).reshape(-1).astype(jnp.int32) for name, x in lengths.items()}


def _rows(parts: list[Mask], of: Sizes) -> Array:
    """Return which queries see a key, bool `(*batch, T or 1, 1, 1)`, or None where all do."""
    rows = None
    for part in parts:
        if isinstance(part, Lengths):
            rows = part.kv[..., None, None, None] > 0
            rows = rows if part.q is None else rows & (jnp.arange(of.T)[:, None, None] < part.q[..., None, None, None])
    return rows
