"""Loop stacks: the arrays of all iterations of a loop as one array, to match a vectorised program.

for p in range(P): y = f(x[:, p])      ->      loop (P, ...) = the P arrays y, stacked          jax: y = f(x), all at once

The arrays of one line that runs several times are stacked beside the recording: where the other side has the stack, each of
them is explained.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from attention.parity.tracing.trace import LOOP, Recording
from attention.parity.tracing.trace_alignment import Alignment

# Turns of a loop, and elements of a stack, beyond which none is made.
MOST_TURNS, MOST_ELEMENTS = 64, 2**20
# Loops of one line that is no scan's.
MOST_LOOPS = 8


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
    loops = [loop for group in turns.values() for loop in _loops(side, group) if any(alone[i] for i in loop)]
    count = 0
    for loop in loops:
        first = side.events[loop[0]]
        if len(loop) * first.value.size in wanted:
            value = np.stack([side.events[i].value for i in loop])
            _ = side.add(LOOP, value, loop, dtype=first.dtype, places=first.places, backward=first.backward)
            count += 1
    return count


def _loops(side: Recording, group: list[int]) -> Iterator[list[int]]:
    """Yield the loops in which one line runs."""
    scanned = [i for i in group if side.events[i].turns]
    yield from _scans(side, scanned)
    yield from _guessed([i for i in group if not side.events[i].turns], side.events[group[0]].value.size)


def _scans(side: Recording, group: list[int]) -> Iterator[list[int]]:
    """Yield what the scans of JAX made on a line, in the order of their turns; a line may run several times in each."""
    scans: list[dict[int, list[int]]] = []
    last: tuple[int, ...] = ()
    for i in group:
        *outer, turn = side.events[i].turns
        again = side.events[i].turns != last and scans and turn in scans[-1]
        if not scans or again or tuple(outer) != last[:-1]:
            scans.append({})
        scans[-1].setdefault(turn, []).append(i)
        last = side.events[i].turns
    for scan in scans:
        if len(scan) > 1 and len({len(made) for made in scan.values()}) == 1:
            yield from (list(loop) for loop in zip(*(scan[turn] for turn in sorted(scan)), strict=True))


def _guessed(group: list[int], size: int) -> Iterator[list[int]]:
    """Yield the loops that one line may have run in: all its runs as one, or as many of one length, such as one a layer.

    Loops may follow one another, or take turns, such as one for queries and one for keys.
    """
    most = min(MOST_TURNS, MOST_ELEMENTS // max(1, size))
    for length in range(2, min(len(group), most) + 1):
        count, rest = divmod(len(group), length)
        if not rest and count <= MOST_LOOPS:
            yield from (group[n * length : (n + 1) * length] for n in range(count))
            yield from (group[n::count] for n in range(count) if count > 1)
