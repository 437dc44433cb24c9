"""The kernel object `pallas`: refusals, tile sizes, and the call of the forward and backward kernels.

context = sum over the tiles that the mask leaves of e^(x - logsumexp) v        see forward.py and backward.py

Pallas is JAX's language for kernels. This text is tested in its interpreter on a CPU, against the oracle, and is compiled as
far as a machine without them allows: lowered to Triton for GPUs, and to Mosaic for TPUs. It has run on neither.

References:
    Dao, arXiv:2307.08691 (FlashAttention-2); jax.experimental.pallas.ops.tpu.splash_attention (lists of the tiles to visit).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from attention.jax_impl import random
from attention.jax_impl.masks import zero_masked
from attention.spec.axes import Array, Sizes
from attention.spec.kernels import Request
from attention.spec.random import count
from attention.spec.scores import bind

if TYPE_CHECKING:
    from attention.jax_impl.kernels.experimental.pallas.operands import Plan

Tile = tuple[int, int]

# Pallas is imported where a kernel is made: it takes longer to load than the rest of this package.

FEATURES = ("softcap", "score_mod", "sinks", "dropout", "bias", "wide bias", "E != D", "float32", "bfloat16")
DTYPES = {"gpu": ("float16",), "tpu": (), "interpret": ("float16", "float64")}
TILES: dict[str, tuple[Tile, Tile]] = {
    "gpu": ((128, 64), (64, 64)),
    "tpu": ((256, 256), (256, 256)),
    "interpret": ((16, 16), (16, 16)),
}
"""Queries and keys of a tile, forward and backward. Guessed and not measured: no such device was there."""
VMEM = 12 * 2**20
"""Bytes of a TPU's vector memory that the blocks of one program may take; by default XLA gives a kernel 16 MiB."""


@dataclass(frozen=True)
class Pallas:
    """Flash attention in Pallas.

    Attributes:
        interpret: whether to run in JAX's interpreter, on any device and very slowly.
        tile: queries and keys of a tile in both passes; None: those of `TILES`.
    """

    name: str = "pallas"
    rounds: tuple[str, ...] = ("weights", "d scores", "logsumexp")
    interpret: bool = False
    tile: Tile | None = None

    def refuses(self, request: Request) -> str | None:
        """Refuse what the kernel has no code for, and devices that have no compiler for it."""
        device = self._device(request)
        if device not in DTYPES:
            return f"has no {device}: interpret mode is for tests"
        if 0 in (*request.q.shape, *request.k.shape, *request.v.shape):
            return "does not support axes of size 0"
        lacks = request.lacks(*FEATURES, *DTYPES[device]) or _lacks_precision(request, device) or _holds_arrays(request)
        return lacks or _too_long(request, device, self._tiles(device)[1])

    def run(self, request: Request) -> dict[str, Array]:
        """Return the context and the logsumexp."""
        from attention.jax_impl.kernels.experimental.pallas.backward import attention  # noqa: PLC0415 - see above
        from attention.jax_impl.kernels.experimental.pallas.tiles import folded  # noqa: PLC0415

        of, batch = request.sizes, request.sizes.batch
        q, k, v = (_heads_first(x) for x in zero_masked(request))
        bias = None if request.bias is None else folded(request.bias, batch, 3)
        context, logsumexp = attention(self._plan(request), q, k, v, request.mask, bias, request.sinks, _seed(request))
        context = jnp.swapaxes(context, 1, 2).reshape(*batch, of.T, of.H, of.E)
        return {"context": context, "logsumexp": logsumexp.reshape(*batch, of.H, of.T)}

    def _device(self, request: Request) -> str:
        device = {"cuda": "gpu", "rocm": "gpu"}.get(request.device, request.device)
        return "interpret" if self.interpret else device

    def _tiles(self, device: str) -> tuple[Tile, Tile]:
        return TILES[device] if self.tile is None else (self.tile, self.tile)

    def _plan(self, request: Request) -> Plan:
        from attention.jax_impl.kernels.experimental.pallas.operands import Plan  # noqa: PLC0415 - see above

        device = self._device(request)
        forward, backward = (_fitting(tile, request.sizes, device) for tile in self._tiles(device))
        return Plan(
            sizes=request.sizes,
            scale=request.scale,
            softcap=request.softcap,
            score_mod=request.score_mod,
            dropout_rate=request.dropout_rate,
            compute=request.compute,
            # A product of narrower inputs is exact already, and no compiler has a word for more.
            precision=request.precision if request.dtype in ("float32", "float64") else "default",
            forward=forward,
            backward=backward,
            device=device,
        )


def _heads_first(x: Array) -> Array:
    """Return `(*batch, N, heads, width)` as `(B, heads, N, width)`."""
    return jnp.swapaxes(x.reshape(-1, *x.shape[-3:]), 1, 2)


def _seed(request: Request) -> Array:
    """Return the two words of dropout's key, or None."""
    if not request.dropout_rate:
        return None
    _ = count(request.sizes.scores)
    return jnp.stack([jnp.asarray(word, jnp.uint32) for word in random.key(request.dropout_seed)])


def _fitting(tile: Tile, sizes: Sizes, device: str) -> Tile:
    """Return the tile, or a smaller one for a short sequence on a GPU, where any power of two from 16 on will do."""
    if device != "gpu":
        return tile
    queries, keys = (min(size, max(16, 2 ** math.ceil(math.log2(n)))) for size, n in zip(tile, (sizes.T, sizes.S), strict=True))
    return queries, keys


def _holds_arrays(request: Request) -> str | None:
    """Return why the user's function cannot go into a kernel, as a corner of the scores has shown, or None.

    Raises:
        ShapeError: the function changes the shape of the scores.
        DTypeError: it changes their dtype.
    """
    of = request.sizes
    corner = Sizes((1,) * len(of.batch), min(2, of.T), min(2, of.S), min(2, of.H), 1, 1, 1)
    call, user = bind(request.score_mod, corner, jnp.arange), request.score_mod
    if call is None or user is None:
        return None
    _ = jax.eval_shape(call, jax.ShapeDtypeStruct(corner.scores, request.compute))
    score, index = jax.ShapeDtypeStruct((2, 2), request.compute), jax.ShapeDtypeStruct((), jnp.int32)
    traced = jax.make_jaxpr(user)(score, *[index] * 4)
    return "has no score_mod that holds arrays" if traced.consts else None


def _lacks_precision(request: Request, device: str) -> str | None:
    lacks = device == "tpu" and request.precision == "high"
    return "has no precision 'high': Mosaic has the default and 'highest'" if lacks else None


def _too_long(request: Request, device: str, tile: Tile) -> str | None:
    """Return that a sequence does not fit into a TPU's vector memory, in which a program has all of its head, or None."""
    if device != "tpu":
        return None
    of, size = request.sizes, request.q.dtype.itemsize
    widths = sum(-(-width // 128) * 128 for width in (of.D, of.E))
    scores = 0 if request.bias is None else max(tile) * max(of.T, of.S) * 4
    # Twice, for the next program's blocks are fetched meanwhile.
    needs = 2 * (max(of.S, of.group * of.T) * widths * size + scores)
    return (
        None if needs <= VMEM else f"supports {VMEM >> 20} MiB of blocks for a head on tpu, and this call needs {needs >> 20}"
    )
