"""Masks made of other masks: PerHead, PerRow, and Placed (a mask evaluated at other positions).

allowed[b, h, t, s] = masks[h][b, h, t, s]                  PerHead(masks)
allowed[b, h, t, s] = masks[b][b, h, t, s]                  PerRow(masks), b of the last batch axis
allowed[t, s] = mask[q[t], k[s]] and q[t] >= 0 <= k[s]      Placed(mask, q, k)
"""

# Arguments may come from code without type checks.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from attention.spec.axes import Array, Sizes
from attention.spec.errors import MaskError, shown
from attention.spec.masks.algebra import Mask, Read, check_mask, farthest
from attention.spec.masks.fields import MOST, set_integers
from attention.spec.masks.grid import Grid
from attention.spec.tree import DATA, data


@dataclass(frozen=True, eq=False, repr=False)
class Several(Mask):
    """Several masks, one per head or per batch row. Abstract."""

    masks: tuple[Mask, ...] = field(metadata=DATA)

    def __post_init__(self) -> None:
        if not isinstance(self.masks, (tuple, list)) or not self.masks:
            raise MaskError(f"{type(self).__name__} masks {shown(self.masks)} must be a tuple of at least one Mask")
        object.__setattr__(self, "masks", tuple(check_mask(mask) for mask in self.masks))

    @property
    def keeps_self(self) -> bool:
        return all(mask.keeps_self for mask in self.masks)

    @property
    def reach(self) -> int | None:
        return farthest(*self.masks)

    @property
    def looks_ahead(self) -> bool:
        return any(mask.looks_ahead for mask in self.masks)


@dataclass(frozen=True, eq=False, repr=False)
class PerHead(Several):
    """A mask for each query head: H of them, as where some heads look near and others far.

    >>> from attention.spec.masks.aligned import Window
    >>> print(PerHead((Window(before=1, after=0), Window(before=0, after=1))).draw(2, head=1))
    PerHead(masks=(Window(align=None, query_positions=None, before=1, after=0), Window(...)))
    t/s  0 1
      0  ■ ■
      1  · ■
    """

    @property
    def several(self) -> tuple[tuple[str, Any], ...]:
        return (("H", len(self.masks)),)

    def allowed(self, at: Grid) -> Array:
        return at.by_head([mask.allowed(at) for mask in self.masks])

    def check(self, sizes: Sizes, read: Read) -> None:
        if len(self.masks) != sizes.H:
            raise MaskError(f"PerHead masks, {len(self.masks)}, must be one for each of H = {sizes.H} query heads")
        super().check(sizes, read)


@dataclass(frozen=True, eq=False, repr=False)
class PerRow(Several):
    """A mask for each row of the last batch axis, as where a batch mixes ways to train."""

    @property
    def several(self) -> tuple[tuple[str, Any], ...]:
        return (("batch", (len(self.masks),)),)

    def allowed(self, at: Grid) -> Array:
        return at.by_row([mask.allowed(at) for mask in self.masks])

    def check(self, sizes: Sizes, read: Read) -> None:
        if sizes.batch[-1:] != (len(self.masks),):
            raise MaskError(f"PerRow masks, {len(self.masks)}, must be one for each row of the last axis of {sizes.batch}")
        super().check(sizes, read)


@dataclass(frozen=True, eq=False, repr=False)
class Placed(Mask):
    """The mask of a whole sequence, evaluated at the positions of some queries and keys, as in a decoding step with a cache.

    Args:
        mask: structure alone, such as `Causal()`, where p(t) = t; None: only presence counts.
        query_positions: integers `(*batch, T)`; a negative one is an absent token, which attends to nothing.
        key_positions: integers `(*batch, S)`, in any order; a negative one is an absent token, to which no query attends.

    Raises:
        MaskError: `mask` holds an array, or positions are no integers.
    """

    mask: Mask | None
    query_positions: Array = field(metadata=data("T"))
    key_positions: Array = field(metadata=data("S"))

    def __post_init__(self) -> None:
        if self.mask is not None and not (isinstance(self.mask, Mask) and self.mask.is_static):
            raise MaskError(f"Placed mask {shown(self.mask)} must be structure without arrays, or None")
        set_integers(self, "query_positions", self.query_positions)
        set_integers(self, "key_positions", self.key_positions)

    def allowed(self, at: Grid) -> Array:
        t, s = at.per_query(self.query_positions), at.per_key(self.key_positions)
        present: Any = (t >= 0) & (s >= 0)
        # As many queries as keys, so that p(t) = t for every alignment.
        return present if self.mask is None else present & self.mask.allowed(replace(at, t=t, s=s, T=at.S, S=at.S))

    def check(self, sizes: Sizes, read: Read) -> None:
        # The whole sequence may have any length.
        if self.mask is not None:
            self.mask.check(replace(sizes, T=MOST, S=MOST), read)
        self.check_arrays(sizes, read)

    @property
    def reach(self) -> int | None:
        return None if self.mask is None else self.mask.reach

    @property
    def looks_ahead(self) -> bool:
        return self.mask is None or self.mask.looks_ahead
