"""Tokens inside a layer: which are present under a mask, feature dropout, and the dropout seed of each sublayer.

present[t] = (exists s: allowed[t, s]) or (exists s: allowed[s, t])             over all heads
seed of a place = bits(key(seed), crc32(the place's name))                      32 bits, the same in every framework
"""

from __future__ import annotations

from typing import Any

import numpy as np

from attention.spec import random
from attention.spec.attend import UNOBSERVED, Observer
from attention.spec.axes import Array
from attention.spec.errors import ShapeError
from attention.spec.layers.multi_head import MultiHeadAttention
from attention.spec.masks.algebra import Mask, both, evaluate


def check_tokens(name: str, x: Array, width: int, rows: str = "T", batch: tuple[int, ...] | None = None) -> None:
    """Raise ShapeError unless `x` holds tokens of this width, in batch rows like those of others if `batch` is given."""
    given = "" if batch is None else f", batch = {batch} as x has"
    if len(x.shape) < 2 or x.shape[-1] != width or (batch is not None and tuple(x.shape[:-2]) != batch):
        raise ShapeError(f"{name} {tuple(x.shape)} must be (*batch, {rows}, M) with M = {width}{given}")


def present(xp: Any, rows: Array, keys: Array) -> Array:
    """Return which tokens attend or are attended to: bool `(*batch, T, 1)`, any axis but the last perhaps 1 or absent.

    Args:
        xp: the array namespace.
        rows: bool `(*batch, H, T)`, queries that may attend to a key; see `nan_safety.Reach`.
        keys: bool `(*batch, H, T)`, keys that a query may attend to.
    """
    return xp.any(rows, axis=-2)[..., None] | xp.any(keys, axis=-2)[..., None]


def existing(attention: MultiHeadAttention, x: Array, mask: Mask | None) -> np.ndarray:
    """Return which tokens of a call exist: bool `(*batch, T, 1)`.

    Raises:
        MaskError: the mask does not fit.
    """
    allowed = evaluate(both(attention.mask, mask), attention.sizes(x, x, x))
    shape = (*x.shape[:-1], 1)
    if allowed is None:
        return np.ones(shape, bool)
    allowed = allowed[(None,) * max(0, 3 - allowed.ndim) + (...,)]
    return np.broadcast_to(present(np, np.any(allowed, axis=-1), np.any(allowed, axis=-2)), shape)


def only(xp: Any, x: Array, there: Array) -> Array:
    """Return `x` with zeros for tokens that are not there; `there` None means that all are."""
    return x if there is None else xp.where(there, x, xp.zeros_like(x))


def seed_at(seed: int | None, name: str) -> int | None:
    """Return the seed of a place inside a layer.

    >>> seed_at(7, "ffn"), seed_at(7, "dropout1"), seed_at(None, "ffn")
    (35829332, 2694390461, None)
    """
    return None if seed is None else random.bits(random.key(seed), random.label(name))


def kept(rate: float, shape: tuple[int, ...], dropout_seed: int | None = None) -> Array:
    """Return the dropout mask, True where kept, or None without dropout."""
    return None if dropout_seed is None or not rate else random.keep(dropout_seed, rate, shape)


def dropped(xp: Any, x: Array, keep: Array, rate: float, observe: Observer = UNOBSERVED) -> Array:
    """Return `x / (1 - rate)` where it is kept and 0 elsewhere; `keep` None leaves `x` as it is."""
    return x if keep is None else observe("dropped", xp.where(keep, x / (1.0 - rate), xp.zeros_like(x)))
