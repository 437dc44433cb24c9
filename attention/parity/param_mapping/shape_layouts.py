"""Shape layouts: the layouts that two shapes allow, the conventional one first.

    (HD, M) -> (M, H, D)        second = first.reshape(axes).transpose(order).reshape(shape)

torch stores a kernel (out, in, *window) and calls it `weight`; Flax and Keras store (*window, in, out) and call it `kernel`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from attention.parity.param_mapping.block_moves import Block, Move, Shape, simplified

MOST_AXES = 5
"""Arrays of more axes are matched as they are, or not at all."""


@dataclass(frozen=True)
class Layout:
    """A reshape, a transpose, and a reshape to the other's shape."""

    axes: Shape
    order: tuple[int, ...]

    def of(self, array: np.ndarray, shape: Shape) -> np.ndarray:
        """Return the array in the other's layout."""
        return array.reshape(self.axes).transpose(self.order).reshape(shape)

    def move(self, first: str, start: Shape, second: str, end: Shape) -> Move:
        """Return the move of a whole array to another, in this layout."""
        return self.into(first, start, Block.all_of(second, end))

    def into(self, first: str, start: Shape, block: Block) -> Move:
        """Return the move of a whole array into a block of another, in this layout."""
        return Move(Block.all_of(first, start), block, *simplified(self.axes, self.order))

    @property
    def inverse(self) -> Layout:
        """The layout that leads back."""
        return Layout(tuple(self.axes[axis] for axis in self.order), tuple(int(axis) for axis in np.argsort(self.order)))

    @property
    def plain(self) -> bool:
        """Whether it transposes nothing."""
        return self.order == tuple(range(len(self.order)))

    def turns(self, coarse: Shape, *, to_kernel: bool) -> bool:
        """Return whether it leads from torch's order of axes to Flax's, or back where not `to_kernel`.

        Args:
            coarse: the shape of the two that has fewer axes, without axes of size 1.
            to_kernel: whether the first is torch's.
        """
        first_is_coarse = axis_groups(self.axes, coarse) is not None
        laid = tuple(self.axes[axis] for axis in self.order)
        groups = axis_groups(self.axes if first_is_coarse else laid, coarse)
        if groups is None or len(groups) < 2:
            return False
        # From the coarse side: whose axes come in which order on the fine one.
        order = self.order if first_is_coarse else tuple(int(axis) for axis in np.argsort(self.order))
        out, inner, *window = groups if to_kernel == first_is_coarse else (groups[-1], groups[-2], *groups[:-2])
        wanted = [*window, inner, out] if to_kernel == first_is_coarse else [out, inner, *window]
        return order == tuple(axis for group in wanted for axis in group)


def layouts(first: Shape, second: Shape) -> list[Layout]:
    """Return the layouts that lead from one shape to the other, the plain one first.

    Every axis of the shape with fewer axes is a product of neighbouring axes of the other, after a transpose.

    >>> [(each.axes, each.order) for each in layouts((6, 5), (5, 2, 3))]
    [((2, 3, 5), (2, 0, 1)), ((3, 2, 5), (2, 1, 0))]
    """
    one, other = (tuple(size for size in shape if size != 1) for shape in (first, second))
    if math.prod(one) != math.prod(other):
        return []
    if one == other and len(one) < 2:
        return [Layout(one, tuple(range(len(one))))]
    if max(len(one), len(other)) > MOST_AXES:
        return [Layout(one, tuple(range(len(one))))] if one == other else []
    finer, coarse = (one, other) if len(one) >= len(other) else (other, one)
    found: list[Layout] = []
    for order in permutations(range(len(finer))):
        laid = tuple(finer[axis] for axis in order)
        if axis_groups(laid, coarse) is not None:
            inverse = tuple(int(axis) for axis in np.argsort(order))
            found.append(Layout(finer, order) if finer is one else Layout(laid, inverse))
    return found


def axis_groups(fine: Shape, coarse: Shape) -> list[list[int]] | None:
    """Return which neighbouring axes of `fine` make up each axis of `coarse`, or None where they do not."""
    groups: list[list[int]] = []
    at = 0
    for size in coarse:
        group: list[int] = []
        while math.prod(fine[axis] for axis in group) < size and at < len(fine):
            group.append(at)
            at += 1
        if math.prod(fine[axis] for axis in group) != size:
            return None
        groups.append(group)
    return groups if at == len(fine) else None
