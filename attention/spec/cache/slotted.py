"""Static and rolling caches: a fixed number of slots per batch row, filled once or overwritten in turn.

    slot(token n) = n                                            StaticCache: all of `capacity` tokens
    slots = the `window` latest of old slots and new tokens      RollingCache: enough where mask.reach <= window

`cache.py` defines the interface and the law of both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from attention.spec.axes import Array
from attention.spec.cache.cache import TOKENS, Appended, Cache, check_rise, counts, overflow
from attention.spec.errors import CacheError, OptionError
from attention.spec.masks.algebra import MASK, Mask
from attention.spec.options import checked


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
        batch = counts("batch", batch, 0)
        value_width = width if value_width is None else value_width
        _ = counts("num_kv_heads, head_dim, value_dim", (heads, width, value_width), 1)
        key, value = (cls.memory.zeros((*batch, slots, heads, w), dtype, device) for w in (width, value_width))
        return key, value, cls.memory.integers(np.full((*batch, slots), -1), device=device)

    @checked(t=TOKENS)
    def upcoming(self, t: int, positions: Any = None) -> Array:
        return self.place(positions, t)

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
            raise CacheError(overflow(filled, self.capacity, t))
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
    """The `window` tokens of highest position in each row; it never overflows: older tokens are dropped. Abstract.

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
        MASK.check("mask", mask)
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
