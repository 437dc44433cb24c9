"""Convert a set of strided addresses, given as mixed-radix digits, to a block of an array.

{ start + digit_1 * stride_1 + digit_2 * stride_2 + ... } = array.reshape(split)[spans]        as a set of positions
"""

from __future__ import annotations

import math

from attention.parity.param_mapping.block_moves import Block, Shape

Factors = tuple[tuple[int, int], ...]
"""Size and stride of each digit, the slowest first."""


def strided_block(name: str, shape: Shape, start: int, factors: Factors) -> Block | None:
    """Return the block of an array that begins at `start` and counts in `factors`, or None where it is none."""
    rising = sorted(_refined(factors, shape), key=lambda factor: factor[1])
    if not rising or rising[0][1] > 1:
        rising = [(1, 1), *rising]
    above = [*(stride for _, stride in rising[1:]), math.prod(shape)]
    split: list[tuple[int, tuple[int, int]]] = []
    for (size, stride), over in zip(rising, above, strict=True):
        extent, rest = divmod(over, stride)
        at = start // stride % max(extent, 1)
        if rest or at + size > extent:
            return None
        split.insert(0, (extent, (at, at + size)))
    split = _natural(shape, split)
    return Block(name, shape, tuple(size for size, _ in split), tuple(span for _, span in split))


def _refined(factors: Factors, shape: Shape) -> Factors:
    """Return the digits, each split where an axis of the array begins within it."""
    refined = list(factors)
    for stride in (math.prod(shape[axis:]) for axis in range(1, len(shape))):
        for at, (size, step) in enumerate(refined):
            if step < stride < size * step and stride % step == 0 and size * step % stride == 0:
                refined[at : at + 1] = [(size * step // stride, stride), (stride // step, step)]
                break
    return tuple(refined)


def _natural(shape: Shape, split: list[tuple[int, tuple[int, int]]]) -> list[tuple[int, tuple[int, int]]]:
    """Return the block with its split axes joined to the array's own, as far as it remains a block."""
    rest, joined = list(split), list[tuple[int, tuple[int, int]]]()
    for size in shape:
        group: list[tuple[int, tuple[int, int]]] = []
        while math.prod(extent for extent, _ in group) < size and rest:
            group.append(rest.pop(0))
        if math.prod(extent for extent, _ in group) != size:
            return split
        joined += _joined(size, group)
    return [*joined, *rest]


def _joined(size: int, group: list[tuple[int, tuple[int, int]]]) -> list[tuple[int, tuple[int, int]]]:
    """Return a group of split axes as one, or as they are where their block is not contiguous."""
    start, width, inside = 0, 1, True
    for extent, (low, high) in group:
        inside &= width == 1 or high - low == extent
        start, width = start * extent + low, width * (high - low)
    return [(size, (start, start + width))] if inside else group
