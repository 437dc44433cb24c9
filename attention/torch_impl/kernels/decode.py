"""The kernel `decode` in PyTorch: a few new queries against a long cache, reading only keys that are attended to.

    context[b] = attend(q[b], k[b, seen[b]], v[b, seen[b]])        seen[b, s] = some query of row b may attend to key s

The query heads of a group fold into the query axis, so each key is read once, where it lies, and never repeated. Keys that a
row attends to side by side are a view, others are gathered; masked keys are not read. Where a compiler or
an accelerator keeps the mask to itself, all keys are read under it. Torch's fused kernel computes the rows, and the formula
what that has no argument for, and all that is differentiated: for so few queries it is small, and has every derivative.

References:
    Ainslie et al., arXiv:2305.13245 (groups); Kwon et al., arXiv:2309.06180 (caches of unequal rows).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import array_api_compat.torch as xp
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from attention.spec.attend import attend, reachable, zero_masked
from attention.spec.axes import Sizes
from attention.spec.kernels import Request
from attention.torch_impl.kernels import derivatives, precision
from attention.torch_impl.masks import allowed, read

FEATURES = ("softcap", "sinks", "bias", "wide bias", "E != D", "float64", "float32", "bfloat16", "float16")
FUSED = ("E != D", "float64", "float32", "bfloat16", "float16")
"""What torch's fused kernel has, folded: of a bias it would need a copy as large as the scores."""
MOST = 8
"""Queries beyond which arithmetic and not memory sets the time: a kernel for whole sequences is then the better one."""


@dataclass(frozen=True)
class Decode:
    """Attention to the part of a cache that is seen, row by row."""

    name: str = "decode"
    rounds: tuple[str, ...] = ("weights",)

    def refuses(self, request: Request) -> str | None:
        """Refuse many queries, empty axes, and what needs the index of every score."""
        if 0 in (*request.q.shape, *request.k.shape, *request.v.shape):
            return "does not support axes of size 0"
        if request.sizes.T > MOST:
            return f"has no more than {MOST} queries, not {request.sizes.T}"
        return request.lacks(*FEATURES) or precision.refuses(request)

    def run(self, request: Request) -> dict[str, Tensor]:
        """Return the context."""
        of = request.sizes
        attended = partial(_attended, request, _fused if _is_plain(request) else _formula)
        with torch.autocast(request.device, enabled=False):
            q, k, v = (x if x.ndim == 4 else x.reshape(-1, *x.shape[-3:]) for x in (request.q, request.k, request.v))
            bias, seen = (_four_axes(of, x) for x in (request.bias, allowed(request.mask, of, request.q.device)))
            known = None if seen is None else read(seen)
            if known is None:
                out = attended(q, k, v, bias, seen)
            else:
                out = torch.cat([attended(*part) for part in _parts(q, k, v, bias, known)])
        return {"context": out.reshape(*of.batch, of.T, of.H, of.E)}


def _is_plain(request: Request) -> bool:
    """Return whether the fused kernel supports all options of the call, without derivatives."""
    given = (request.q, request.k, request.v)
    recorded = torch.is_grad_enabled() and any(x.requires_grad for x in given)
    followed = recorded or any(derivatives.is_transformed(x) for x in given) or derivatives.refuses(*given) is not None
    return not followed and request.lacks(*FUSED) is None


