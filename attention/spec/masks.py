"""Masks: which keys a query may attend to. True = may attend, everywhere.

    allowed[t, s] = s <= p(t)                                   Causal
    allowed[t, s] = p(t) - before <= s <= p(t) + after          Window(before, after)
    allowed[t, s] = s // size == p(t) // size                   Chunked(size)
    allowed[t, s] = s < length                                  Prefix(length)
    allowed[t, s] = q[t] == kv[s] >= 0                          Segments(kv, q)
    allowed[t, s] = s < kv, t < q                               Lengths(kv, q)
    p(t) = t  or  t + S - T  or  query_positions[t]             align="start", align="end", explicit

Masks compose with `&`, `|` and `~`. What is structure (an alignment, a window) is hashable and never traced; what is
data (lengths, ids, an array) is, so a mask passes through `jax.jit` and `torch.compile` as an argument. Predicates use
operators only: one text serves NumPy, torch, JAX and a kernel that asks for one element at a time.
"""

# Bad input comes from code that nobody type-checked, so it is looked at again here.
# pyright: reportUnnecessaryIsInstance=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attention.spec.algebra import DATA, And, Grid, Mask, Not, Or, Read
from attention.spec.axes import Array, Sizes, broadcasts, dtype_name
from attention.spec.errors import MaskError, OptionError

MOST = 2**31 - 1
"""The largest number that JAX counts to while its 64-bit mode is off."""


def _integers(owner: Mask, name: str, value: Any) -> None:
    """Store `value` as an integer array on a frozen `owner`, or raise MaskError."""
    label = f"{type(owner).__name__} {name}"
    if isinstance(value, (list, tuple)):
        try:
            value = np.asarray(value, None if value else np.int64)
        except ValueError:
            raise MaskError(f"{label} {value!r} must be integers in rows of one length") from None
    if not hasattr(value, "dtype"):
        raise MaskError(f"{label} {value!r} must be integers: a list or an array")
    if "int" not in dtype_name(value):
        raise MaskError(f"{label} {dtype_name(value)} must be integers")
    if isinstance(value, np.ndarray) and value.size:
        far = max(int(value.max()), -int(value.min()))
        if far > MOST:
            raise MaskError(f"{label} {far} must be below 2**31, which JAX counts to")
    object.__setattr__(owner, name, value)


