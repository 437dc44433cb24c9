"""Caches: keys and values of the tokens so far, so that each is computed once.

    decode(x[:n]) ++ decode(x[n:]) = full(x)        for every n, and so for every split of x into chunks

    decode(chunk):  cache, key, value, key_positions, query_positions = cache.append(k(chunk), v(chunk))
                    attend(q(chunk), key, value, Placed(mask, query_positions, key_positions))

    slot(token n) = n                                            StaticCache: all of `capacity` tokens
    slots = the `window` latest of old slots and new tokens      RollingCache: enough where mask.reach <= window
    slot(token n) = block_table[n // block_size], n % block_size        PagedCache, in attention/spec/pages.py

The law holds where no query sees a token of a later chunk: under `Causal()`, and for `Causal() | Prefix(n)` if the first
chunk covers the prefix. A position of -1 marks an absent token (padding) or a slot that holds nothing.

A cache is a value: `append` returns a new one and leaves the old as it was, so a decoding step is a pure function.
Overflow is an error. Where a compiler hides the lengths it cannot be raised: keys and values are then NaN from that call
on, in the row that overflowed (with `StaticCache` in all rows), and no other token is overwritten.

References:
    Beltagy et al., arXiv:2004.05150 (window); Kwon et al., arXiv:2309.06180 (pages).
"""

# NumPy leaves the type of its integers open, and bad input comes from code that nobody type-checked.
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from attention.spec.algebra import Mask
from attention.spec.axes import Array, check_broadcast, check_float
from attention.spec.errors import AttentionError, DTypeError, MaskError, OptionError, PositionError, ShapeError
from attention.spec.fields import integers
from attention.spec.numbers import is_count


class Memory(Protocol):
    """What a framework does differently: where arrays lie, how they are read on the host and how slots are written."""

    xp: Any

    def known(self, x: Array) -> np.ndarray | None:
        """Return integers on the host, or None where a compiler hides them."""
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
        key: `(*batch, S, K, D)`, what the new tokens' queries may attend to, in no particular order.
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
    """Keys and values of the tokens so far. Abstract; a room makes it concrete by its `memory`.

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
            ShapeError: a rank or a size does not fit, or the tokens do not.
            DTypeError: not an array of this framework, or not in the cache's dtype.
            PositionError: positions are no integers, or do not rise.
        """

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
        check_broadcast("positions", positions, (*self.batch, t), "(*batch, T)")
        native = self.memory.xp.broadcast_to(self.memory.integers(positions, like=like), (*self.batch, t))
        return self.memory.xp.where(native < 0, -1, native)

    def poisoned(self, lost: Array, *arrays: Array) -> list[Array]:
        """Return the arrays with NaN where `lost`, which broadcasts to each."""
        xp = self.memory.xp
        return [xp.where(lost, xp.nan, array) for array in arrays]


@dataclass(frozen=True, eq=False)
class Slotted(Cache):
    """A cache whose batch rows each own their slots. Abstract.

    Attributes:
        positions: integers `(*batch, C)`, the position of the token in each slot; -1 in an empty one.
    """

    positions: Array

    @property
    def batch(self) -> tuple[int, ...]:
        return tuple(self.positions.shape[:-1])

    @classmethod
    def empty(cls, batch: Any, slots: int, heads: int, width: int, value_width: int | None, dtype: str, device: Any) -> Any:
        """Return key, value and positions of empty slots, having checked the sizes."""
        batch = counts("batch", (batch,) if isinstance(batch, int) else batch, 0)
        value_width = width if value_width is None else value_width
        _ = counts("num_kv_heads, head_dim, value_dim", (heads, width, value_width), 1)
        key, value = (cls.memory.zeros((*batch, slots, heads, w), dtype, device) for w in (width, value_width))
        return key, value, cls.memory.integers(np.full((*batch, slots), -1), device=device)

    def place(self, positions: Any, t: int) -> Array:
        """Return the positions `(*batch, T)` of new tokens: those given, or the next ones of each row."""
        xp, held = self.memory.xp, self.positions
        if positions is None:
            return xp.max(held, axis=-1)[..., None] + 1 + self.memory.count(t, held)
        placed = self.given(positions, t, held)
        before, new = self.memory.known(held), self.memory.known(placed)
        if before is not None and new is not None:
            check_rise(np.max(before, axis=-1), new)
        return placed


