"""Mask algebra: what every mask is, and how masks combine.

    (a & b)[t, s] = a[t, s] and b[t, s]        (a | b)[t, s] = a[t, s] or b[t, s]        (~a)[t, s] = not a[t, s]

A mask is a frozen dataclass with a predicate over (t, s). Its fields are structure (hashable, never traced) or data
(arrays, traced), and `map` and `parts` tell them apart, which is all that a framework needs to carry a mask through its
compiler. The kinds of mask stand in `masks.py`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np

from attention.spec.axes import Array, Sizes
from attention.spec.errors import MaskError

Read = Callable[[Array], "np.ndarray | None"]
"""How a room reads a mask's data on the host: None where the values are not known yet (a traced array)."""


DATA = {"data": True}
"""The metadata of a field that holds data: traced, not hashed. None in it counts as structure."""


@dataclass(frozen=True)
class Grid:
    """Where a predicate is asked: every (t, s) at once. A kernel may pass its own object with the same names."""

    t: Array  # (T, 1)
    s: Array  # (S,)
    T: int
    S: int

    def per_row(self, x: Array) -> Array:
        """Read data of axes `(*batch,)` at the grid's batch rows."""
        return x[..., None, None, None]

    def per_query(self, x: Array) -> Array:
        """Read data of axes `(*batch, T)` at the grid's queries."""
        return x[..., None, :, None]

    def per_key(self, x: Array) -> Array:
        """Read data of axes `(*batch, S)` at the grid's keys."""
        return x[..., None, None, :]

    def per_score(self, x: Array) -> Array:
        """Read data that broadcasts to `(*batch, H, T, S)`."""
        return x


class Mask:
    """A description of which keys a query may attend to. Abstract; the classes below are final."""

    @abstractmethod
    def allowed(self, at: Grid) -> Array:
        """Return a bool array that broadcasts to `(*batch, H, T, S)`; True where query t may attend to key s."""

    def check(self, sizes: Sizes, read: Read) -> None:
        """Raise MaskError if the mask does not fit a call of these sizes."""

    @property
    def holds_arrays(self) -> bool:
        """Whether data fields hold arrays, or what stands in an array's place; else they are structure."""
        return True

    @property
    def keeps_self(self) -> bool:
        """Whether, with T = S, structure alone says that every position may attend to itself."""
        return False

    def __eq__(self, other: object) -> bool:
        """Masks of structure alone are equal by what they say; one that holds an array equals only itself."""
        if self is other or type(self) is not type(other) or not isinstance(other, Mask):
            return self is other
        return self.is_static and other.is_static and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity()) if self.is_static else id(self)

    def _identity(self) -> tuple[Any, ...]:
        return type(self), self.structure(), tuple(self.leaves().values())

    def __and__(self, other: Mask) -> And:
        return And(self, _mask(other))

    def __or__(self, other: Mask) -> Or:
        return Or(self, _mask(other))

    def __invert__(self) -> Not:
        return Not(self)

    def parts(self) -> Iterator[tuple[str, Any, bool]]:
        """Yield (name, value, whether it is traced data) of each field. Masks inside count as data."""
        for f in fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            value = getattr(self, f.name)
            traced = bool(f.metadata.get("data")) and value is not None and self.holds_arrays
            yield f.name, value, traced or isinstance(value, Mask)

    def leaves(self) -> dict[str, Any]:
        """Return the fields that are traced: what a framework's tree holds as children."""
        return {name: value for name, value, traced in self.parts() if traced}

    def structure(self) -> tuple[tuple[str, Any, bool], ...]:
        """Return every field as (name, value or None, whether traced): hashable, what a tree holds beside its children."""
        return tuple((name, None if traced else value, traced) for name, value, traced in self.parts())

    @classmethod
    def rebuild(cls, structure: Iterable[tuple[str, Any, bool]], leaves: Iterable[Any]) -> Self:
        """Return the mask of a structure and its leaves, validating nothing: leaves may be tracers or placeholders."""
        new, values = object.__new__(cls), iter(leaves)
        for name, value, traced in structure:
            object.__setattr__(new, name, next(values) if traced else value)
        return new

    def map(self, convert: Callable[[Array], Array]) -> Self:
        """Return the mask with `convert` applied to every array it holds, at any depth."""
        leaves = self.leaves().values()
        converted = [value.map(convert) if isinstance(value, Mask) else convert(value) for value in leaves]
        return self.rebuild(self.structure(), converted)

    @property
    def is_static(self) -> bool:
        """Whether the mask holds no array, so that it is hashable and may be part of a contract."""
        return all(isinstance(value, Mask) and value.is_static for value in self.leaves().values())


def _mask(other: object) -> Mask:
    if not isinstance(other, Mask):
        raise MaskError(f"mask {type(other).__name__} must be a Mask: wrap a boolean array as Dense(array)")
    return other


@dataclass(frozen=True, eq=False)
class Pair(Mask):
    """Two masks under one operator. Abstract."""

    left: Mask
    right: Mask

    def __post_init__(self) -> None:
        _ = _mask(self.left), _mask(self.right)

    def check(self, sizes: Sizes, read: Read) -> None:
        self.left.check(sizes, read)
        self.right.check(sizes, read)


@dataclass(frozen=True, eq=False)
class And(Pair):
    """Allowed where both masks allow; written `left & right`."""

    def allowed(self, at: Grid) -> Array:
        return self.left.allowed(at) & self.right.allowed(at)

    @property
    def keeps_self(self) -> bool:
        return self.left.keeps_self and self.right.keeps_self


@dataclass(frozen=True, eq=False)
class Or(Pair):
    """Allowed where either mask allows; written `left | right`."""

    def allowed(self, at: Grid) -> Array:
        return self.left.allowed(at) | self.right.allowed(at)

    @property
    def keeps_self(self) -> bool:
        return self.left.keeps_self or self.right.keeps_self


@dataclass(frozen=True, eq=False)
class Not(Mask):
    """Allowed where the mask does not allow; written `~mask`."""

    mask: Mask

    def __post_init__(self) -> None:
        _ = _mask(self.mask)

    def allowed(self, at: Grid) -> Array:
        return ~self.mask.allowed(at)

    def check(self, sizes: Sizes, read: Read) -> None:
        self.mask.check(sizes, read)


def both(first: Mask | None, second: Mask | None) -> Mask | None:
    """Return `first & second`, where None allows everything."""
    return second if first is None else first if second is None else And(first, second)


def evaluate(mask: Mask | None, sizes: Sizes) -> np.ndarray | None:
    """Return `allowed` as a NumPy array that broadcasts to `(*batch, H, T, S)`, or None where all is allowed.

    Raises:
        MaskError: the mask does not fit the sizes.
    """
    if mask is None:
        return None
    mask.check(sizes, np.asarray)
    grid = Grid(np.arange(sizes.T)[:, None], np.arange(sizes.S), sizes.T, sizes.S)
    # A narrow type of lengths or ids would overflow in the predicates' sums.
    wide = mask.map(lambda x: np.asarray(x, bool if np.asarray(x).dtype == bool else np.int64))
    return wide.allowed(grid)
