"""Block moves: copy a block of one array to a block of another by reshape, slice, flip and transpose alone.

    second.reshape(split')[spans'] = first.reshape(split)[spans].reshape(axes)[flips].transpose(order).reshape(...)

Nothing is computed, so a move is exact to the bit, for values and for gradients alike, and can be taken back.
"""

# JSON may hold anything.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from attention.spec.errors import ParamError
from attention.spec.numbers import is_count
from attention.spec.storage.disk import brief

Shape = tuple[int, ...]
Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Block:
    """A box of a stored array whose axes may be split.

    >>> str(Block("in_proj_weight", (24, 8), (24, 8), ((8, 16), (0, 8))))
    'in_proj_weight (24, 8) rows 8:16'

    Args:
        name: of the stored array.
        shape: of the stored array.
        split: the shape that it is read in.
        spans: start and stop for each axis of `split`.

    Raises:
        ParamError: `split` does not hold as many numbers as `shape`, or a span leaves its axis.
    """

    name: str
    shape: Shape
    split: Shape
    spans: Spans

    def __post_init__(self) -> None:
        inside = len(self.spans) == len(self.split) and all(
            0 <= start < stop <= size for (start, stop), size in zip(self.spans, self.split, strict=True)
        )
        if math.prod(self.split) != math.prod(self.shape) or not inside:
            box = f"block {brief(self.split, 80)}, spans {brief(self.spans, 80)}"
            raise ParamError(f"{box}, must be a box of {brief(self.name, 60)} {brief(self.shape, 80)}")

    @classmethod
    def all_of(cls, name: str, shape: Shape) -> Block:
        """Return the block that is the whole array."""
        return cls(name, shape, shape, tuple((0, size) for size in shape))

    @property
    def sizes(self) -> Shape:
        """The shape of the box."""
        return tuple(stop - start for start, stop in self.spans)

    @property
    def whole(self) -> bool:
        """Whether the box is the whole array."""
        return self.sizes == self.split

    def of(self, array: np.ndarray) -> np.ndarray:
        """Return the box of `array`: a view of it where it is contiguous."""
        # Without the dots the box of a single number were no view of it.
        return array.reshape(self.split)[(*(slice(*span) for span in self.spans), ...)]

    @property
    def where(self) -> str:
        """Which part it is, in words: "" for the whole, "rows 0:8", "[:, 0:1] of (2, 3, 8)"."""
        if self.whole:
            return ""
        cut = [axis for axis, size in enumerate(self.sizes) if size != self.split[axis]]
        if self.split == self.shape and len(cut) == 1 and len(self.shape) <= 2:
            start, stop = self.spans[cut[0]]
            return f"{('rows', 'columns')[cut[0]]} {start}:{stop}"
        spans = (":" if axis not in cut else f"{start}:{stop}" for axis, (start, stop) in enumerate(self.spans))
        box = f"[{', '.join(spans)}]"
        return box if self.split == self.shape else f"{box} of {self.split}"

    def __str__(self) -> str:
        return f"{self.name} {self.shape} {self.where}".rstrip()


def simplified(axes: Shape, order: tuple[int, ...]) -> tuple[Shape, tuple[int, ...]]:
    """Return a transpose without axes of size 1, and with axes that stay neighbours joined.

    >>> simplified((10, 2, 5), (1, 2, 0))
    ((10, 10), (1, 0))
    """
    kept = [axis for axis in order if axes[axis] != 1]
    groups: list[list[int]] = []
    between = [axis for axis in range(len(axes)) if axes[axis] != 1]
    for axis in kept:
        if groups and between.index(groups[-1][-1]) + 1 == between.index(axis):
            groups[-1].append(axis)
        else:
            groups.append([axis])
    ranked = sorted(groups)
    sizes = tuple(math.prod(axes[axis] for axis in group) for group in ranked)
    return sizes, tuple(ranked.index(group) for group in groups)


