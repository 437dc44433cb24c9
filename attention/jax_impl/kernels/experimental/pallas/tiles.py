"""Inputs of the Pallas kernels: arrays padded to whole tiles, and index lists of the tiles to visit.

    tiles[b, h, i]  = the key tiles that query tile i sees: full ones first, then partial ones
    counts[b, h, i] = (full, full + partial)

Lists are arrays like any other, so new lengths and ids need no compilation. What fills an array up is 0 and counts for
nothing: a key beyond the last is masked, and a query beyond the last has a gradient of 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl

from attention.jax_impl.kernels.experimental.pallas.operands import Launch, Operand, Plan
from attention.spec.axes import Array
from attention.spec.masks.algebra import Mask
from attention.spec.masks.tile_schedule import EMPTY, FULL, PARTIAL, Schedule


def operands(
    launch: Launch, found: Schedule, q: Array, k: Array, v: Array, mask: Mask | None, bias: Array, seed: Array
) -> dict[str, Any]:
    """Return what every pass reads, by name.

    Args:
        launch: the Pallas call.
        found: the mask's schedule in tiles of the launch.
        q: `(B, H, T, D)`.
        k: `(B, K, S, D)`.
        v: `(B, K, S, E)`.
        mask: with arrays in it, or None.
        bias: `(B or 1, H or 1, T or 1, S or 1)`, or None.
        seed: the two words of dropout's key, or None.
    """
    return {
        "q": tokens(launch, q, "T"),
        "k": tokens(launch, k, "S"),
        "v": tokens(launch, v, "S"),
        "mask": arrays(launch, mask),
        "bias": None if bias is None else Operand(filled(bias, launch.filled), "T", "S"),
        "seed": None if seed is None else Operand(seed.reshape(1, 1, 1, 2), scalars=True),
        **lists(launch, found),
    }


def tokens(launch: Launch, x: Array, axis: str) -> Operand:
    """Return `(B, heads, N, D)` as an operand whose rows follow the axis "T" or "S"."""
    return Operand(filled(x, (launch.filled["TS".index(axis)], width(x.shape[-1], launch.plan))), axis)


def numbers(launch: Launch, x: Array, value: float = 0) -> Operand:
    """Return a number for each query `(B, H, T)` as an operand, padded with `value`."""
    return Operand(filled(x[:, :, None], (1, launch.filled[0]), value), "", "T")


def width(n: int, plan: Plan) -> int:
    """Return the columns of a block: a power of two, as Triton's products take them, and no fewer than 16."""
    return n if plan.device == "interpret" else max(16, pl.next_power_of_2(n))


def lists(launch: Launch, found: Schedule) -> dict[str, Operand]:
    """Return the tiles to visit for each tile that programs are spread over: "counts", and "tiles"."""
    xp, kinds, of = found.xp, found.kinds, launch.plan.sizes
    if launch.ragged:
        # The padding of the last tile of keys must not be attended to.
        last = xp.arange(kinds.shape[-1]) == kinds.shape[-1] - 1
        kinds = xp.where(last & (kinds == FULL), xp.int8(PARTIAL), kinds)
    kinds = folded(kinds if launch.along == "T" else xp.swapaxes(kinds, -1, -2), of.batch, 3)
    counts = xp.stack([(kinds == FULL).sum(-1), (kinds != EMPTY).sum(-1)], axis=-1)
    tiles = xp.argsort(-kinds, axis=-1, stable=True)
    if xp is not jnp:
        # Known here and now, so no list is longer than the longest needs to be.
        tiles = tiles[..., : max(1, int(counts[..., 1].max()))]
    return {name: _list(x) for name, x in (("counts", counts), ("tiles", tiles))}


def _list(x: Array) -> Operand:
    """Return `(B, H, tiles, n)` as an operand of one row of n numbers for each tile."""
    return Operand(jnp.asarray(x, jnp.int32)[..., None, :], scalars=True)


def arrays(launch: Launch, mask: Mask | None) -> Mask | None:
    """Return the mask with an operand in the place of each array that it holds."""
    if mask is None:
        return None
    leaves, tree = jax.tree.flatten(mask)
    return jax.tree.unflatten(tree, [_operand(launch, x, axes) for x, axes in zip(leaves, _axes(mask), strict=True)])


def _operand(launch: Launch, x: Array, axes: tuple[str, ...]) -> Operand:
    """Return an array of `(*batch, *axes)` as an operand."""
    x = folded(x, launch.plan.sizes.batch, len(axes))
    if len(axes) == 3:
        # A bit has no address, and the parts of an array do.
        return Operand(filled(x.astype(jnp.int8), launch.filled), "T", "S")
    x = x.reshape(x.shape[0], 1, 1, -1)
    # Document ids are read at queries and at keys, so every tile gets the whole row.
    return Operand(filled(x, (1, max(launch.filled))) if axes else x)


def _axes(mask: Mask) -> Iterator[tuple[str, ...]]:
    """Yield the axes after the batch of each array that the mask holds, in the order of its leaves."""
    own = {name: axes for name, _, axes, _ in mask.arrays()}
    for name, value in mask.leaves().items():
        if name in own:
            yield own[name]
        else:
            for part in value if isinstance(value, tuple) else (value,):
                yield from _axes(part)


def folded(x: Array, batch: tuple[int, ...], inner: int) -> Array:
    """Return what broadcasts to `(*batch, ...inner axes)` with one axis of all batch rows, or of 1 where they are alike."""
    x = x.reshape((1,) * (len(batch) + inner - x.ndim) + x.shape)
    rest = x.shape[x.ndim - inner :]
    if all(n == 1 for n in x.shape[: len(batch)]):
        return x.reshape(1, *rest)
    xp: Any = np if isinstance(x, np.ndarray) else jnp
    return xp.broadcast_to(x, (*batch, *rest)).reshape(-1, *rest)


def filled(x: Array, sizes: Sequence[int], value: float = 0) -> Array:
    """Return the array with its last axes filled up to `sizes`; an axis of 1 stays."""
    ends = [(0, wanted - n if n > 1 else 0) for n, wanted in zip(x.shape[-len(sizes) :], sizes, strict=True)]
    return jnp.pad(x, [(0, 0)] * (x.ndim - len(sizes)) + ends, constant_values=value) if any(e[1] for e in ends) else x
