"""Paged cache: fixed-size blocks of keys and values in a shared pool, addressed by a block table per batch row.

    slot(b, n) = block_table[b, n // block_size], n % block_size        the token at position n of row b

A block that is not needed yet need not be assigned, and rows may share the blocks of a common prefix. What a cache is and
the law it keeps are in `cache.py`.

References:
    Kwon et al., arXiv:2309.06180.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from attention.spec.axes import Array
from attention.spec.cache.cache import TOKENS, Appended, Cache, check_integers, counts, overflow
from attention.spec.errors import CacheError, DTypeError, PositionError, ShapeError
from attention.spec.options import checked


@dataclass(frozen=True, eq=False)
class PagedCache(Cache):
    """Rows of different lengths whose blocks lie anywhere in one shared pool. Abstract.

    `slot(b, n) = block_table[b, n // block_size], n % block_size` for the token at position n of row b, so
    `decode(x[:n]) ++ decode(x[n:]) = full(x)` row by row, each with its own n. An absent token takes no slot. Rows may share
    the blocks of a common prefix; a block that is written must belong to one row alone.

    Attributes:
        key: `(N + 1, block_size, K, D)`: the pool of N blocks, and one more where absent tokens go, which is never read.
        value: `(N + 1, block_size, K, E)`.
        block_table: integers `(B, M)` in 0..N-1, the blocks of each row; an entry that is not yet needed may be -1.
        lengths: integers `(B,)`, tokens in each row. One beyond M * block_size marks a row that has overflowed.
    """

    block_table: Array
    lengths: Array

    @classmethod
    def make(
        cls,
        block_table: Any,
        num_blocks: int,
        block_size: int,
        num_kv_heads: int,
        head_dim: int,
        value_dim: int | None = None,
        *,
        dtype: str = "float32",
        device: Any = None,
    ) -> Self:
        """Return an empty cache of N = `num_blocks` blocks; `block_table` as the class has it, the rest as `StaticCache.make`.

        Raises:
            OptionError: a size is out of range.
            ShapeError: the table is not `(B, M)`.
            DTypeError: the table holds no integers.
            UnknownName: no such dtype.
        """
        value_dim = head_dim if value_dim is None else value_dim
        names = "num_blocks, block_size, num_kv_heads, head_dim, value_dim"
        _ = counts(names, (num_blocks, block_size, num_kv_heads, head_dim, value_dim), 1)
        shape = (num_blocks + 1, block_size, num_kv_heads)
        key, value = (cls.memory.zeros((*shape, width), dtype, device) for width in (head_dim, value_dim))
        table = cls.memory.integers(check_table(block_table), device=device)
        return cls(key, value, table, cls.memory.integers(np.zeros(table.shape[0], np.int64), like=table))

    def assign(self, block_table: Any, lengths: Any = None) -> Self:
        """Return the cache with other blocks and, if given, other lengths: a row grows, ends, or makes place for another.

        Raises:
            ShapeError: the table is not `(B, M)`, or lengths are not `(B,)`.
            DTypeError: the table or lengths hold no integers.
        """
        table = self.memory.integers(check_table(block_table), like=self.lengths)
        lengths = self.lengths if lengths is None else check_integers("lengths", lengths, DTypeError)
        if tuple(lengths.shape) != (table.shape[0],):
            raise ShapeError(f"lengths {tuple(lengths.shape)} must be (B,) = ({table.shape[0]},) as block_table has")
        return replace(self, block_table=table, lengths=self.memory.integers(lengths, like=self.lengths))

    @property
    def batch(self) -> tuple[int, ...]:
        return (self.lengths.shape[0],)

    @property
    def num_blocks(self) -> int:
        """N, the blocks of the pool."""
        return self.key.shape[0] - 1

    @property
    def block_size(self) -> int:
        """Tokens in a block."""
        return self.key.shape[1]

    @property
    def capacity(self) -> int:
        """M * block_size, the most tokens of a row."""
        return self.block_table.shape[1] * self.block_size

    def append(self, k: Array, v: Array, positions: Array = None) -> Appended:
        t, xp, write = self.sizes_of(k, v), self.memory.xp, self.memory.write_pages
        if t > self.capacity:
            raise CacheError(overflow(0, self.capacity, t))
        placed, grown, gaps = self.place(positions, t)
        faults = {"gaps": gaps, "full": grown > self.capacity, **self.faults(grown)}
        lost, hidden = self.lost(faults, placed, grown)
        stored = (placed >= 0) & ~lost[:, None]
        slot = xp.where(stored, placed, 0)
        block = xp.where(stored, xp.take_along_axis(self.block_table, slot // self.block_size, axis=1), self.num_blocks)
        pools = [write(pool, block, slot % self.block_size, new) for pool, new in ((self.key, k), (self.value, v))]
        # A length beyond the capacity stays beyond it, so that a row that lost a token stays lost.
        lengths = xp.where(lost, self.capacity + 1, grown)
        new = replace(self, key=pools[0], value=pools[1], lengths=lengths)
        key, value, slots = new.read()
        if hidden:
            key, value = self.poisoned(lost[:, None, None, None], key, value)
            # Each query still meets a NaN: the last slots take the positions of the new tokens.
            tail = xp.concat([slots[:, : self.capacity - t], placed], axis=1)
            slots = xp.where(lost[:, None], tail, slots)
        return Appended(new, key, value, slots, placed)

    @checked(t=TOKENS)
    def upcoming(self, t: int, positions: Any = None) -> Array:
        return self.place(positions, t)[0]

    def place(self, positions: Any, t: int) -> tuple[Array, Array, Array]:
        """Return the positions of new tokens `(B, T)`, the lengths with them `(B,)`, and where given ones leave gaps `(B,)`."""
        xp, lengths = self.memory.xp, self.lengths
        if positions is None:
            return lengths[:, None] + self.memory.count(t, lengths), lengths + t, lengths < 0
        placed = self.given(positions, t, lengths)
        present = placed >= 0
        # Before the first token there are `length`; each token that is present adds one.
        ones = xp.astype(present, lengths.dtype)
        # Not the standard's cumulative_sum: its namespace lookup in array_api_compat makes torch.compile warn.
        before = lengths[:, None] + xp.cumsum(ones, axis=1, dtype=lengths.dtype) - ones
        grown = lengths + xp.sum(ones, axis=1, dtype=lengths.dtype)
        return xp.where(present, before, -1), grown, xp.any(present & (placed != before), axis=1)

    def faults(self, grown: Array) -> dict[str, Array]:
        """Return which rows `(B,)` have a block outside the pool, and which write into a block that another entry uses."""
        xp, table, size = self.memory.xp, self.block_table, self.block_size
        first = self.memory.count(table.shape[1], table) * size
        used, outside = first < grown[:, None], (table < 0) | (table >= self.num_blocks)
        written = used & (first + size > self.lengths[:, None]) & (grown > self.lengths)[:, None]
        # A row that has overflowed owns nothing, lest it spoil the others.
        owned = used & ~outside & (grown <= self.capacity)[:, None]
        blocks = xp.reshape(xp.where(owned, table, self.num_blocks), (-1,))
        ordered = xp.sort(blocks)
        uses = xp.searchsorted(ordered, blocks, side="right") - xp.searchsorted(ordered, blocks, side="left")
        shared = written & owned & (xp.reshape(uses, table.shape) > 1)
        return {"outside": xp.any(used & outside, axis=1), "shared": xp.any(shared, axis=1)}

    def lost(self, faults: dict[str, Array], placed: Array, grown: Array) -> tuple[Array, bool]:
        """Return which rows cannot take their tokens, and whether a compiler hides that; raise if it does not."""
        xp, names = self.memory.xp, tuple(faults)
        stacked = xp.stack(list(faults.values()))
        seen = self.memory.known(stacked)
        if seen is not None and seen.any():
            row = int(np.argwhere(seen.any(axis=0))[0, 0])
            fault = names[int(np.argwhere(seen[:, row])[0, 0])]
            held, new, blocks = (np.asarray(self.memory.known(x)) for x in (self.lengths, grown, self.block_table))
            if fault == "gaps":
                raise PositionError(f"positions of row {row} must continue its count at {held[row]} without gaps")
            if fault == "full":
                raise CacheError(overflow(int(held[row]), self.capacity, int(new[row] - held[row]), f"row {row} of the "))
            wanted = f"be in 0..{self.num_blocks - 1}" if fault == "outside" else "share no block that is written"
            raise CacheError(f"block_table row {row} {blocks[row].tolist()} must {wanted} for {new[row]} tokens")
        return xp.any(stacked, axis=0), seen is None

    def read(self) -> tuple[Array, Array, Array]:
        """Return every row's keys `(B, S, K, D)`, values `(B, S, K, E)` and positions `(B, S)`, S = M * block_size."""
        xp, table = self.memory.xp, self.block_table
        slots = self.memory.count(self.capacity, table)
        inside = (table >= 0) & (table < self.num_blocks)
        blocks = xp.reshape(xp.where(inside, table, 0), (-1,))
        shape = (table.shape[0], self.capacity)
        pages = [xp.reshape(xp.take(x, blocks, axis=0), (*shape, *x.shape[-2:])) for x in (self.key, self.value)]
        return pages[0], pages[1], xp.where(slots < self.lengths[:, None], slots, -1)


def check_table(given: Any) -> Any:
    """Return a block table as an array of integers `(B, M)`, or raise."""
    table = check_integers("block_table", given, DTypeError)
    if len(table.shape) != 2 or 0 in table.shape:
        raise ShapeError(f"block_table {tuple(table.shape)} must be (B, M) with B, M >= 1")
    return table