def _parts(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, seen: np.ndarray) -> Iterator[tuple[Any, ...]]:
    """Yield what `_attended` takes for one batch row after another, or for all at once if they see the same keys.

    Args:
        q: `(B, T, H, D)`.
        k: `(B, S, K, D)`.
        v: `(B, S, K, E)`.
        bias: `(B or 1, H or 1, T or 1, S or 1)`, or None.
        seen: bool, likewise.
    """
    count, size, heads, _ = k.shape
    seen = np.broadcast_to(seen, (*seen.shape[:3], size))
    keys: np.ndarray = np.any(seen, axis=(1, 2))
    alike = bool((keys == keys[:1]).all())
    for b, held in enumerate(keys[:1] if alike else keys):
        rows = slice(0, count) if alike else slice(b, b + 1)
        at = np.flatnonzero(held)
        part = _of_rows(seen, rows)[..., at]
        hidden = None if part.all() else torch.from_numpy(part)
        sound = hidden is None or bool(reachable(np, part, q.shape[-2] // heads)[1].all())
        cut = partial(_cut, rows=rows, at=at)
        yield _of_rows(q, rows), cut(k, 1), cut(v, 1), bias if bias is None else cut(bias, 3), hidden, sound


def _cut(x: Tensor, axis: int, *, rows: slice, at: np.ndarray) -> Tensor:
    """Return some batch rows, and of an axis the elements at rising indices: a view if they lie side by side."""
    x = _of_rows(x, rows)
    if axis == 3 and x.shape[axis] == 1:
        return x  # a bias for all keys
    first, n = (int(at[0]), len(at)) if len(at) else (0, 0)
    if n == 0 or int(at[-1]) + 1 == first + n:
        return x.narrow(axis, first, n)
    return x.index_select(axis, torch.from_numpy(at))


def _of_rows(x: Any, rows: slice) -> Any:
    """Return the batch rows of an array that may have one for all."""
    return x if x.shape[0] == 1 else x[rows]


def _attended(
    request: Request,
    kernel: Callable[..., Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    seen: Tensor | None,
    sound: bool = False,
) -> Tensor:
    """Return the context `(B, T, H, E)`.

    Args:
        request: says how.
        kernel: `_fused` or `_formula`.
        q: `(B, T, H, D)`.
        k: `(B, S, K, D)`.
        v: `(B, S, K, E)`.
        bias: `(B or 1, H or 1, T or 1, S or 1)`, or None.
        seen: bool, likewise, or None for all.
        sound: whether every key of every head is known to be attended to, so that no copy with zeros is needed.
    """
    if seen is not None and sound:
        q = torch.where(reachable(xp, seen, q.shape[-2] // k.shape[-2])[0], q, 0)
    elif seen is not None:
        q, k, v = zero_masked(xp, q, k, v, seen)
    return kernel(request, q, k, v, bias, seen)


def _fused(request: Request, q: Tensor, k: Tensor, v: Tensor, bias: None, seen: Tensor | None) -> Tensor:
    """Return the context by torch's fused kernel, without a bias; masked tokens must be finite."""
    del bias
    (b, t, h, _), (_, s, heads, _) = q.shape, k.shape
    if s == 0:
        return q.new_zeros(b, t, h, v.shape[-1])
    rows = None
    if seen is not None:
        several = seen.shape[1] > 1
        seen = seen.expand(-1, h if several else h // heads, t, s).reshape(-1, heads if several else 1, h // heads * t, s)
        rows = seen.any(dim=-1, keepdim=True)
        # A row without a key is computed as if it saw all of them, which is finite everywhere, and zeroed below.
        seen = seen | ~rows
    folded = q.transpose(1, 2).reshape(b, heads, h // heads * t, -1)
    out = scaled_dot_product_attention(folded, k.transpose(1, 2), v.transpose(1, 2), attn_mask=seen, scale=request.scale)
    out = out if rows is None else torch.where(rows, out, 0)
    return out.reshape(b, h, t, -1).transpose(1, 2)


def _formula(request: Request, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, seen: Tensor | None) -> Tensor:
    """Return the context by the formula, in the compute dtype."""
    kind = getattr(torch, request.compute)
    bias, sinks = (x if x is None else x.to(kind) for x in (bias, request.sinks))
    made = attend(
        xp,
        *(x.to(kind) for x in (q, k, v)),
        scale=request.scale,
        # Not as `allowed`, for which the formula would zero tokens once more.
        score_mod=None if seen is None else lambda scores: torch.where(seen, scores, -torch.inf),
        bias=bias,
        softcap=request.softcap,
        sinks=sinks,
        constant=Tensor.detach,
    )
    return made["context"].to(request.q.dtype)


def _four_axes(of: Sizes, x: Tensor | None) -> Tensor | None:
    """Reshape an array that broadcasts to `(*batch, H, T, S)` to four axes; axes of 1 are kept."""
    if x is None or x.ndim == 4 == len(of.scores):
        return x
    x = x.reshape((1,) * (len(of.scores) - x.ndim) + x.shape)
    batch, inner = x.shape[:-3], x.shape[-3:]
    return x.reshape(1, *inner) if all(n == 1 for n in batch) else x.expand(*of.batch, *inner).reshape(-1, *inner)
