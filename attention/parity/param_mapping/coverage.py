"""Coverage: whether blocks of arrays hold every element exactly once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from attention.parity.param_mapping.block_moves import Block

MOST_DRAWN, MOST_TIMES, MOST_PARTS = 2**27, 4, 2**12
"""Elements that are marked off one by one, how often each on average, and blocks of an array that are compared in pairs."""


def by_name(blocks: Iterable[Block]) -> dict[str, list[Block]]:
    """Return blocks by the array that they are of."""
    found: dict[str, list[Block]] = {}
    for block in blocks:
        found.setdefault(block.name, []).append(block)
    return found


def faults(blocks: Mapping[str, list[Block]]) -> dict[str, str]:
    """Return what is wrong with each array whose blocks do not cover every element exactly once."""
    wrong: dict[str, str] = {}
    drawn = 0
    for name, parts in blocks.items():
        if len(parts) == 1 and parts[0].whole:
            continue
        if len({part.shape for part in parts}) > 1:
            wrong[name] = f"{name} has two shapes, {parts[0].shape} and {parts[-1].shape}"
            continue
        if _cover(parts):
            continue
        size, covered = math.prod(parts[0].shape), sum(math.prod(part.sizes) for part in parts)
        drawn += size
        if drawn > MOST_DRAWN or covered > MOST_TIMES * size:
            wrong[name] = f"{name} {parts[0].shape}, of which not every element is used once, as far as can be told"
            continue
        used = np.zeros(parts[0].shape, np.uint8)
        for part in parts:
            part.of(used)[...] += 1
        never, twice = int(np.sum(used == 0)), int(np.sum(used > 1))
        counts = [f"{count} elements {how}" for count, how in ((never, "are never used"), (twice, "are used twice")) if count]
        if counts:
            wrong[name] = f"{name} {parts[0].shape}, of which {' and '.join(counts)}"
    return wrong


def _cover(parts: list[Block]) -> bool:
    """Return whether boxes of one split are as large as the array together, and no two overlap: no array is made for it."""
    if len(parts) > MOST_PARTS or len({part.split for part in parts}) > 1:
        return False
    if sum(math.prod(part.sizes) for part in parts) != math.prod(parts[0].shape):
        return False
    spans = np.array([part.spans for part in parts], np.int64).reshape(len(parts), -1, 2)
    first, last = spans[:, :, 0], spans[:, :, 1]
    # A box overlaps itself.
    return all(np.sum(np.all((first < box[:, 1]) & (last > box[:, 0]), axis=1)) == 1 for box in spans)
