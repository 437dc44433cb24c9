"""Shapes: the layouts that two shapes leave open, the conventional one first.

    (HD, M) -> (M, H, D)        second = first.reshape(axes).transpose(order).reshape(shape)
    (3 HD, M) <- q, k, v        one after another, or interleaved in each of G groups, in any order

torch stores a kernel (out, in, *window) and calls it `weight`; Flax and Keras store (*window, in, out) and call it `kernel`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from attention.parity.param_mapping.block_moves import Block, Move, Shape, simplified

MOST_AXES = 5
"""Arrays of more axes are matched as they are, or not at all."""
MOST_GROUPS = 6
"""How many numbers of groups are tried for parts that are interleaved."""
MOST_ORDERED = 3
"""Up to so many parts may be fused in any order; more (layers that are stacked) in their own alone."""


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
        first_is_coarse = _groups(self.axes, coarse) is not None
        laid = tuple(self.axes[axis] for axis in self.order)
        groups = _groups(self.axes if first_is_coarse else laid, coarse)
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
        if _groups(laid, coarse) is not None:
            inverse = tuple(int(axis) for axis in np.argsort(order))
            found.append(Layout(finer, order) if finer is one else Layout(laid, inverse))
    return found


def fusions(
    name: str,
    whole: Shape,
    parts: Mapping[str, Shape],
    best: Callable[[list[Layout], Shape, Shape], list[Layout]],
    *,
    stacked: int = 0,
    ordered: int = MOST_ORDERED,
) -> Iterator[tuple[Move, ...]]:
    """Yield the moves of parts into one array that joins them along one axis, the conventional ones first.

    Args:
        name: of the fused array.
        whole: its shape.
        parts: the shapes of the parts by name, in the order that convention has: q, k, v.
        best: puts the layouts between two shapes in order of preference.
        stacked: how many leading axes count the parts, each of which is one index of them, in this order; 0 for none.
        ordered: up to so many parts may stand in any order.
    """
    names = list(parts)
    real, whole = whole, (math.prod(whole[:stacked]), *whole[stacked:]) if stacked else whole
    for axis, size in enumerate(whole[:1] if stacked else whole):
        rest = math.prod(whole) // max(size, 1)
        widths = [math.prod(shape) // rest for shape in parts.values()]
        if sum(widths) != size or any(math.prod(shape) % rest for shape in parts.values()):
            continue
        shapes: list[Shape] = [(*whole[:axis], width, *whole[axis + 1 :]) for width in widths]
        choices = [best(layouts(part, shape), part, shape) for part, shape in zip(parts.values(), shapes, strict=True)]
        # The widest part has an axis of its own for what is joined, if any has.
        lead = widths.index(max(widths))
        for layout in choices[lead]:
            like = (layout, list(parts.values())[lead], shapes[lead])
            alike = [
                next((each for each in choice if each.order == layout.order), None) or _resized(*like, part, shape)
                for choice, part, shape in zip(choices, parts.values(), shapes, strict=True)
            ]
            if None in alike:
                continue
            ways = dict(zip(names, alike, strict=True))
            for groups in [1] if stacked else _group_counts(widths, list(parts.values())):
                orders = [names] if stacked or len(names) > ordered else permutations(names)
                for order in orders:
                    blocks = _blocks(Block.all_of(name, real), whole, axis, groups, {p: widths[names.index(p)] for p in order})
                    yield tuple(ways[part].into(part, parts[part], blocks[part]) for part in names)  # pyright: ignore[reportOptionalMemberAccess]


def _resized(layout: Layout, start: Shape, end: Shape, part: Shape, shape: Shape) -> Layout | None:
    """Return a layout between two shapes for two that differ from them in one size, or None where it does not fit them.

    An axis of size 1 is an axis like any other of a part that is joined to wider ones.

    Args:
        layout: from `start` to `end`.
        start: a part.
        end: its block of the whole.
        part: another part.
        shape: its block of the whole.
    """
    sides = ((start, part), (end, shape))
    if any(len(a) != len(b) for a, b in sides):
        return None
    cut = [[at for at, (a, b) in enumerate(zip(*side, strict=True)) if a != b] for side in sides]
    if any(len(axes) != 1 for axes in cut) or start[cut[0][0]] == 1 or start[cut[0][0]] != end[cut[1][0]]:
        return None
    laid = tuple(layout.axes[axis] for axis in layout.order)
    ends: list[int] = []
    for sizes, whole, axes in ((layout.axes, start, cut[0]), (laid, end, cut[1])):
        groups = _groups(sizes, tuple(size for size in whole if size != 1))
        group = [] if groups is None else groups[sum(size != 1 for size in whole[: axes[0]])]
        if len(group) != 1:
            return None
        ends += group
    if layout.order[ends[1]] != ends[0]:
        return None
    return Layout(tuple(part[cut[0][0]] if at == ends[0] else size for at, size in enumerate(layout.axes)), layout.order)


def _blocks(array: Block, whole: Shape, axis: int, groups: int, widths: dict[str, int]) -> dict[str, Block]:
    """Return the block of each part: one after another, in each of equal groups, along one axis of the whole."""
    split = (*whole[:axis], *((groups,) if groups > 1 else ()), whole[axis] // groups, *whole[axis + 1 :])
    at = axis + (groups > 1)
    found: dict[str, Block] = {}
    start = 0
    for part, width in widths.items():
        stop = start + width // groups
        spans = [(0, size) for size in split]
        spans[at] = (start, stop)
        found[part] = Block(array.name, array.shape, split, tuple(spans))
        start = stop
    return found


def _group_counts(widths: list[int], parts: Sequence[Shape]) -> list[int]:
    """Return how many groups the parts may be interleaved in: 1, then sizes of their axes, then other divisors."""
    most = math.gcd(*widths)
    if len(parts) > MOST_ORDERED:
        return [1]
    sizes = [size for part in parts for size in part]
    divisors = [count for count in range(2, most + 1) if most % count == 0]
    return [1, *sorted(divisors, key=lambda count: (count not in sizes, count))[: MOST_GROUPS - 1]]


def _groups(fine: Shape, coarse: Shape) -> list[list[int]] | None:
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
