"""The kernel `flex`: torch's FlexAttention, with score_mod and the mask compiled into the kernel.

    score_mod(x, b, h, t, s) = user(cap tanh(x / cap) + bias[b, h, t, s], b, h, t, s)
    mask_mod(b, h, t, s)     = allowed[b, h, t, s]                                       the mask's own predicate

    blocks              = schedule(mask, tiles of 128 x 128)                             empty, partial, full

b counts rows through all batch axes, row-major. The tiles come from the mask's predicate on ranges (spec/masks/tile_schedule),
not from T * S elements; inside torch.compile, which cannot follow that, they do. On CUDA the kernel is compiled once for each
structure of call; on a CPU it is used by name only, and runs as plain operations, T * S at a time, unless the caller
compiles.

References:
    Dong et al., "FlexAttention", arXiv:2412.05496.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache, partial, reduce
from typing import Any

import array_api_compat.torch as xp
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from attention.spec.axes import Sizes
from attention.spec.kernels import Request
from attention.spec.masks import Mask
from attention.spec.masks.grid import Grid
from attention.spec.masks.tile_schedule import FULL, PARTIAL, schedule
from attention.spec.scores import bind, soft_cap
from attention.torch_impl.kernels import derivatives, precision
from attention.torch_impl.masks import allowed, zero_masked

FEATURES = ("softcap", "score_mod", "bias", "wide bias", "E != D", "float64", "float32", "bfloat16", "float16")

TILE = 128
"""Queries and keys of a tile: FlexAttention's own default, and a multiple of the block of its compiled kernels."""


@dataclass(frozen=True)
class Flex:
    """Torch's FlexAttention."""

    name: str = "flex"
    rounds: tuple[str, ...] = ("weights", "d scores", "logsumexp")

    def refuses(self, request: Request) -> str | None:
        """Refuse what FlexAttention has no argument for, or does not differentiate."""
        inputs = (request.q, request.k, request.v, request.bias)
        return (
            derivatives.refuses(*inputs)
            or _lacks_here(request, [x for x in inputs if x is not None])
            or request.lacks(*FEATURES)
            or precision.refuses(request)
            or _lacks_for(request)
        )

    def run(self, request: Request) -> dict[str, Tensor]:
        """Return the context."""
        of = request.sizes
        q, k, v = zero_masked(request)
        attend = _compiled() if request.device == "cuda" and not torch.compiler.is_compiling() else flex_attention
        with _as_it_is(request.device), torch.autocast(q.device.type, enabled=False):
            out = attend(
                *(_four_axes(derivatives.once(self.name, x)) for x in (q, k, v)),
                score_mod=_score_mod(request),
                block_mask=None if request.mask is None else block_mask(request.mask, of, q.device),
                scale=request.scale,
                enable_gqa=of.group > 1,
            )
        return {"context": out.transpose(1, 2).reshape(*q.shape[:-1], of.E)}


@cache
def _compiled() -> Callable[..., Tensor]:
    """Return FlexAttention as its kernel. Lengths and ids are inputs of it: new ones, or a new mask alike, compile nothing."""
    return torch.compile(flex_attention)


def _lacks_here(request: Request, inputs: Sequence[Tensor]) -> str | None:
    """Return what FlexAttention lacks on this device, for these sizes or under these transforms, or None."""
    if 0 in (*request.q.shape, *request.k.shape, *request.v.shape):
        return "does not support axes of size 0"
    if any(derivatives.is_transformed(x) for x in inputs):
        return "has no transform of torch.func"
    if request.device not in ("cpu", "cuda"):
        return f"has no {request.device}"
    if request.device == "cuda":
        return "has no float64 on CUDA" if request.dtype == "float64" else None
    if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        return "has no gradient on CPU"
    # Torch 2.13's Inductor writes C++ for it that does not compile.
    unwritten = torch.compiler.is_compiling() and request.mask is not None and not request.mask.is_static
    return "has no compiled mask of arrays on CPU" if unwritten else None


def _four_axes(x: Tensor) -> Tensor:
    """Bring `(*batch, N, heads, width)` to `(B, heads, N, width)`, without its claim to a gradient where none is recorded."""
    x = x if torch.is_grad_enabled() else x.detach()
    if x.ndim == 4:
        return x.transpose(1, 2)
    # Inductor reads the four axes of the base tensor, not of a view.
    return x.reshape(-1, *x.shape[-3:]).transpose(1, 2).contiguous()


def _score_mod(request: Request) -> Callable[..., Tensor] | None:
    """Return all that happens to a score before the mask, or None for nothing."""
    bias, user, batch = request.bias, request.score_mod, request.sizes.batch
    if request.softcap is None and bias is None and user is None:
        return None

    def modified(score: Tensor, b: Tensor, h: Tensor, t: Tensor, s: Tensor) -> Tensor:
        score = soft_cap(torch, score, request.softcap)
        if bias is not None:
            score = score + _element(bias, batch, b, h, t, s)
        return score if user is None else user(score, b, h, t, s)

    return modified


