"""Masks by count: Prefix (the first keys) and Lengths (existing keys and queries per batch row).

allowed[t, s] = s < length                                  Prefix(length)
allowed[t, s] = s < kv, t < q                               Lengths(kv, q)
allowed[t, s] = s >= S - kv, t >= T - q                     Lengths(kv, q, padding="left")
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from attention.spec.axes import Array, Sizes
from attention.spec.errors import MaskError, OptionError, shown
from attention.spec.masks.algebra import Mask, Read
from attention.spec.masks.fields import is_count, set_integers
from attention.spec.masks.grid import Grid
from attention.spec.options import one_of
from attention.spec.tree import data

PADDING = one_of("right", "left", wanted="'right' or 'left'")


@dataclass(frozen=True, eq=False, repr=False)
class Prefix(Mask):
    """Every query attends to the first `length` keys; `Causal() | Prefix(n)` is a prefix language model.

    `length` is an int, or integers `(*batch,)`.
    """

    length: Any = field(metadata=data(counts="S"))
    by_row: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_row", not isinstance(self.length, int))
        if self.by_row:
            set_integers(self, "length", self.length)
        elif not is_count(self.length, 0):
            raise OptionError(f"Prefix length {shown(self.length)} must be an int >= 0 or integers (*batch,)")

    @property
    def holds_arrays(self) -> bool:
        return self.by_row

    def allowed(self, at: Grid) -> Array:
        return at.s < (at.per_row(self.length) if self.by_row else self.length)

    def check(self, sizes: Sizes, read: Read) -> None:
        super().check(sizes, read)
        if not self.by_row and self.length > sizes.S:
            raise MaskError(f"Prefix length {self.length} must be in 0..S = {sizes.S}")


@dataclass(frozen=True, eq=False, repr=False)
class Lengths(Mask):
    """Padding: only the first (or last) `kv` keys of a batch row exist, and only the first (or last) `q` queries.

    Args:
        kv: integers `(*batch,)`, keys that exist in each row.
        q: integers `(*batch,)`, queries that exist; the others are empty rows, whose output is 0. None: all exist.
        padding: the side that is padded, "right" or "left".
    """

    kv: Array = field(metadata=data(counts="S"))
    q: Array = field(default=None, metadata=data(counts="T"))
    padding: str = field(default="right", kw_only=True)

    def __post_init__(self) -> None:
        set_integers(self, "kv", self.kv)
        if self.q is not None:
            set_integers(self, "q", self.q)
        PADDING.check("Lengths padding", self.padding)

    def allowed(self, at: Grid) -> Array:
        left = self.padding == "left"
        kv = at.per_row(self.kv)
        keys = at.s >= at.S - kv if left else at.s < kv
        if self.q is None:
            return keys
        q = at.per_row(self.q)
        return keys & (at.t >= at.T - q if left else at.t < q)