@dataclass(frozen=True, eq=False)
class StaticCache(Slotted):
    """All of at most `capacity` tokens, in slots that are filled in order: `slot(token n) = n`. Abstract.

    `decode(x[:n]) ++ decode(x[n:]) = full(x)` for every mask that shows no later chunk. An absent token takes a slot too.

    Attributes:
        length: an integer scalar, slots that are filled. One beyond the capacity marks a cache that has overflowed.
    """

    length: Array

    @classmethod
    def make(
        cls,
        batch: int | tuple[int, ...],
        capacity: int,
        num_kv_heads: int,
        head_dim: int,
        value_dim: int | None = None,
        *,
        dtype: str = "float32",
        device: Any = None,
    ) -> Self:
        """Return an empty cache.

        Args:
            batch: B, or the batch axes.
            capacity: C, the most tokens it takes.
            num_kv_heads: K.
            head_dim: D, the width of a key head.
            value_dim: E, the width of a value head; None: as `head_dim`.
            dtype: of keys and values.
            device: the framework's own device; None: its default.

        Raises:
            OptionError: a size is out of range.
            UnknownName: no such dtype.
        """
        _ = counts("capacity", (capacity,), 1)
        key, value, slots = cls.empty(batch, capacity, num_kv_heads, head_dim, value_dim, dtype, device)
        return cls(key, value, slots, cls.memory.integers(0, device=device))

    @property
    def capacity(self) -> int:
        """C, the most tokens it takes."""
        return self.positions.shape[-1]

    def append(self, k: Array, v: Array, positions: Array = None) -> Appended:
        t, xp, write = self.sizes_of(k, v), self.memory.xp, self.memory.write
        placed, held = self.place(positions, t), self.memory.known(self.length)
        filled = 0 if held is None else int(held.max(initial=0))
        if filled + t > self.capacity:
            raise ShapeError(overflow(filled, self.capacity, t))
        lost = self.length + t > self.capacity
        # Where too many tokens come, the last slots take them: all is NaN then, and each query still meets its own key.
        start = xp.where(lost, self.capacity - t, self.length)
        key, value = write(self.key, start, k, -3), write(self.value, start, v, -3)
        if held is None:
            key, value = self.poisoned(lost, key, value)
        slots = write(self.positions, start, placed, -1)
        length = xp.where(lost, self.capacity + 1, self.length + t)
        new = replace(self, key=key, value=value, positions=slots, length=length)
        return Appended(new, key, value, slots, placed)


@dataclass(frozen=True, eq=False)
class RollingCache(Slotted):
    """The `window` tokens of highest position in each row; it never overflows, and says by its type that it forgets. Abstract.

    `decode(x[:n]) ++ decode(x[n:]) = full(x)` for every mask that shows no later chunk and `mask.reach <= window`. New
    tokens attend to the old slots and to each other, S = window + T, so a chunk may be longer than the window.
    """

    @classmethod
    def make(
        cls,
        batch: int | tuple[int, ...],
        window: int,
        num_kv_heads: int,
        head_dim: int,
        value_dim: int | None = None,
        *,
        dtype: str = "float32",
        device: Any = None,
    ) -> Self:
        """Return an empty cache that keeps `window` tokens; the other arguments as `StaticCache.make` has them."""
        _ = counts("window", (window,), 1)
        return cls(*cls.empty(batch, window, num_kv_heads, head_dim, value_dim, dtype, device))

    @property
    def window(self) -> int:
        """Tokens kept."""
        return self.positions.shape[-1]

    def check(self, mask: Mask | None) -> None:
        reach = None if mask is None else mask.reach
        if reach is None or reach > self.window:
            seen = "any number of keys" if reach is None else f"{reach} keys"
            raise OptionError(
                f"mask {mask!r} lets a query see {seen} before its own; a cache of window {self.window} keeps fewer"
            )

    def append(self, k: Array, v: Array, positions: Array = None) -> Appended:
        t, xp = self.sizes_of(k, v), self.memory.xp
        placed = self.place(positions, t)
        key, value = xp.concat([self.key, k], axis=-3), xp.concat([self.value, v], axis=-3)
        slots = xp.concat([self.positions, placed], axis=-1)
        # Absent ones have the lowest position, so they are the first to be forgotten.
        latest = xp.argsort(slots, axis=-1)[..., t:]
        kept = [xp.take_along_axis(x, latest[..., None, None], axis=-3) for x in (key, value)]
        new = replace(self, key=kept[0], value=kept[1], positions=xp.take_along_axis(slots, latest, axis=-1))
        return Appended(new, key, value, slots, placed)


def counts(name: str, given: Any, least: int) -> tuple[int, ...]:
    """Return the ints given, or raise OptionError unless each is at least `least`."""
    given = tuple(given) if isinstance(given, (tuple, list)) else (given,)
    if not all(is_count(n, least) for n in given):
        raise OptionError(f"{name} {', '.join(map(repr, given))} must be ints >= {least}")
    return given


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
