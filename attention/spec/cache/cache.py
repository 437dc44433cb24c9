"""Cache: the base class of key/value caches, the memory operations that a framework provides, and their checks.

    decode(x[:n]) ++ decode(x[n:]) = full(x)        for every n, and so for every split of x into chunks

    decode(chunk):  cache, key, value, key_positions, query_positions = cache.append(k(chunk), v(chunk))
                    attend(q(chunk), key, value, Placed(mask, query_positions, key_positions))

    slots of a row of its own        StaticCache, RollingCache        slotted.py
    blocks of a common pool          PagedCache                       paged.py

The law holds where no query sees a token of a later chunk: under `Causal()`, and for `Causal() | Prefix(n)` if the first
chunk covers the prefix. A position of -1 marks an absent token (padding) or a slot that holds nothing.

A cache is a value: `append` returns a new one and leaves the old as it was, so a decoding step is a pure function.
Overflow is an error. Where a compiler hides the lengths it cannot be raised: keys and values are then NaN from that call
on, in the row that overflowed (with `StaticCache` in all rows), and no other token is overwritten.

References:
    Beltagy et al., arXiv:2004.05150 (window); Kwon et al., arXiv:2309.06180 (pages).
"""

# NumPy leaves the type of its integers open, and arguments may come from code without type checks.
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from attention.spec.axes import Array, check_broadcast, check_float
from attention.spec.errors import AttentionError, DTypeError, MaskError, OptionError, PositionError, ShapeError, shown
from attention.spec.masks.algebra import Mask
from attention.spec.masks.fields import MOST, integers
from attention.spec.numbers import is_count
from attention.spec.options import size

TOKENS = size(0)
"""How many tokens come."""


class Memory(Protocol):
    """What a framework does differently: where arrays lie, how they are read on the host and how slots are written."""

    xp: Any

    def known(self, x: Array) -> np.ndarray | None:
        """Return integers on the host, having waited for an accelerator, or None where a compiler hides them."""
        ...

    def is_native(self, x: object) -> bool:
        """Return whether `x` is an array of this framework."""
        ...

    def zeros(self, shape: tuple[int, ...], dtype: str, device: Any) -> Array:
        """Return zeros of a floating dtype."""
        ...

    def integers(self, values: Any, *, like: Array = None, device: Any = None) -> Array:
        """Return integers in the width that this framework has for positions, beside `like` or on a device."""
        ...

    def count(self, n: int, like: Array) -> Array:
        """Return the integers 0 .. n-1 beside `like`."""
        ...

    def write(self, storage: Array, start: Array, new: Array, axis: int) -> Array:
        """Return `storage` with `new` at `start`, `start + 1`, ... of `axis`; both lie inside."""
        ...

    def write_pages(self, pool: Array, block: Array, offset: Array, new: Array) -> Array:
        """Return `pool` with `pool[block[b, t], offset[b, t]] = new[b, t]`."""
        ...


@dataclass(frozen=True, eq=False)
class Appended:
    """What `append` returns.

    Attributes:
        cache: the cache with the new tokens in it.
        key: `(*batch, S, K, D)`, the keys that the new queries may attend to, in no particular order.
        value: `(*batch, S, K, E)`.
        key_positions: integers `(*batch, S)`, -1 where a slot holds nothing: `Placed(mask, query_positions, key_positions)`.
        query_positions: integers `(*batch, T)` of the new tokens, -1 for an absent one.
    """

    cache: Cache
    key: Array
    value: Array
    key_positions: Array
    query_positions: Array


