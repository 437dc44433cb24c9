"""Loops: what a loop makes one after another, as the one array that a vectorised program makes at once.

for p in range(P): y = f(x[:, p])      ->      loop (P, ...) = the P arrays y, stacked          jax: y = f(x), all at once

The arrays of one line that runs several times are stacked beside the recording: where the other side has the stack, each of
them is explained.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from attention.parity.tracing.trace import LOOP, Recording
from attention.parity.tracing.trace_alignment import Alignment

# Turns of a loop, and elements of a stack, beyond which none is made.
MOST_TURNS, MOST_ELEMENTS = 64, 2**20


def with_loops(alignment: Alignment) -> Alignment:
    """Return two programs with the stacks of what either side makes in a loop and the other side may make at once.

    Args:
        alignment: the programs, to whose recordings the stacks are appended; the first of a chain.
    """
    sides = alignment.torch, alignment.jax
    alone = [
        [not there and side.events[i].is_float for i, there in enumerate(alike)]
        for side, alike in zip(sides, alignment.alike, strict=True)
    ]
    sizes = [{side.events[i].value.size for i, odd in enumerate(left) if odd} for side, left in zip(sides, alone, strict=True)]
    found = [_stacked(side, left, wanted) for side, left, wanted in zip(sides, alone, reversed(sizes), strict=True)]
    return Alignment(*sides) if any(found) else alignment


def _stacked(side: Recording, alone: list[bool], wanted: set[int]) -> int:
    """Append the stacks that are as large as some array of the other side, and return how many."""
    turns: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for event in side.events:
        if event.line and event.is_float and event.op != "output":
            made_of = tuple(side.events[i].op for i in event.inputs)
            turns[event.op, event.name, event.place, event.backward, event.shape, made_of].append(event.index)
    count = 0
    for group in turns.values():
        size = len(group) * side.events[group[0]].value.size
        if 1 < len(group) <= MOST_TURNS and size in wanted and size <= MOST_ELEMENTS and any(alone[i] for i in group):
            first = side.events[group[0]]
            value = np.stack([side.events[i].value for i in group])
            _ = side.add(LOOP, value, group, dtype=first.dtype, places=first.places, backward=first.backward)
            count += 1
    return count
