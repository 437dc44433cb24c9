"""The base class of masks, and their combination by `&`, `|` and `~`.

    (a & b)[t, s] = a[t, s] and b[t, s]        (a | b)[t, s] = a[t, s] or b[t, s]        (~a)[t, s] = not a[t, s]

A mask is a frozen dataclass with a predicate over (t, s). Its fields are structure (hashable, never traced) or data
(arrays, traced), and `map` and `parts` tell them apart, which is all that a framework needs to carry a mask through its
compiler. The kinds of mask are in the other files of this package.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from attention.spec.axes import Array, Sizes
from attention.spec.errors import MaskError
from attention.spec.masks.drawing import FINEST, MOST, figure, picture, view
from attention.spec.masks.fields import check_counts, check_fits
from attention.spec.masks.grid import Grid
from attention.spec.options import Option, checked, whole
from attention.spec.tree import DATA, Tree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["DATA", "And", "Grid", "Mask", "Not", "Or", "Pair", "Read", "both", "check_mask", "evaluate", "farthest"]

Read = Callable[[Array], "np.ndarray | None"]
"""A backend's function that reads a mask's data on the host: None for unknown values (a traced array)."""

COUNT = whole(0, none=True).raising(MaskError)
INDEX = whole(0).raising(MaskError)


class Mask(Tree):
    """A description of which keys a query may attend to. Abstract; the kinds of mask are final.

    `print(mask)` draws a small one; `repr(mask)` is one line.
    """

    @abstractmethod
    def allowed(self, at: Grid) -> Array:
        """Return a bool array that broadcasts to `(*batch, H, T, S)`; True where query t may attend to key s."""

    def check(self, sizes: Sizes, read: Read) -> None:
        """Raise MaskError if the mask does not fit a call of these sizes."""
        for part in self.inside:
            part.check(sizes, read)
        self.check_arrays(sizes, read)

    def check_arrays(self, sizes: Sizes, read: Read) -> None:
        """Raise MaskError if an array of this mask, itself, does not fit a call of these sizes."""
        for name, value, axes, counts in self.arrays():
            label = f"{type(self).__name__} {name}"
            check_fits(label, value, axes, sizes)
            if counts:
                check_counts(label, read(value), counts, sizes)

    @property
    def keeps_self(self) -> bool:
        """Whether by structure alone, with T = S, every position may attend to itself."""
        return False

    @property
    def reach(self) -> int | None:
        """The most keys before its own position that structure lets any query see; None: no bound."""
        return None

    @property
    def looks_ahead(self) -> bool:
        """Whether structure lets a query see keys after its own position."""
        return True

    @property
    def confines_nan(self) -> bool:
        """Whether NaN in a token must reach only the queries that may attend to it, as among packed documents."""
        return any(part.confines_nan for part in self.inside)

    @property
    def several(self) -> tuple[tuple[str, Any], ...]:
        """The axes, as (letter or "batch", size), along which the mask holds one mask each."""
        return ()

    def __and__(self, other: Mask) -> And:
        return And(self, check_mask(other))

    def __or__(self, other: Mask) -> Or:
        return Or(self, check_mask(other))

    def __invert__(self) -> Not:
        return Not(self)

    def __str__(self) -> str:
        """Return a picture, or the description alone where the mask's sizes or values are not known."""
        try:
            return self.draw()
        # A print inside a traced program must not end it: frameworks raise either error for unknown values.
        except (MaskError, TypeError, RuntimeError):
            return repr(self)

    @checked(T=COUNT, S=COUNT, row=INDEX, head=INDEX)
    def draw(self, T: int | None = None, S: int | None = None, *, row: int = 0, head: int = 0) -> str:
        """Return a picture of text, at most 16 by 16.

        Args:
            T: queries; None takes the size of the mask's arrays, or 8.
            S: keys, likewise.
            row: batch row, counted through all batch axes.
            head: query head.

        Raises:
            MaskError: the mask does not fit T and S, or has no such row or head.
        """
        return picture(repr(self), *view(self, T, S, row, head, MOST))

    @checked(T=COUNT, S=COUNT, row=INDEX, head=INDEX)
    def plot(self, T: int | None = None, S: int | None = None, *, row: int = 0, head: int = 0) -> Figure:
        """Return a matplotlib figure; arguments as in `draw`.

        Raises:
            MaskError: the mask does not fit T and S, or has no such row or head.
            MissingExtra: matplotlib is not installed.
        """
        return figure(repr(self), *view(self, T, S, row, head, FINEST))


def check_mask(mask: object) -> Mask:
    """Return `mask`, or raise MaskError if it is none."""
    if not isinstance(mask, Mask):
        raise MaskError(f"mask {type(mask).__name__} must be a Mask: wrap a boolean array as DenseMask(array)")
    return mask


MASK = Option("a Mask, or None", lambda value: value is None or isinstance(value, Mask), MaskError)
"""A mask as a call has it."""
STRUCTURE = Option(
    "structure without arrays: pass lengths and arrays with the call",
    lambda value: value is None or (isinstance(value, Mask) and value.is_static),
    MaskError,
)
"""A mask as a contract has one."""


def farthest(*masks: Mask) -> int | None:
    """Return the largest reach of any of the masks, None where one has no bound."""
    known = [mask.reach for mask in masks if mask.reach is not None]
    return max(known) if len(known) == len(masks) else None


@dataclass(frozen=True, eq=False, repr=False)
class Pair(Mask):
    """Two masks under one operator. Abstract."""

    left: Mask
    right: Mask

    def __post_init__(self) -> None:
        _ = check_mask(self.left), check_mask(self.right)


@dataclass(frozen=True, eq=False, repr=False)
class And(Pair):
    """Allowed where both masks allow; written `left & right`."""

    def allowed(self, at: Grid) -> Array:
        return self.left.allowed(at) & self.right.allowed(at)

    @property
    def keeps_self(self) -> bool:
        return self.left.keeps_self and self.right.keeps_self

    @property
    def reach(self) -> int | None:
        return min((mask.reach for mask in (self.left, self.right) if mask.reach is not None), default=None)

    @property
    def looks_ahead(self) -> bool:
        return self.left.looks_ahead and self.right.looks_ahead


@dataclass(frozen=True, eq=False, repr=False)
class Or(Pair):
    """Allowed where either mask allows; written `left | right`."""

    def allowed(self, at: Grid) -> Array:
        return self.left.allowed(at) | self.right.allowed(at)

    @property
    def keeps_self(self) -> bool:
        return self.left.keeps_self or self.right.keeps_self

    @property
    def reach(self) -> int | None:
        return farthest(self.left, self.right)

    @property
    def looks_ahead(self) -> bool:
        return self.left.looks_ahead or self.right.looks_ahead


@dataclass(frozen=True, eq=False, repr=False)
class Not(Mask):
    """Allowed where the mask does not allow; written `~mask`."""

    mask: Mask

    def __post_init__(self) -> None:
        _ = check_mask(self.mask)

    def allowed(self, at: Grid) -> Array:
        return ~self.mask.allowed(at)


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
