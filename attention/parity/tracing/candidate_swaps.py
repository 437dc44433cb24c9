"""Candidate swaps for activation patching: a torch array for a JAX array, smallest region first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache, partial
from itertools import product

from attention.parity.tracing.backward_slice import BackwardSlice, ancestors, bottlenecks
from attention.parity.tracing.trace import LOOP, Recording, is_number, members
from attention.parity.tracing.trace_alignment import Alignment

MOST_SWAPS, MOST_SIDE = 200, 64
"""What is tried at most: swaps, and arrays of either side that are combined. Measured on 49 ports and 32 pairs: the swap that
repairs all was among the first 124."""
MOST_NARROW = 48
"""Swaps of arrays through which all goes that differs."""
MOST_REGION, MOST_RANKED = 400, 48
"""Operations of a region that are counted, and of one that is only ranked among many."""

Trial = tuple[str, int, int, tuple[int, ...] | None]
"""The kind of a divergence, the torch event, the JAX event, and the events that read the replacement."""


def smallest_swaps(alignment: Alignment, first: BackwardSlice, second: BackwardSlice) -> Iterator[Trial]:
    """Yield the swaps that may be, of the smallest regions first."""

    @cache
    def size(which: int, i: int, most: int = MOST_REGION) -> tuple[int, int]:
        side = (alignment.torch, alignment.jax)[which]
        behind = [n for n in ancestors(side, i, inside[which], most) if side.events[n].is_operation]
        return len({side.lines[n] for n in behind}), len(behind)

    def rank(which: int, i: int) -> tuple[float, float, int]:
        lines, count = size(which, i, MOST_RANKED)
        # Of a region that was not counted to its end it is known that it is larger than the others.
        return (lines, count, i) if count < MOST_RANKED // 2 else (float("inf"), 0, i)

    @cache
    def reads(which: int, i: int) -> frozenset[int]:
        side = (alignment.torch, alignment.jax)[which]
        behind = ancestors(side, i, apart[which], MOST_REGION)
        return frozenset(n for k in behind for n in side.events[k].inputs)

    @cache
    def readers(j: int) -> tuple[int, ...]:
        return tuple(i for n in members(alignment.jax, j) for i in alignment.jax.consumers[n] if i in inside[1])

    def is_far(which: int, i: int, given: Sequence[int]) -> bool:
        # What only one side has was made from one of some arrays, or may have been: of a constant.
        return bool(given) and reads(which, i).isdisjoint(given)

    inside = frozenset(first.inside), frozenset(second.inside)
    apart = [frozenset(n for n, ok in enumerate(fine) if not ok) for fine in alignment.fine]
    computed = _computed(alignment.torch, first), _computed(alignment.jax, second)
    border = [*first.border, *_loops(alignment.torch, first.border)], [*second.border, *_loops(alignment.jax, second.border)]
    fit = [_sizes(alignment, n, [*computed[n], *border[n]]) for n in (0, 1)]
    # What is of no size that the other side has, such as one turn of its loop, is no candidate.
    left = [[i for i in each if not fit[1 - n].isdisjoint(_sizes(alignment, n, [i]))] for n, each in enumerate(computed)]
    a, b = (sorted(each, key=partial(rank, n))[:MOST_SIDE] for n, each in enumerate(left))
    tried: list[tuple[tuple[float, float, float], Trial]] = []
    for t, j in (pair for pair in product(a, b) if _fits(alignment, *pair)):
        cost = (0, size(0, t)[0] + size(1, j)[0], size(0, t)[1] + size(1, j)[1])
        tried.append((cost, ("different", t, j, None)))
    for t, j in (pair for pair in product(a, border[1]) if _fits(alignment, *pair)):
        cost = (is_far(0, t, alignment.alike[1][j]), size(0, t)[0] + 1, size(0, t)[1] + 2)
        tried += [(cost, ("absent in jax", t, j, None)), (cost, ("absent in jax", t, j, readers(j)))]
    for t, j in (pair for pair in product(border[0], b) if _fits(alignment, *pair)):
        cost = (is_far(1, j, alignment.alike[0][t]), size(1, j)[0] + 1, size(1, j)[1] + 2)
        tried.append((cost, ("absent in torch", t, j, None)))
    yield from (trial for _, trial in sorted(tried, key=lambda one: one[0])[:MOST_SWAPS])


def bottleneck_swaps(alignment: Alignment, first: BackwardSlice, second: BackwardSlice) -> Iterator[Trial]:
    """Yield the swaps of arrays through which all goes that differs, the earliest first."""
    ends = bottlenecks(alignment.torch, first), bottlenecks(alignment.jax, second)
    pairs = [pair for pair in product(*ends) if _fits(alignment, *pair)]
    rank = [{i: n for n, i in enumerate(each)} for each in ends]
    for t, j in sorted(pairs, key=lambda pair: rank[0][pair[0]] + rank[1][pair[1]])[:MOST_NARROW]:
        yield "different", t, j, None


def _sizes(alignment: Alignment, which: int, indices: Sequence[int]) -> set[tuple[str, int, bool]]:
    """Return what arrays that may stand in each other's place have in common: kind and size, with or without repetitions."""
    events, prints = (alignment.torch, alignment.jax)[which].events, alignment.prints[which]
    whole = {(events[i].value.dtype.kind, events[i].value.size, True) for i in indices}
    return whole | {(events[i].value.dtype.kind, prints[i].count, False) for i in indices if prints[i].count > 1}


def _computed(side: Recording, region: BackwardSlice) -> list[int]:
    """Return what was computed in a region: an array that is only laid out anew stands for nothing new.

    What a loop made stands for all its turns.
    """
    return [*(i for i in region.inside if side.events[i].is_operation), *_loops(side, region.inside)]


def _loops(side: Recording, made: Sequence[int]) -> list[int]:
    """Return the loops of which some events are all turns."""
    known = frozenset(made)
    return [e.index for e in side.events if e.op == LOOP and known.issuperset(e.inputs)]


def _fits(alignment: Alignment, t: int, j: int) -> bool:
    a, b = alignment.torch.events[t], alignment.jax.events[j]
    if alignment.torch.runs[t] < alignment.jax.rounds[j] and a.op != LOOP:
        # A scan runs the line more often than torch does, which makes at once what the scan makes in all its turns.
        return False
    same = a.value.size == b.value.size or 1 < alignment.prints[0][t].count == alignment.prints[1][j].count
    # No array that was computed stands in the place of a number that is written in the program.
    return same and a.value.dtype.kind == b.value.dtype.kind and a.is_float and not (is_number(a) or is_number(b))
