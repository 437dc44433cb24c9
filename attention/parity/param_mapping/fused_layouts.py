"""Layouts of fused parameters such as q, k and v in one array, conventional layout first.

(3 HD, M) <- q, k, v        one after another, or interleaved in each of G groups, in any order
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, permutations

from attention.parity.param_mapping.block_moves import Block, Move, Shape
from attention.parity.param_mapping.shape_layouts import Layout, axis_groups, layouts

MOST_GROUPS = 6
"""How many numbers of groups are tried for parts that are interleaved."""
MOST_ORDERED = 3
"""Up to so many parts may be fused in any order; more (layers that are stacked) in their own alone."""


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
    real, whole = whole, (math.prod(whole[:stacked]), *whole[stacked:]) if stacked else whole
    # What joins the parts as they are is likelier than what splits an axis or joins two.
    ways = sorted(_ways(whole[:1] if stacked else whole, whole, parts, best), key=lambda way: not way.plain)
    names = list(parts)
    rest: list[Iterator[tuple[Move, ...]]] = []
    for way in ways:
        counts = [1] if stacked else _group_counts(way.widths, list(parts.values()))
        orders = [names] if stacked or len(names) > ordered else list(permutations(names))
        rest.append(_joined(Block.all_of(name, real), whole, parts, way, [(g, order) for g in counts for order in orders]))
    # Every layout in the likeliest order comes before the other orders of all but the first.
    yield from rest[0] if rest else ()
    yield from (moves for each in rest[1:] for moves in islice(each, 1))
    yield from (moves for each in rest[1:] for moves in each)


@dataclass(frozen=True)
class _Way:
    """How parts lie along one axis of a whole: how wide each is, its layout, and whether that keeps every axis as it is."""

    axis: int
    widths: list[int]
    layouts: list[Layout]
    plain: bool


def _ways(
    axes: Shape,
    whole: Shape,
    parts: Mapping[str, Shape],
    best: Callable[[list[Layout], Shape, Shape], list[Layout]],
) -> Iterator[_Way]:
    """Yield the ways to join parts along one of the whole's first `axes`, the same way for all parts."""
    each = list(parts.values())
    for axis, size in enumerate(axes):
        rest = math.prod(whole) // max(size, 1)
        widths = [math.prod(shape) // rest for shape in each]
        if sum(widths) != size or any(math.prod(shape) % rest for shape in each):
            continue
        shapes: list[Shape] = [(*whole[:axis], width, *whole[axis + 1 :]) for width in widths]
        choices = [best(layouts(part, shape), part, shape) for part, shape in zip(each, shapes, strict=True)]
        # The widest part has an axis of its own for what is joined, if any has.
        lead = widths.index(max(widths))
        thin = [tuple(size for size in shape if size != 1) for shape in (each[lead], shapes[lead])]
        for layout in choices[lead]:
            alike = [
                next((other for other in choice if other.order == layout.order), None)
                or _resized(layout, each[lead], shapes[lead], part, shape)
                for choice, part, shape in zip(choices, each, shapes, strict=True)
            ]
            laid = tuple(layout.axes[at] for at in layout.order)
            found = [other for other in alike if other is not None]
            if len(found) == len(each):
                yield _Way(axis, widths, found, [layout.axes, laid] == thin)


def _joined(
    array: Block, whole: Shape, parts: Mapping[str, Shape], way: _Way, orders: Sequence[tuple[int, Sequence[str]]]
) -> Iterator[tuple[Move, ...]]:
    """Yield the moves of parts that are joined in one way, for each number of groups and order of the parts."""
    widths = dict(zip(parts, way.widths, strict=True))
    for groups, order in orders:
        blocks = _blocks(array, whole, way.axis, groups, {part: widths[part] for part in order})
        yield tuple(each.into(part, parts[part], blocks[part]) for part, each in zip(parts, way.layouts, strict=True))


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
    if len(part) == len(start) - 1:
        # A kernel of one output may be a vector.
        padded = ((*start[:at], 1, *start[at + 1 :]) for at in range(len(start)) if (*start[:at], *start[at + 1 :]) == part)
        return next((found for each in padded if (found := _resized(layout, start, end, each, shape))), None)
    sides = ((start, part), (end, shape))
    if any(len(a) != len(b) for a, b in sides):
        return None
    cut = [[at for at, (a, b) in enumerate(zip(*side, strict=True)) if a != b] for side in sides]
    if any(len(axes) != 1 for axes in cut) or start[cut[0][0]] == 1 or start[cut[0][0]] != end[cut[1][0]]:
        return None
    laid = tuple(layout.axes[axis] for axis in layout.order)
    ends: list[int] = []
    for sizes, whole, axes in ((layout.axes, start, cut[0]), (laid, end, cut[1])):
        groups = axis_groups(sizes, tuple(size for size in whole if size != 1))
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
