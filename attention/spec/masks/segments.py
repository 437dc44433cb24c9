"""Segments: packed documents, where a query attends to the keys of its own document.

allowed[t, s] = q[t] == kv[s] >= 0                          Segments(kv, q)
kv[s] = i  where  offsets[i] <= s < offsets[i + 1]          Segments.from_cu_seqlens(offsets)
kv[s] = (zeros among positions[:s + 1]) - 1                 Segments.from_positions(positions)
"""

# array_api_compat leaves the types of arrays unsaid.
# pyright: reportUnknownVariableType=false

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

from array_api_compat import array_namespace, device

from attention.spec.axes import Array, Sizes
from attention.spec.errors import MaskError, shown
from attention.spec.masks.algebra import Mask, Read
from attention.spec.masks.fields import check_rank, integers, is_count, known, set_integers
from attention.spec.masks.grid import Grid
from attention.spec.tree import data

MOST_IDS = 2**30
"""The most documents times positions that are compared to find the ids."""


@dataclass(frozen=True, eq=False, repr=False)
class Segments(Mask):
    """A query attends to the keys that bear its own id: packed documents. A negative id is padding and meets nothing.

    Args:
        kv: integers `(*batch, S)`, the id of each key.
        q: integers `(*batch, T)`, the id of each query; None takes the keys' ids, which needs T = S.
    """

    kv: Array = field(metadata=data("S"))
    q: Array = field(default=None, metadata=data("T"))

    def __post_init__(self) -> None:
        set_integers(self, "kv", self.kv)
        if self.q is not None:
            set_integers(self, "q", self.q)

    @property
    def confines_nan(self) -> bool:
        return True

    def allowed(self, at: Grid) -> Array:
        kv = at.per_key(self.kv)
        return (kv == at.per_query(self.kv if self.q is None else self.q)) & (kv >= 0)

    def check(self, sizes: Sizes, read: Read) -> None:
        super().check(sizes, read)
        if self.q is None and sizes.T != sizes.S:
            raise MaskError(f"Segments with T = {sizes.T} and S = {sizes.S} must be given q, the ids of the queries")

    @classmethod
    def from_cu_seqlens(
        cls, cu_seqlens: Any, size: int | None = None, *, cu_seqlens_q: Any = None, size_q: int | None = None
    ) -> Self:
        """Return the mask of consecutive documents, from the offsets of FlashAttention's varlen functions.

        Args:
            cu_seqlens: integers `(documents + 1,)`: where each document's keys begin, and at last where all end.
            size: S; tokens after the last document are padding. None means the end of the last document.
            cu_seqlens_q: the same for the queries, if they are not the keys' own.
            size_q: T, likewise.

        Raises:
            MaskError: offsets are no integers, do not begin at 0, fall, or exceed the size.

        >>> Segments.from_cu_seqlens([0, 2, 5], size=6)
        Segments(kv=[0, 0, 1, 1, 1, -1], q=None)
        """
        kv = _ids("cu_seqlens", cu_seqlens, "size", size)
        if cu_seqlens_q is None:
            if size_q is not None:
                raise MaskError(f"Segments.from_cu_seqlens size_q {shown(size_q)} must come with cu_seqlens_q")
            return cls(kv)
        return cls(kv, _ids("cu_seqlens_q", cu_seqlens_q, "size_q", size_q))

    @classmethod
    def from_positions(cls, positions: Any) -> Self:
        """Return the mask of documents whose positions count from 0 each, as transformers' `position_ids` do.

        Args:
            positions: integers `(*batch, S)`; a 0 begins a document, a negative number is padding, and so is what stands
                before the first 0.

        Raises:
            MaskError: positions are no integers, or have no axis.

        >>> Segments.from_positions([0, 1, 0, 1, 2, -1])
        Segments(kv=[0, 0, 1, 1, 1, -1], q=None)
        """
        positions = integers("Segments.from_positions positions", positions)
        check_rank("Segments.from_positions positions", positions, "(*batch, S)", least=1)
        xp: Any = array_namespace(positions)
        first = xp.asarray(positions == 0, dtype=xp.int32)
        ids = xp.cumulative_sum(first, axis=-1, dtype=xp.int32) - 1
        return cls(xp.where(positions < 0, -1, ids))


def _ids(name: str, offsets: Any, size_name: str, size: int | None) -> Array:
    """Return the id `(size,)` of each position among documents that begin and end at `offsets`; -1 beyond the last."""
    label = f"Segments.from_cu_seqlens {name}"
    offsets = integers(label, offsets)
    check_rank(label, offsets, "(documents + 1,)", least=1, most=1)
    if offsets.shape[0] == 0 or known((offsets[:1] == 0) & (offsets[1:] >= offsets[:-1]).all()) is False:
        raise MaskError(f"{label} {shown([int(x) for x in offsets])} must begin at 0 and never fall")
    if size is None:
        if known(offsets >= 0) is None:
            raise MaskError(f"{label} must be known numbers, or come with {size_name}: what is traced has no size yet")
        size = int(offsets[-1])
    if not is_count(size, 0) or known(offsets[-1:] <= size) is False:
        raise MaskError(
            f"Segments.from_cu_seqlens {size_name} {shown(size)} must be an int >= {offsets[-1]}, where documents end"
        )
    if size * offsets.shape[0] > MOST_IDS:
        raise MaskError(
            f"{label} of {offsets.shape[0] - 1} documents and {shown(size)} positions must be at most {MOST_IDS} together"
        )
    xp: Any = array_namespace(offsets)
    at = xp.arange(size, dtype=offsets.dtype, device=device(offsets))
    document = xp.sum(xp.asarray(offsets[1:, None] <= at, dtype=xp.int32), axis=0, dtype=xp.int32)
    return xp.where(at < offsets[-1], document, -1)