@dataclass(frozen=True, eq=False)
class Cache:
    """Keys and values of the tokens so far. Abstract; a backend makes it concrete by its `memory`.

    Attributes:
        key: the storage of keys.
        value: the storage of values; its width E may differ from the keys' D (latent attention: K = 1, E > D).
    """

    key: Array
    value: Array

    memory: ClassVar[Memory]

    @property
    @abstractmethod
    def batch(self) -> tuple[int, ...]:
        """The batch axes."""

    @abstractmethod
    def append(self, k: Array, v: Array, positions: Array = None) -> Appended:
        """Return the cache with T more tokens, and what their queries may attend to.

        Args:
            k: `(*batch, T, K, D)`, T of any size that fits.
            v: `(*batch, T, K, E)`.
            positions: integers that broadcast to `(*batch, T)`, rising within a row and above those appended before; -1 for
                an absent token. None continues the count of each row.

        Raises:
            ShapeError: a rank or a size does not fit.
            CacheError: the tokens do not.
            DTypeError: not an array of this framework, or not in the cache's dtype.
            PositionError: positions are no integers, or do not rise.
        """

    @abstractmethod
    def upcoming(self, t: int, positions: Any = None) -> Array:
        """Return the positions `(*batch, T)` that `append` will give to `t` tokens: their keys are rotated before."""

    def check(self, mask: Mask | None) -> None:
        """Raise OptionError if `mask` (None: everything is allowed) lets a query see tokens that the cache forgets."""

    def sizes_of(self, k: Array, v: Array) -> int:
        """Return T, having checked the new keys and values."""
        for name, width, array, held in (("k", "D", k, self.key), ("v", "E", v, self.value)):
            if not self.memory.is_native(array):
                raise DTypeError(f"{name} {type(array).__module__}.{type(array).__name__} must be an array as the cache's are")
            shape, (heads, size) = tuple(array.shape), held.shape[-2:]
            if len(shape) != len(self.batch) + 3 or (shape[:-3], shape[-2:]) != (self.batch, (heads, size)):
                wanted = f"batch = {self.batch}, K = {heads}, {width} = {size} as the cache has"
                raise ShapeError(f"{name} {shape} must be (*batch, T, K, {width}) with {wanted}")
        _ = check_float(cache=self.key, k=k, v=v)
        if k.shape[-3] != v.shape[-3]:
            raise ShapeError(f"v {tuple(v.shape)} must be (*batch, T, K, E) with T = {k.shape[-3]} as k has")
        return k.shape[-3]

    def given(self, positions: Any, t: int, like: Array) -> Array:
        """Return given positions as native integers `(*batch, T)`, having checked what can be."""
        positions = check_integers("positions", positions, PositionError)
        if not (isinstance(positions, np.ndarray) or self.memory.is_native(positions)):
            raise PositionError(f"positions {type(positions).__module__} must be of the cache's framework, or of NumPy")
        check_broadcast("positions", positions, (*self.batch, t), "(*batch, T)")
        native = self.memory.xp.broadcast_to(self.memory.integers(positions, like=like), (*self.batch, t))
        return self.memory.xp.where(native < 0, -1, native)

    def poisoned(self, lost: Array, *arrays: Array) -> list[Array]:
        """Return the arrays with NaN where `lost`, which broadcasts to each."""
        xp = self.memory.xp
        return [xp.where(lost, xp.nan, array) for array in arrays]


def counts(name: str, given: Any, least: int) -> tuple[int, ...]:
    """Return the ints given, or raise OptionError unless each is at least `least`."""
    given = tuple(given) if isinstance(given, (tuple, list)) else (given,)
    if not all(is_count(n, least) and n <= MOST for n in given):
        raise OptionError(f"{name} {', '.join(map(shown, given))} must be ints >= {least}, and below 2**31")
    return given


def unallocated(shape: tuple[int, ...], itemsize: int) -> str:
    """Return the message of a cache whose storage cannot be allocated."""
    return f"cache {shape} of {math.prod(shape) * itemsize / 1e9:.3g} GB must fit into memory, and cannot be allocated"


def overflow(held: int, capacity: int, new: int, whose: str = "") -> str:
    """Return the message of a cache that cannot take `new` tokens more."""
    return f"{whose}cache holds {min(held, capacity)} of {capacity} tokens and cannot take {new} more"


def check_integers(name: str, given: Any, error: type[AttentionError]) -> Any:
    """Return integers as an array that shares no memory with the host's, or raise `error`."""
    try:
        array = integers(name, given)
    except MaskError as wrong:
        raise error(str(wrong)) from None
    return array.copy() if isinstance(array, np.ndarray) else array


def check_rise(last: np.ndarray, new: np.ndarray) -> None:
    """Raise PositionError unless the positions `(*batch, T)` rise in each row from the last one `(*batch,)` on, -1 aside."""
    rows = np.concatenate([last[..., None], new], axis=-1)
    falls = (rows[..., 1:] >= 0) & (rows[..., 1:] <= np.maximum.accumulate(rows, axis=-1)[..., :-1])
    if falls.any():
        row = tuple(np.argwhere(falls)[0][:-1])
        raise PositionError(f"positions {new[row].tolist()} must rise from {last[row]} on, -1 for an absent token aside")
