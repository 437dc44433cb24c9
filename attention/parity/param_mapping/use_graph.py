"""Graph of parameter use: an edge joins two parameters used one after the other on the same data.

edges(program) = {(p, q): q is computed with what p was computed with last}        of matched parameters
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from attention.parity.param_mapping.block_moves import Block, Move
from attention.parity.param_mapping.candidates import Entry, Plan
from attention.parity.param_mapping.name_assignment import names_distinguish
from attention.parity.param_mapping.param_use import Use, Uses, strides_of

NAMES_AND_USE = "names and order of use"
USE = "order of use"

Edges = set[tuple[int, int]]


class Graph:
    """The edges of both programs, in units that a plan makes of matched parameters.

    Args:
        plan: whose pairs.
        both: how the programs use their parameters.
    """

    def __init__(self, plan: Plan, both: tuple[Uses, Uses]) -> None:
        self.plan = plan
        self.units: list[tuple[int, Move]] = [
            (at, move) for at, entry in enumerate(plan.entries) for move in entry.choices[0] if not is_bias(entry)
        ]
        self.parent = list(range(len(self.units)))
        self.at = [_spans(self.units, side) for side in ("first", "second")]
        uses = (both[0].found, both[1].found)
        self.seen = [[self._unit(side, use.view.name, use) for use in found] for side, found in enumerate(uses)]
        self.uses = uses
        self.ours = self._edges(0)
        self.theirs = self._edges(1)
        self.wrong = len(self._apart(self.theirs))

    def _unit(self, side: int, name: str, use: Use) -> int:
        """Return the unit that a use is of, after joining those that it uses as one; -1 where it is of none."""
        low, high = use.view.span
        hit = [unit for unit, start, stop in self.at[side].get(name, ()) if start < high and low < stop]
        if use.kind == "sum" or not hit:
            return -1
        for other in hit[1:]:
            self.parent[self._root(other)] = self._root(hit[0])
        return hit[0]

    def _root(self, unit: int) -> int:
        while self.parent[unit] != unit:
            self.parent[unit] = self.parent[self.parent[unit]]
            unit = self.parent[unit]
        return unit

    def _edges(self, side: int, exchange: Mapping[int, int] | None = None) -> Edges:
        units = [-1 if unit < 0 else self._root(unit) for unit in self.seen[side]]
        units = units if exchange is None else [exchange.get(unit, unit) for unit in units]
        pairs = ((units[a], units[b]) for b, use in enumerate(self.uses[side]) for a in use.after)
        return {(a, b) for a, b in pairs if a >= 0 and b >= 0 and a != b}

    def _apart(self, theirs: Edges, more: Iterable[int] = ()) -> Edges:
        both = self._both.union(more)
        return {(a, b) for a, b in self.ours ^ theirs if a in both and b in both}

    @property
    def _both(self) -> set[int]:
        if not hasattr(self, "_known"):
            ours, theirs = ({self._root(unit) for unit in seen if unit >= 0} for seen in self.seen)
            self._known = ours & theirs
        return self._known

    def dirty(self) -> set[int]:
        """Return the entries whose uses differ."""
        units = {unit for edge in self._apart(self.theirs) for unit in edge}
        return {at for unit, (at, _) in enumerate(self.units) if self._root(unit) in units}

    def confirmed(self) -> set[int]:
        """Return the entries whose uses are the same in both programs, and more than none."""
        wrong = {unit for edge in self._apart(self.theirs) for unit in edge}
        good = {unit for edge in self.ours & self.theirs for unit in edge} - wrong
        return {at for unit, (at, _) in enumerate(self.units) if self._root(unit) in good}

    def exchangeable(self, dirty: set[int]) -> list[tuple[int, int]]:
        """Return the pairs of entries that may be exchanged, one of which differs in use at the least."""
        kinds: dict[tuple[object, ...], list[int]] = {}
        for at, entry in enumerate(self.plan.entries):
            if entry.evidence in {"names", "shapes", USE} and not is_bias(entry):
                key = tuple((m.first.shape, m.first.spans, m.second.shape, m.second.spans) for m in entry.choices[0])
                if len({m.second.name for m in entry.choices[0]}) == 1:
                    kinds.setdefault(key, []).append(at)
        pairs = (pair for places in kinds.values() for pair in combinations(places, 2) if pair[0] in dirty and pair[1] in dirty)
        return [pair for pair in pairs if not self._must_stay(*pair)]

    def _must_stay(self, one: int, other: int) -> bool:
        """Return whether the names of two entries say that they must not be exchanged."""
        moves = [self.plan.entries[at].choices[0][0] for at in (one, other)]
        first, second = ((getattr(moves[0], side).name, getattr(moves[1], side).name) for side in ("first", "second"))
        return names_distinguish(first, second)

    def gain(self, one: int, other: int) -> int:
        """Return how many edges more would be the same if two entries were exchanged."""
        ours, theirs = ([unit for unit, (at, _) in enumerate(self.units) if at == place] for place in (one, other))
        exchange = {self._root(a): self._root(b) for a, b in zip(ours, theirs, strict=False)}
        exchange |= {b: a for a, b in exchange.items()}
        # One that only one program uses has its place in that one all the same.
        now, then = (self._apart(theirs, exchange) for theirs in (self.theirs, self._edges(1, exchange)))
        return len(now) - len(then)


def is_bias(entry: Entry) -> bool:
    """Return whether an entry is of biases."""
    return all(len(m.first.shape) == 1 and "bias" in m.first.name for m in entry.choices[0])


def _spans(units: Sequence[tuple[int, Move]], side: str) -> dict[str, list[tuple[int, int, int]]]:
    """Return the unit and the addresses of each block, by the array that it is of."""
    found: dict[str, list[tuple[int, int, int]]] = {}
    for unit, (_, move) in enumerate(units):
        block: Block = getattr(move, side)
        found.setdefault(block.name, []).append((unit, *span(block)))
    return found


def span(block: Block) -> tuple[int, int]:
    """Return the addresses that a block lies between."""
    strides = strides_of(block.split)
    low = sum(start * stride for (start, _), stride in zip(block.spans, strides, strict=True))
    high = sum((stop - 1) * stride for (_, stop), stride in zip(block.spans, strides, strict=True))
    return low, high + 1