@dataclass(frozen=True)
class Move:
    """One block of the first program's arrays and the block of the second's that holds the same numbers.

    Args:
        first: the block of the first.
        second: the block of the second.
        axes: what the first block is reshaped to.
        order: how it is then transposed, as `np.transpose` takes it; a last reshape gives the second block.
        evidence: why it is believed: "values", "names", "outputs agree" ...
        flips: which of `axes` are reversed.

    Raises:
        ParamError: the blocks hold different numbers of elements, `order` is no permutation of the axes, or `flips` are none.
    """

    first: Block
    second: Block
    axes: Shape
    order: tuple[int, ...]
    evidence: str = ""
    flips: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        sizes = {math.prod(self.first.sizes), math.prod(self.second.sizes), math.prod(self.axes)}
        if len(sizes) != 1 or sorted(self.order) != list(range(len(self.axes))):
            made = f"as {brief(self.axes, 80)} in order {brief(self.order, 80)}"
            raise ParamError(f"{brief(self.first, 100)}, {made}, must be as large as {brief(self.second, 100)}")
        if len({*self.flips}) != len(self.flips) or not {*self.flips} <= {*range(len(self.axes))}:
            raise ParamError(f"flips {brief(self.flips, 80)} must be axes of {brief(self.axes, 80)}")

    def forward(self, block: np.ndarray) -> np.ndarray:
        """Return the second's block of the first's."""
        return np.flip(block.reshape(self.axes), self.flips).transpose(self.order).reshape(self.second.sizes)

    def backward(self, block: np.ndarray) -> np.ndarray:
        """Return the first's block of the second's: the inverse of `forward`."""
        return self.inverse.forward(block)

    @property
    def laid(self) -> Shape:
        """The axes in the second's order."""
        return tuple(self.axes[axis] for axis in self.order)

    @property
    def inverse(self) -> Move:
        """The same move from the second's side."""
        order = tuple(int(axis) for axis in np.argsort(self.order))
        flips = tuple(sorted(self.order.index(axis) for axis in self.flips))
        return Move(self.second, self.first, self.laid, order, self.evidence, flips)

    def between(self, first: str, second: str) -> Move:
        """Return the same move between arrays of other names and equal shapes."""
        return replace(self, first=replace(self.first, name=first), second=replace(self.second, name=second))

    @property
    def words(self) -> str:
        """What is done, for a reader: `rows 0:8, transposed, split (2, 4)`."""
        said = [self.first.where, "window reversed" if self.flips else "", self._turned(), self._cut()]
        if not self.second.whole:
            said.append(f"into {self.second.where}")
        return ", ".join(word for word in said if word) or "as it is"

    def _turned(self) -> str:
        if self.order == tuple(range(len(self.order))):
            return ""
        if self.order == (1, 0):
            return "transposed"
        return f"as {self.axes} in order {self.order}"

    def _cut(self) -> str:
        """Return which axis the last reshape splits, or what it makes where that is not one axis."""
        if self.order == tuple(range(len(self.order))) and self.first.sizes == self.second.sizes:
            return ""
        laid = self.first.sizes if self.order == tuple(range(len(self.order))) else self.laid
        made = self.second.sizes
        if _thin(laid) == _thin(made):
            return ""
        kept, more = _common(laid, made), len(made) - len(laid)
        if more > 0 and kept is not None:
            return f"split {made[kept : kept + more + 1]}"
        return f"reshaped {made}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON's own types."""
        blocks = {
            side: {"name": block.name, "shape": block.shape, "split": block.split, "spans": block.spans}
            for side, block in (("first", self.first), ("second", self.second))
        }
        return {**blocks, "axes": self.axes, "order": self.order, "flips": self.flips, "evidence": self.evidence}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Move:
        """Return the move that `to_dict` wrote.

        Raises:
            ParamError: it describes no move.
            KeyError, TypeError, ValueError: a field is missing or has another type.
        """
        first, second = (
            Block(
                _text(block["name"]),
                _sizes(block["shape"]),
                _sizes(block["split"]),
                tuple((start, stop) for start, stop in map(_integers, block["spans"])),
            )
            for block in (data["first"], data["second"])
        )
        axes, order, flips = _sizes(data["axes"]), _integers(data["order"]), _integers(data.get("flips", []))
        return cls(first, second, axes, order, _text(data["evidence"]), flips)


MOST_AXES = 32


def _integers(numbers: Any) -> tuple[int, ...]:
    """Return a list of a file: few enough ints for the axes of an array."""
    if not isinstance(numbers, list) or len(numbers) > MOST_AXES or not all(is_count(n, 0) for n in numbers):
        raise TypeError(f"{brief(repr(numbers), 60)} must be at most {MOST_AXES} ints >= 0")
    return tuple(cast("list[int]", numbers))


def _sizes(numbers: Any) -> Shape:
    """Return a shape of a file, of less than 2**62 elements."""
    found = _integers(numbers)
    # NumPy multiplies the other axes even where one of them is 0.
    if math.prod(size or 1 for size in found) >= 2**62:
        raise TypeError(f"sizes {brief(found, 60)} must be less than 2**62 together")
    return found


def _text(text: Any) -> str:
    if not isinstance(text, str):
        raise TypeError(f"{brief(repr(text), 60)} must be a text")
    return text


def _thin(shape: Shape) -> Shape:
    return tuple(size for size in shape if size != 1)


def _common(laid: Shape, made: Shape) -> int | None:
    """Return the one axis of `laid` that `made` has split, or None."""
    more = len(made) - len(laid)
    for axis in range(len(laid)):
        if laid[:axis] == made[:axis] and laid[axis + 1 :] == made[axis + more + 1 :]:
            return axis
    return None
