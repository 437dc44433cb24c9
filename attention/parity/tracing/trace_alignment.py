"""Trace alignment: which array of one program corresponds to which of the other.

    i ~ j    iff    fingerprint(i) = fingerprint(j) within tolerance

Any number of events may hold the same array. For reading, the pairs that follow one another in both programs are chosen: a
longest increasing subsequence.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from attention.parity.tracing.axis_permutations import consistent
from attention.parity.tracing.fingerprint import Fingerprint, fingerprint, real
from attention.parity.tracing.trace import LOOP, Recording, is_number

# A result this far below its operands is what is left of a sum that is zero.
NOISE = 1e-13


@dataclass(eq=False)
class Index:
    """Fingerprints that can be looked up.

    Args:
        prints: in the order of the events.
    """

    prints: list[Fingerprint]
    groups: dict[tuple[int, int, bytes], list[int]] = field(init=False)

    def __post_init__(self) -> None:
        self.groups = defaultdict(list)
        for i, found in enumerate(self.prints):
            self.groups[found.count, found.masked, found.pattern].append(i)
        # Sorted by one statistic, so that those near another are neighbours.
        for group in self.groups.values():
            group.sort(key=self._middle)
        self.middles = {key: np.array([self._middle(i) for i in group]) for key, group in self.groups.items()}
        slack = {key: max(self.prints[i].slack for i in group) for key, group in self.groups.items()}
        self.slack = slack

    def _middle(self, i: int) -> float:
        found = self.prints[i].statistics
        return float(found[1]) if found.size else 0.0

    def equal(self, other: Fingerprint) -> list[int]:
        """Return the events whose fingerprint is equal to another."""
        key = other.count, other.masked, other.pattern
        group = self.groups.get(key)
        if not group:
            return []
        if not other.statistics.size:
            return list(group)
        # Equal arrays have equal scales but for the tolerance, which is at most that of this one or a slack.
        most = max(other.tolerance, other.slack, self.slack[key])
        most = most / max(1 - most, 0.1) * other.scale
        first, last = np.searchsorted(self.middles[key], (other.statistics[1] - most, other.statistics[1] + most))
        near = group[first : min(last + 1, len(group))]
        return sorted(i for i in near if self.prints[i].equals(other))


def prints(
    recording: Recording, known: Mapping[int, Fingerprint] | None = None, changed: frozenset[int] = frozenset()
) -> list[Fingerprint]:
    """Return the fingerprint of every event of a recording, those that are known and have not changed as they are."""
    found: list[Fingerprint] = []
    floors: list[float] = []
    for event in recording.events:
        largest = max((found[i].scale for i in event.inputs), default=0.0)
        # What is made of a rounding error of zero is one too.
        floors.append(max([NOISE * largest, *(floors[i] for i in event.inputs)]))
        same = None if known is None or event.index in changed else known[event.index]
        found.append(same or fingerprint(event.value, event.unit, floors[-1], event.slack))
    return found


@dataclass(eq=False)
class Alignment:
    """Two recordings and what they have in common.

    Args:
        torch: the recording of the torch side.
        jax: that of the JAX side.
        before: the same programs before some arrays of JAX were replaced; None for the programs as they ran.
        changed: the JAX events whose arrays are others than in `before`.
    """

    torch: Recording
    jax: Recording
    before: Alignment | None = None
    changed: frozenset[int] = frozenset()

    @cached_property
    def prints(self) -> tuple[list[Fingerprint], list[Fingerprint]]:
        """The fingerprints of the events of either side."""
        if self.before is None:
            return prints(self.torch), prints(self.jax)
        there, known = self.before.prints
        return there, prints(self.jax, dict(enumerate(known)), self.changed)

    @cached_property
    def index(self) -> Index:
        """The fingerprints of the torch side, to look others up in."""
        return Index(self.prints[0]) if self.before is None else self.before.index

    @cached_property
    def alike(self) -> tuple[list[list[int]], list[list[int]]]:
        """The events of the other side that hold the same elements, in whatever layout, for every event of either side."""
        known = None if self.before is None else self.before.alike[1]
        find = self.index.equal
        back = [find(x) if known is None or j in self.changed else known[j] for j, x in enumerate(self.prints[1])]
        return _turned(back, len(self.torch.events)), back

    @cached_property
    def partners(self) -> tuple[list[list[int]], list[list[int]]]:
        """The events of the other side that hold the same array, for every event of either side."""
        known = None if self.before is None else [frozenset(group) for group in self.before.partners[1]]

        def same(i: int, j: int) -> bool:
            return self._same(i, j) if known is None or j in self.changed else i in known[j]

        there = [[j for j in group if same(i, j)] for i, group in enumerate(self.alike[0])]
        return there, _turned(there, len(self.jax.events))

    def _same(self, i: int, j: int) -> bool:
        a, b = self.torch.events[i], self.jax.events[j]
        first, second = self.prints[0][i], self.prints[1][j]
        return not first.count or consistent(real(a.value), real(b.value), first.limit(second))

    def surplus(self, which: int, i: int) -> bool:
        """Return whether one side (0 is torch, 1 JAX) has computed the elements of an event as often as the other ever does."""
        sides = self.torch.events, self.jax.events
        there = self.alike[which][i]
        own = [n for n in (self.alike[1 - which][there[0]] if there else [i]) if n <= i]
        counts = [sum(sides[n][k].is_operation for k in group) for n, group in ((which, own), (1 - which, there))]
        return counts[0] > counts[1]

    @cached_property
    def fine(self) -> tuple[list[bool], list[bool]]:
        """Whether an event needs no explanation: it has a partner, was given, is no number, or repeats one that is fine."""
        sides = zip((self.torch, self.jax), self.partners, self.alike, strict=True)
        return tuple(_fine(*side) for side in sides)  # pyright: ignore[reportReturnType]

    @cached_property
    def outputs(self) -> list[tuple[int, int]]:
        """The pairs of outputs that should be equal: by name, or in order; gradients of leaves that are equal."""
        forward = [[n for n in side.outputs if not n.startswith("d ")] for side in (self.torch, self.jax)]
        same = [n for n in forward[0] if n in forward[1]]
        names = list(zip(same, same, strict=True)) if same else list(zip(*forward, strict=False))
        return [(self.torch.outputs[a], self.jax.outputs[b]) for a, b in [*names, *self._gradients()]]

    def _gradients(self) -> list[tuple[str, str]]:
        leaves = {e.name: e.index for e in self.torch.events if e.is_given and f"d {e.name}" in self.torch.outputs}
        found: list[tuple[str, str]] = []
        taken: set[str] = set()
        for name, i in leaves.items():
            there = [self.jax.events[j] for j in self.partners[0][i]]
            named = [e.name for e in there if e.is_given and f"d {e.name}" in self.jax.outputs and e.name not in taken]
            # Two leaves of equal value, such as biases of zero, are told apart by their names, or not at all.
            chosen = name if name in named else named[0] if len(named) == 1 else None
            if chosen is not None:
                taken.add(chosen)
                found.append((f"d {name}", f"d {chosen}"))
        return found

    def agree(self, i: int, j: int) -> bool:
        """Return whether an output of the torch side and one of the JAX side are equal: of one shape, in every element."""
        a, b = self.torch.events[i], self.jax.events[j]
        first, second = self.prints[0][i], self.prints[1][j]
        if j not in self.alike[0][i] or not first.count:
            return j in self.alike[0][i]
        # A gradient is laid out as its parameter is.
        same = a.shape == b.shape and not a.name.startswith("d ")
        return consistent(real(a.value), real(b.value), first.limit(second), same=same)

    @cached_property
    def unequal(self) -> list[tuple[int, int]]:
        """The pairs of outputs that are not equal; gradients only where all else is."""
        bad = [(i, j) for i, j in self.outputs if not self.agree(i, j)]
        forward = [(i, j) for i, j in bad if not self.torch.events[i].name.startswith("d ")]
        return forward or bad

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """Pairs of operations that hold the same array and follow one another on both sides."""
        taken: dict[int, int] = {}
        candidates: list[tuple[int, int]] = []
        for i, there in enumerate(self.partners[0]):
            operations = [j for j in there if self.jax.events[j].is_operation] if self.torch.events[i].is_operation else []
            if operations:
                # Of several copies, the first is paired with the first.
                turn = taken.get(operations[0], 0)
                taken[operations[0]] = turn + 1
                candidates.append((i, operations[min(turn, len(operations) - 1)]))
        return increasing(candidates)


def _turned(there: list[list[int]], size: int) -> list[list[int]]:
    back: list[list[int]] = [[] for _ in range(size)]
    for i, group in enumerate(there):
        for j in group:
            back[j].append(i)
    return back


def _fine(recording: Recording, partners: list[list[int]], alike: list[list[int]]) -> list[bool]:
    found: list[bool] = []
    for event, same, there in zip(recording.events, partners, alike, strict=True):
        inputs = [recording.events[i] for i in event.inputs]
        # The same elements in another layout are no repetition, and a rounding is none either.
        repeats = event.is_move and bool(inputs) and all(found[i] for i in event.inputs) and not there
        repeats = repeats and event.unit <= max(x.unit for x in inputs)
        # Whatever reads a number that the other side has not is what parts.
        known = bool(same) or event.is_given or not event.is_float or is_number(event)
        found.append(event.op != "output" and (known or repeats))
    for event, same in zip(recording.events, partners, strict=True):
        if event.op == LOOP and same:
            for i in event.inputs:
                found[i] = True
    return found


def increasing(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return a longest subsequence of pairs, sorted by their first, whose second strictly increases.

    >>> increasing([(0, 4), (1, 1), (2, 2), (3, 1), (4, 3)])
    [(1, 1), (2, 2), (4, 3)]
    """
    tails: list[int] = []
    ends: list[int] = []
    before: list[int] = []
    for n, (_, j) in enumerate(pairs):
        k = bisect_left(tails, j)
        before.append(ends[k - 1] if k else -1)
        tails[k : k + 1] = [j]
        ends[k : k + 1] = [n]
    found: list[tuple[int, int]] = []
    n = ends[-1] if ends else -1
    while n >= 0:
        found.append(pairs[n])
        n = before[n]
    return found[::-1]
