"""Masks by position: Causal, Window and Chunked, for queries at given positions among the keys.

allowed[t, s] = s <= p(t)                                   Causal
allowed[t, s] = p(t) - before <= s <= p(t) + after          Window(before, after)
allowed[t, s] = s // size == p(t) // size                   Chunked(size)
p(t) = t  or  t + S - T  or  query_positions[t]             align="start", align="end", explicit
"""

from __future__ import annotations

from dataclasses import dataclass, field

from attention.spec.axes import Array, Sizes
from attention.spec.errors import MaskError, OptionError, shown
from attention.spec.masks.algebra import Mask, Read
from attention.spec.masks.fields import MOST, is_count, set_integers
from attention.spec.masks.grid import Grid
from attention.spec.options import one_of
from attention.spec.tree import data

ALIGN = one_of("start", "end", none=True, wanted="None, 'start' or 'end'")


@dataclass(frozen=True, eq=False, repr=False)
class Aligned(Mask):
    """A mask that depends on the position of a query among the keys: p(t) in the formulas.

    With T = S that is t. With T != S it must be said: `align="start"` (first query at the first key), `align="end"`
    (last query at the last key), or `query_positions`, integers `(*batch, T)`: key indices, not angles.
    """

    align: str | None = field(default=None, kw_only=True)
    query_positions: Array = field(default=None, kw_only=True, metadata=data("T"))

    def __post_init__(self) -> None:
        ALIGN.check(f"{type(self).__name__} align", self.align)
        if self.query_positions is not None:
            if self.align is not None:
                raise OptionError(f"{type(self).__name__} must have align or query_positions, not both")
            set_integers(self, "query_positions", self.query_positions)

    def position(self, at: Grid) -> Array:
        """Return p(t), broadcastable to `(*batch, 1, T, 1)`."""
        if self.query_positions is not None:
            return at.per_query(self.query_positions)
        return at.t + (at.S - at.T) if self.align == "end" else at.t

    def check(self, sizes: Sizes, read: Read) -> None:
        super().check(sizes, read)
        if self.align is None and self.query_positions is None and sizes.T != sizes.S:
            raise MaskError(
                f"{type(self).__name__} with T = {sizes.T} queries and S = {sizes.S} keys must say where a query stands:"
                " align='start', align='end' or query_positions"
            )

    @property
    def keeps_self(self) -> bool:
        return self.query_positions is None


@dataclass(frozen=True, eq=False, repr=False)
class Causal(Aligned):
    """A query attends to its own position and to those before it.

    >>> print(Causal(align="end").draw(2, 3))
    Causal(align='end', query_positions=None)
    t/s  0 1 2
      0  ■ ■ ·
      1  ■ ■ ■
    """

    def allowed(self, at: Grid) -> Array:
        return at.s <= self.position(at)

    @property
    def looks_ahead(self) -> bool:
        return False


@dataclass(frozen=True, eq=False, repr=False)
class Window(Aligned):
    """A query attends to `before` keys before its own position and `after` keys after it, *besides* its own.

    `Window(before=255, after=0)` therefore shows 256 keys. None means no bound on that side.
    """

    before: int | None
    after: int | None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("before", "after"):
            value = getattr(self, name)
            if value is not None and not is_count(value, 0):
                raise OptionError(f"Window {name} {shown(value)} must be an int >= 0, in keys besides the query's own, or None")

    def allowed(self, at: Grid) -> Array:
        offset = at.s - self.position(at)
        # No two positions are further apart, and JAX could not hold a larger bound.
        before, after = (None if bound is None or bound >= MOST else bound for bound in (self.before, self.after))
        if before is None:
            return offset == offset if after is None else offset <= after  # noqa: PLR0124 - all True, in shape
        return offset >= -before if after is None else (offset >= -before) & (offset <= after)

    @property
    def reach(self) -> int | None:
        return self.before

    @property
    def looks_ahead(self) -> bool:
        return self.after != 0


@dataclass(frozen=True, eq=False, repr=False)
class Chunked(Aligned):
    """A query attends to the keys of its own chunk of `size` positions, before and after it; see also `Causal() &`."""

    size: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_count(self.size, 1):
            raise OptionError(f"Chunked size {shown(self.size)} must be an int >= 1")

    def allowed(self, at: Grid) -> Array:
        size = min(self.size, MOST)
        return at.s // size == self.position(at) // size

    @property
    def reach(self) -> int | None:
        return self.size - 1