def _lacks_for(request: Request) -> str | None:
    """Return what FlexAttention lacks for the user's function, which a corner of the scores has shown, or None.

    Raises:
        ShapeError: the function changes the shape of the scores; FlexAttention's one score has none to get wrong.
        DTypeError: it changes their dtype.
    """
    of, device = request.sizes, request.q.device
    corner = Sizes((1,) * len(of.batch), min(2, of.T), min(2, of.S), min(2, of.H), 1, 1, 1)
    call = bind(request.score_mod, corner, partial(torch.arange, device=device))
    if call is None:
        return None
    made = call(torch.zeros(corner.scores, dtype=getattr(torch, request.compute), device=device))
    return "has no gradient on CPU" if made.requires_grad and request.device == "cpu" else None


def block_mask(mask: Mask, sizes: Sizes, device: torch.device) -> BlockMask:
    """Return a mask as FlexAttention takes it, made once for all the rows and heads that it does not tell apart.

    Args:
        mask: a checked mask whose arrays are tensors on `device`.
        sizes: of the call, none of them 0.
        device: of the tiles.
    """

    def predicate(b: Tensor, h: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return mask.allowed(Element(t, s, sizes.T, sizes.S, xp=xp, b=b, h=h, batch=sizes.batch))

    if torch.compiler.is_compiling():
        # Asked for its shape alone: what nothing else is made of, a compiler leaves out.
        shape = torch.broadcast_shapes(allowed(mask, sizes, device).shape, (1,) * len(sizes.scores))  # pyright: ignore[reportOptionalMemberAccess]
        rows = math.prod(sizes.batch) if any(n > 1 for n in shape[:-3]) else None
        return create_block_mask(predicate, rows, sizes.H if shape[-3] > 1 else None, sizes.T, sizes.S, device=device)
    # The schedule creates its arrays on torch's default device.
    with device:
        tiles = schedule(mask, sizes, (TILE, TILE), xp)
        lists = [_four_lists(x, sizes.batch, device) for kind in (PARTIAL, FULL) for x in tiles.of(kind)]
    return BlockMask.from_kv_blocks(*lists, BLOCK_SIZE=TILE, mask_mod=predicate, seq_lengths=(sizes.T, sizes.S))


def _four_lists(x: Any, batch: tuple[int, ...], device: torch.device) -> Tensor:
    """Bring numbers `(*batch or 1s, H or 1, ...)` of tiles to `(B or 1, H or 1, ...)`, in FlexAttention's own type."""
    x = torch.as_tensor(x, dtype=torch.int32, device=device)
    inner = x.shape[len(batch) :]
    alike = all(n == 1 for n in x.shape[: len(batch)])
    return x.reshape(1, *inner) if alike else x.expand(*batch, *inner).reshape(-1, *inner).contiguous()


@dataclass(frozen=True)
class Element(Grid):
    """One element of the scores, whose indices are tensors without an axis.

    Attributes:
        b: the row, counted through all batch axes.
        h: the query head.
        batch: the sizes of the batch axes.
    """

    b: Tensor = field(kw_only=True)
    h: Tensor = field(kw_only=True)
    batch: tuple[int, ...] = field(kw_only=True)

    def per_row(self, x: Tensor) -> Tensor:
        return _element(x, self.batch, self.b)

    def per_query(self, x: Tensor) -> Tensor:
        return _element(x, self.batch, self.b, self.t)

    def per_key(self, x: Tensor) -> Tensor:
        return _element(x, self.batch, self.b, self.s)

    def per_score(self, x: Tensor) -> Tensor:
        return _element(x, self.batch, self.b, self.h, self.t, self.s)

    def by_head(self, allowed: Sequence[Tensor]) -> Tensor:
        return _pick(allowed, self.h)

    def by_row(self, allowed: Sequence[Tensor]) -> Tensor:
        return _pick(allowed, self.b % self.batch[-1])


def _element(x: Tensor, batch: tuple[int, ...], b: Tensor, *inner: Tensor) -> Tensor:
    """Return the element at row b and the `inner` indices of an array that broadcasts to `(*batch, ...)`."""
    rows: list[Tensor] = []
    stride = 1
    for size in reversed(batch):
        rows.append(b // stride % size)
        stride *= size
    index = [*reversed(rows), *inner][-x.ndim :]
    return x[tuple(0 if n == 1 else i for i, n in zip(index, x.shape, strict=True))] if x.ndim else x


def _pick(values: Sequence[Tensor], at: Tensor) -> Tensor:
    """Return the value whose number is `at`."""
    numbered = list(enumerate(values))[1:]
    return reduce(lambda picked, one: torch.where(at == one[0], one[1], picked), numbered, values[0])


@contextmanager
def _as_it_is(device: str) -> Iterator[None]:
    """Silence FlexAttention's warning about uncompiled calls: the kernel was chosen by name."""
    if torch.compiler.is_compiling():
        yield
        return
    # Torch would trace it anew for every call. It must where there is a gradient, and there is none on a CPU.
    plain = torch.compiler.set_stance("force_eager") if device == "cpu" else nullcontext()
    with plain, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "flex_attention called without torch.compile")
        yield