def _is_count(value: Any, least: int) -> bool:
    """Return whether `value` is an int, and no bool, of at least `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _fits(owner: Mask, name: str, value: Array, wanted: tuple[int, ...], letters: str) -> None:
    if not broadcasts(tuple(value.shape), wanted):
        label = f"{type(owner).__name__} {name}"
        raise MaskError(f"{label} {tuple(value.shape)} must broadcast to {letters} = {wanted}")


@dataclass(frozen=True, eq=False)
class Aligned(Mask):
    """A mask that needs to know where a query stands among the keys: p(t) in the formulas.

    With T = S that is t. With T != S it must be said: `align="start"` (first query at the first key), `align="end"`
    (last query at the last key), or `query_positions`, integers `(*batch, T)`: key indices, not angles.
    """

    align: str | None = field(default=None, kw_only=True)
    query_positions: Array = field(default=None, kw_only=True, metadata=DATA)

    def __post_init__(self) -> None:
        if self.align not in (None, "start", "end"):
            raise OptionError(f"{self} align {self.align!r} must be None, 'start' or 'end'")
        if self.query_positions is not None:
            if self.align is not None:
                raise OptionError(f"{type(self).__name__} must have align or query_positions, not both")
            _integers(self, "query_positions", self.query_positions)

    def position(self, at: Grid) -> Array:
        """Return p(t), broadcastable to `(*batch, 1, T, 1)`."""
        if self.query_positions is not None:
            return at.per_query(self.query_positions)
        return at.t + (at.S - at.T) if self.align == "end" else at.t

    def check(self, sizes: Sizes, read: Read) -> None:
        if self.query_positions is not None:
            _fits(self, "query_positions", self.query_positions, (*sizes.batch, sizes.T), "(*batch, T)")
        elif self.align is None and sizes.T != sizes.S:
            raise MaskError(
                f"{type(self).__name__} with T = {sizes.T} queries and S = {sizes.S} keys must say where a query stands:"
                " align='start', align='end' or query_positions"
            )

    @property
    def keeps_self(self) -> bool:
        return self.query_positions is None


@dataclass(frozen=True, eq=False)
class Causal(Aligned):
    """A query attends to its own position and to those before it.

    >>> import numpy as np
    >>> Causal(align="end").allowed(Grid(np.arange(2)[:, None], np.arange(3), 2, 3)).astype(int).tolist()
    [[1, 1, 0], [1, 1, 1]]
    """

    def allowed(self, at: Grid) -> Array:
        return at.s <= self.position(at)


@dataclass(frozen=True, eq=False)
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
            if value is not None and not _is_count(value, 0):
                raise OptionError(f"Window {name} {value!r} must be an int >= 0, in keys besides the query's own, or None")

    def allowed(self, at: Grid) -> Array:
        offset = at.s - self.position(at)
        # No two positions are further apart, and JAX could not hold a larger bound.
        before, after = (None if bound is None or bound >= MOST else bound for bound in (self.before, self.after))
        if before is None:
            return offset == offset if after is None else offset <= after  # noqa: PLR0124 - all True, in shape
        return offset >= -before if after is None else (offset >= -before) & (offset <= after)


@dataclass(frozen=True, eq=False)
class Chunked(Aligned):
    """A query attends to the keys of its own chunk of `size` positions, before and after it; see also `Causal() &`."""

    size: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _is_count(self.size, 1):
            raise OptionError(f"Chunked size {self.size!r} must be an int >= 1")

    def allowed(self, at: Grid) -> Array:
        size = min(self.size, MOST)
        return at.s // size == self.position(at) // size


@dataclass(frozen=True, eq=False)
class Prefix(Mask):
    """Every query attends to the first `length` keys; `Causal() | Prefix(n)` is a prefix language model.

    `length` is an int, or integers `(*batch,)`.
    """

    length: Any = field(metadata=DATA)
    by_row: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_row", not isinstance(self.length, int))
        if self.by_row:
            _integers(self, "length", self.length)
        elif not _is_count(self.length, 0):
            raise OptionError(f"Prefix length {self.length!r} must be an int >= 0 or integers (*batch,)")

    @property
    def holds_arrays(self) -> bool:
        return self.by_row

    def allowed(self, at: Grid) -> Array:
        return at.s < (at.per_row(self.length) if self.by_row else self.length)

    def check(self, sizes: Sizes, read: Read) -> None:
        if self.by_row:
            _fits(self, "length", self.length, sizes.batch, "(*batch,)")
            _within(self, "length", read(self.length), sizes.S, "S")
        elif self.length > sizes.S:
            raise MaskError(f"Prefix length {self.length} must be in 0..S = {sizes.S}")


def _within(owner: Mask, name: str, values: np.ndarray | None, most: int, letter: str) -> None:
    """Raise MaskError if known lengths leave 0..most. Traced ones cannot be looked at and are taken as they are."""
    if values is not None and bool(np.any((values < 0) | (values > most))):
        raise MaskError(f"{type(owner).__name__} {name} {values.tolist()} must be in 0..{letter} = {most}")


@dataclass(frozen=True, eq=False)
class Segments(Mask):
    """A query attends to the keys that bear its own id: packed documents. A negative id is padding and meets nothing.

    Args:
        kv: integers `(*batch, S)`, the id of each key.
        q: integers `(*batch, T)`, the id of each query; None takes the keys' ids, which needs T = S.
    """

    kv: Array = field(metadata=DATA)
    q: Array = field(default=None, metadata=DATA)

    def __post_init__(self) -> None:
        _integers(self, "kv", self.kv)
        if self.q is not None:
            _integers(self, "q", self.q)

    def allowed(self, at: Grid) -> Array:
        kv = at.per_key(self.kv)
        return (kv == at.per_query(self.kv if self.q is None else self.q)) & (kv >= 0)

    def check(self, sizes: Sizes, read: Read) -> None:
        _fits(self, "kv", self.kv, (*sizes.batch, sizes.S), "(*batch, S)")
        if self.q is not None:
            _fits(self, "q", self.q, (*sizes.batch, sizes.T), "(*batch, T)")
        elif sizes.T != sizes.S:
            raise MaskError(f"Segments with T = {sizes.T} and S = {sizes.S} must be given q, the ids of the queries")


@dataclass(frozen=True, eq=False)
class Lengths(Mask):
    """Padding: only the first (or last) `kv` keys of a batch row exist, and only the first (or last) `q` queries.

    Args:
        kv: integers `(*batch,)`, keys that exist in each row.
        q: integers `(*batch,)`, queries that exist; the others are empty rows, whose output is 0. None: all exist.
        padding: the side that is padded, "right" or "left".
    """

    kv: Array = field(metadata=DATA)
    q: Array = field(default=None, metadata=DATA)
    padding: str = field(default="right", kw_only=True)

    def __post_init__(self) -> None:
        _integers(self, "kv", self.kv)
        if self.q is not None:
            _integers(self, "q", self.q)
        if self.padding not in ("right", "left"):
            raise OptionError(f"Lengths padding {self.padding!r} must be 'right' or 'left'")

    def allowed(self, at: Grid) -> Array:
        left = self.padding == "left"
        kv = at.per_row(self.kv)
        keys = at.s >= at.S - kv if left else at.s < kv
        if self.q is None:
            return keys
        q = at.per_row(self.q)
        return keys & (at.t >= at.T - q if left else at.t < q)

    def check(self, sizes: Sizes, read: Read) -> None:
        for name, value, most, letter in (("kv", self.kv, sizes.S, "S"), ("q", self.q, sizes.T, "T")):
            if value is not None:
                _fits(self, name, value, sizes.batch, "(*batch,)")
                _within(self, name, read(value), most, letter)


@dataclass(frozen=True, eq=False)
class Dense(Mask):
    """The mask as an array: bool, broadcastable to `(*batch, H, T, S)`; True = may attend."""

    array: Array = field(metadata=DATA)

    def __post_init__(self) -> None:
        if isinstance(self.array, (list, tuple)):
            object.__setattr__(self, "array", np.asarray(self.array))
        got = dtype_name(self.array) if hasattr(self.array, "dtype") else type(self.array).__name__
        if got != "bool":
            raise MaskError(f"Dense array {got} must be bool, True = may attend")

    def allowed(self, at: Grid) -> Array:
        return at.per_score(self.array)

    def check(self, sizes: Sizes, read: Read) -> None:
        _fits(self, "array", self.array, sizes.scores, "(*batch, H, T, S)")


KINDS = (Causal, Window, Chunked, Prefix, Segments, Lengths, Dense, And, Or, Not)
"""Every concrete mask, for rooms that must register them with their framework."""
