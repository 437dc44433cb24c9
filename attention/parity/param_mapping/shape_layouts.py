"""Shapes: the layouts that two shapes leave open, the conventional one first.

    (HD, M) -> (M, H, D)        second = first.reshape(axes).transpose(order).reshape(shape)
    (3 HD, M) <- q, k, v        one after another, or interleaved in each of G groups, in any order

torch stores a kernel (out, in, *window) and calls it `weight`; Flax and Keras store (*window, in, out) and call it `kernel`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from attention.parity.param_mapping.block_moves import Shape

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
    whole: Shape, parts: Sequence[np.ndarray], best: Callable[[list[Layout], Shape, Shape], list[Layout]]
) -> Iterator[np.ndarray]:
    """Yield every array of shape `whole` that joins the parts along one axis, the conventional ones first.

    Args:
        whole: the shape of the fused array.
        parts: arrays, such as labels of their elements, in the order that convention has: q, k, v.
        best: puts the layouts between two shapes in order of preference.
    """
    for axis, size in enumerate(whole):
        rest = math.prod(whole) // size
        widths = [part.size // rest for part in parts]
        if sum(widths) != size or any(part.size % rest for part in parts):
            continue
        shapes: list[Shape] = [(*whole[:axis], width, *whole[axis + 1 :]) for width in widths]
        choices = [best(layouts(part.shape, shape), part.shape, shape) for part, shape in zip(parts, shapes, strict=True)]
        for layout in choices[0]:
            alike = [next((each for each in choice if each.order == layout.order), None) for choice in choices]
            turned = [each.of(part, shape) for each, part, shape in zip(alike, parts, shapes, strict=True) if each is not None]
            if len(turned) == len(parts):
                yield from _interleaved(turned, axis, _group_counts(widths, parts))


def _interleaved(parts: list[np.ndarray], axis: int, counts: list[int]) -> Iterator[np.ndarray]:
    """Yield the parts joined along an axis, one after another and then within each of several groups, in every order."""
    orders = list(permutations(parts)) if len(parts) <= MOST_ORDERED else [tuple(parts)]
    for groups in counts:
        for order in orders:
            split = [part.reshape(*part.shape[:axis], groups, -1, *part.shape[axis + 1 :]) for part in order]
            joined = np.concatenate(split, axis=axis + 1)
            yield joined.reshape(*parts[0].shape[:axis], -1, *parts[0].shape[axis + 1 :])


def _group_counts(widths: list[int], parts: Sequence[np.ndarray]) -> list[int]:
    """Return how many groups the parts may be interleaved in: 1, then sizes of their axes, then other divisors."""
    most = math.gcd(*widths)
    if len(parts) > MOST_ORDERED:
        return [1]
    sizes = [size for part in parts for size in part.shape]
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
