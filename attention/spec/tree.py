"""Trees: base class of dataclasses with static structure and traced leaves, for use as pytrees.

rebuild(structure(x), leaves(x)) = x        structure is hashed and never traced, leaves are traced and never hashed
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from typing import Any, Self

import numpy as np

from attention.spec.axes import Array, dtype_name

DATA = {"data": True}
"""The metadata of a field that holds data: traced, not hashed. None in it counts as structure."""

SHOWN = 16
"""The most numbers of an array that a description repeats."""


def data(*axes: str, counts: str = "") -> dict[str, Any]:
    """Return the metadata of a field that holds an array, in axis letters.

    Args:
        axes: the array's axes after its batch axes.
        counts: the axis whose elements the array's values count, from 0 to all; "" where they count nothing.
    """
    return {**DATA, "axes": axes, "counts": counts}


class Tree:
    """A frozen dataclass whose fields are structure, data, trees, or tuples of trees. Abstract."""

    @property
    def holds_arrays(self) -> bool:
        """Whether data fields hold arrays or stand-ins for arrays; otherwise they are structure."""
        return True

    def __repr__(self) -> str:
        """One line, whatever the arrays: errors quote it."""
        shown = (f"{f.name}={_shown(getattr(self, f.name))}" for f in fields(self) if f.repr)  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __eq__(self, other: object) -> bool:
        """Compare structure by value; a tree that holds an array equals only itself."""
        if self is other or type(self) is not type(other) or not isinstance(other, Tree):
            return self is other
        return self.is_static and other.is_static and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity()) if self.is_static else id(self)

    def _identity(self) -> tuple[Any, ...]:
        return type(self), self.structure(), tuple(self.leaves().values())

    def parts(self) -> Iterator[tuple[str, Any, bool]]:
        """Yield (name, value, whether it is traced data) of each field. Trees inside count as data."""
        for f in fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            value = getattr(self, f.name)
            traced = bool(f.metadata.get("data")) and value is not None and self.holds_arrays
            yield f.name, value, traced or isinstance(value, Tree)

    def arrays(self) -> Iterator[tuple[str, Array, tuple[str, ...], str]]:
        """Yield (name, value, axes, counts) of each field that holds an array; see `data`."""
        for f in fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if "axes" in f.metadata and value is not None and self.holds_arrays:
                yield f.name, value, f.metadata["axes"], f.metadata["counts"]

    @property
    def inside(self) -> tuple[Any, ...]:
        """The trees directly inside this one, in order."""
        values = self.leaves().values()
        flat = (part for value in values for part in _parts(value))
        return tuple(part for part in flat if isinstance(part, Tree))

    def leaves(self) -> dict[str, Any]:
        """Return the traced fields: the children of a framework's pytree."""
        return {name: value for name, value, traced in self.parts() if traced}

    def structure(self) -> tuple[tuple[str, Any, bool], ...]:
        """Return every field as (name, value or None, whether traced): hashable, the static part of a pytree."""
        return tuple((name, None if traced else value, traced) for name, value, traced in self.parts())

    @classmethod
    def rebuild(cls, structure: Iterable[tuple[str, Any, bool]], leaves: Iterable[Any]) -> Self:
        """Return the tree of a structure and its leaves, validating nothing: leaves may be tracers or placeholders."""
        new, values = object.__new__(cls), iter(leaves)
        for name, value, traced in structure:
            object.__setattr__(new, name, next(values) if traced else value)
        return new

    def map(self, convert: Callable[[Array], Array]) -> Self:
        """Return the tree with `convert` applied to every array it holds, at any depth."""

        def turn(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(turn(part) for part in _parts(value))
            return value.map(convert) if isinstance(value, Tree) else convert(value)

        return self.rebuild(self.structure(), [turn(value) for value in self.leaves().values()])

    @property
    def is_static(self) -> bool:
        """Whether the tree holds no array, so that it is hashable and may be part of a contract."""
        return not any(True for _ in self.arrays()) and all(part.is_static for part in self.inside)


def _parts(value: Any) -> tuple[Any, ...]:
    """Return a tuple as it is, and anything else as a tuple of itself."""
    return value if isinstance(value, tuple) else (value,)  # pyright: ignore[reportUnknownVariableType]


def _shown(value: Any) -> str:
    """Return an array by its numbers if they are few and known, else by its type and shape; all else as it is."""
    if not hasattr(value, "shape"):
        return repr(value)
    known = type(value) is np.ndarray and value.size <= SHOWN
    return repr(value.tolist()) if known else f"{dtype_name(value)}{list(value.shape)}"
