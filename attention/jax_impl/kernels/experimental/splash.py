"""The kernel `splash`: JAX's splash attention for TPUs, with static masks and segment ids.

    allowed[b, t, s] = static[h, t, s]                  CausalMask, LocalMask, or an array of the host for any other structure
                     & q_ids[b, t] == kv_ids[b, s]      segment ids, also for lengths: an absent token has an id of its own

The static part is read while the program is compiled; ids are arguments of it. This adapter is tested in JAX's interpreter on
a CPU and has run on no TPU.

References:
    jax.experimental.pallas.ops.tpu.splash_attention, of JAX 0.10.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attention.jax_impl.kernels import precision
from attention.jax_impl.kernels.experimental.cudnn import conjuncts
from attention.jax_impl.masks import reach, zero_masked
from attention.spec.axes import Array, Sizes
from attention.spec.kernels import Request
from attention.spec.masks import Causal, Lengths, PerHead, PerRow, Segments, Window
from attention.spec.masks.algebra import And, Mask, evaluate

FEATURES = ("softcap", "E != D", "float32", "bfloat16")
TILES = (512, 256, 128)
"""Queries, or keys, of a tile: the largest that divides the sequence. TPU lanes need multiples of 128."""


@dataclass(frozen=True)
class Splash:
    """JAX's splash attention.

    Attributes:
        interpret: whether to run in JAX's interpreter, on any device and very slowly.
    """

    name: str = "splash"
    rounds: tuple[str, ...] = ("logsumexp",)
    interpret: bool = False

    def refuses(self, request: Request) -> str | None:
        """Refuse other devices, lengths that are not multiples of the tile, and masks of more than lengths and ids."""
        if request.device != "tpu" and not self.interpret:
            return f"has no {request.device}"
        of = request.sizes
        for letter, n in (("T", of.T), ("S", of.S)):
            if n == 0 or n % TILES[-1]:
                return f"has no {letter} but multiples of {TILES[-1]}, not {n}"
        if 0 in request.q.shape:
            return "does not support axes of size 0"
        return request.lacks(*FEATURES) or _lacks_precision(request) or _lacks_mask(request)

    def run(self, request: Request) -> dict[str, jax.Array]:
        """Return the context."""
        from jax.experimental.pallas.ops.tpu import splash_attention  # noqa: PLC0415 - it takes longer to load than this package

        of, batch = request.sizes, request.sizes.batch
        static, ids = _split(request.mask, of)
        q, k, v = (jnp.swapaxes(x.reshape(-1, *x.shape[-3:]), 1, 2) for x in zero_masked(request))
        kernel = splash_attention.make_splash_mha(
            mask=splash_attention.MultiHeadMask([_named(splash_attention, mask, of) for mask in static]),
            block_sizes=_blocks(splash_attention, of),
            attn_logits_soft_cap=request.softcap,
            head_shards=1,
            q_seq_shards=1,
            interpret=self.interpret,
        )
        # It has no argument for the scale. In bfloat16 a scale that is not a power of two rounds q once more.
        q = (q.astype(request.compute) * request.scale).astype(q.dtype)
        segments = None if ids is None else splash_attention.SegmentIds(*ids)
        with precision.scope(request.precision):
            out: Any = jax.vmap(kernel)(q, k, v, segments)
        out = jnp.swapaxes(out, 1, 2).reshape(*batch, of.T, of.H, of.E)
        if request.mask is None or not request.needs_zero_masking:
            return {"context": out}
        # Of a row without a key it makes the mean of the values, or NaN.
        rows = jnp.swapaxes(reach(request.mask, of).rows, -1, -2)[..., None]
        return {"context": jnp.where(rows, out, jnp.zeros_like(out))}


def _lacks_precision(request: Request) -> str | None:
    return "has no precision 'high': Mosaic has the default and 'highest'" if request.precision == "high" else None


def _lacks_mask(request: Request) -> str | None:
    """Return the part of the mask that the kernel does not support, or None."""
    parts = [] if request.mask is None else list(conjuncts(request.mask))
    for part in parts:
        if isinstance(part, PerRow) or not (part.is_static or isinstance(part, (Segments, Lengths))):
            return f"has no {type(part).__name__} that holds arrays or differs from row to row"
    return "has no two kinds of segments" if sum(isinstance(part, Segments) for part in parts) > 1 else None


def _split(mask: Mask | None, of: Sizes) -> tuple[list[Mask | None], tuple[Array, Array] | None]:
    """Return the static part of a mask for each head, and the ids of queries `(B, T)` and keys `(B, S)`, or None."""
    parts = [] if mask is None else list(conjuncts(mask))
    static = [part for part in parts if part.is_static]
    heads = [[part.masks[h] if isinstance(part, PerHead) else part for part in static] for h in range(of.H)]
    data = [part for part in parts if not part.is_static]
    return [reduce(And, each) if each else None for each in heads], _ids(data, of) if data else None


def _ids(parts: Sequence[Mask], of: Sizes) -> tuple[Array, Array]:
    """Return ids of queries and keys that are equal where all parts allow it; an absent query is -2, an absent key -1."""
    ids = [jnp.zeros((*of.batch, n), jnp.int32) for n in (of.T, of.S)]
    for part in parts:
        if isinstance(part, Segments):
            given = (part.kv if part.q is None else part.q, part.kv)
            ids = [jnp.where(x < 0, absent, x) for x, absent in zip(given, (-2, -1), strict=True)]
    for part in parts:
        if isinstance(part, Lengths):
            given = ((part.q, of.T), (part.kv, of.S))
            present = [True if n is None else _present(n[..., None], size, part.padding) for n, size in given]
            ids = [jnp.where(p, x, absent) for p, x, absent in zip(present, ids, (-2, -1), strict=True)]
    q, kv = (
        jnp.broadcast_to(x, (*of.batch, n)).reshape(-1, n).astype(jnp.int32) for x, n in zip(ids, (of.T, of.S), strict=True)
    )
    return q, kv


def _present(length: Array, size: int, padding: str) -> Array:
    at = jnp.arange(size)
    return at >= size - length if padding == "left" else at < length


def _named(splash_attention: Any, mask: Mask | None, of: Sizes) -> Any:
    """Return a static mask by splash's own name for it, or as an array."""
    shape = (of.T, of.S)
    if mask is None:
        return splash_attention.FullMask(shape)
    parts = list(conjuncts(mask))
    offsets = {of.S - of.T if getattr(part, "align", None) == "end" else 0 for part in parts}
    if len(offsets) > 1 or not all(isinstance(part, (Causal, Window)) for part in parts):
        dense: Any = evaluate(mask, replace(of, batch=(), H=1))
        return splash_attention.NumpyMask(np.broadcast_to(dense, (1, *shape)).reshape(shape))
    before, after = (_least(parts, side) for side in ("before", "after"))
    if (before, after) == (None, 0):
        return splash_attention.CausalMask(shape, offsets.pop())
    return splash_attention.LocalMask(shape, (before, after), offsets.pop())


def _least(parts: Sequence[Mask], side: str) -> int | None:
    """Return the narrowest bound of a side: Causal is a window with nothing after."""
    bounds = [0 if isinstance(part, Causal) and side == "after" else getattr(part, side, None) for part in parts]
    return min((bound for bound in bounds if bound is not None), default=None)


def _blocks(splash_attention: Any, of: Sizes) -> Any:
    queries, keys = (next(size for size in TILES if n % size == 0) for n in (of.T, of.S))
    return splash_attention.BlockSizes(
        block_q=queries,
        block_kv=keys,
        block_q_dkv=queries,
        block_kv_dkv=keys,
        block_q_dq=queries,
        block_kv_dq=keys,
    )
