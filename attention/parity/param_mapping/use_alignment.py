"""Compare parameter use in two programs under an ambiguous map, and correct the map.

edges(program) = {(p, q): q is computed with what p was computed with last}        of matched parameters
a right map makes the edges of both programs the same; an exchange of two parameters that makes them more alike is kept

element x of a kernel -> element y        only if x and y count the same input and outputs in the same order
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from attention.parity.adapters import Call, Program
from attention.parity.param_mapping.block_moves import Block, Move
from attention.parity.param_mapping.candidates import Entry, Plan
from attention.parity.param_mapping.param_use import Digits, Use, Uses, strides_of
from attention.parity.param_mapping.unstacked_rows import Unstacked
from attention.parity.param_mapping.use_graph import NAMES_AND_USE, USE, Graph, span
from attention.parity.param_mapping.value_search import Moves

MOST_TRIALS = 5000
"""Exchanges that are tried."""
SAMPLES = 64
"""Elements of a kernel whose places are compared."""


def uses_of(program: Program, call: Call) -> Uses | None:
    """Return how a program uses its parameters, or None where it cannot be followed."""
    if isinstance(program, Unstacked):
        return program.uses
    try:
        if program.framework == "torch":
            from attention.parity.adapters.torch_program import TorchProgram  # noqa: PLC0415 - only for a torch program
            from attention.parity.param_mapping import torch_param_use  # noqa: PLC0415

            return torch_param_use.uses_of(program, call) if isinstance(program, TorchProgram) else None
        from attention.parity.adapters.jax_program import JaxProgram  # noqa: PLC0415 - only for a program in JAX
        from attention.parity.param_mapping import jax_param_use  # noqa: PLC0415

        return jax_param_use.uses_of(program, call) if isinstance(program, JaxProgram) else None
    except Exception:  # noqa: BLE001 - a user's program may raise anything; running it will say what
        return None


@dataclass
class Alignment:
    """The uses of the parameters of two programs.

    Args:
        first: of the first program.
        second: of the second.
    """

    first: Uses
    second: Uses
    trials: int = field(default=0, init=False)

    def aligned(self, plan: Plan) -> Plan:
        """Return the plan with parameters exchanged and layouts chosen as their uses say."""
        plan = self._exchanged(plan)
        return replace(
            plan, entries=tuple(_as_most([replace(e, choices=self._fitting(e.choices)) for e in plan.entries], plan))
        )

    def apart(self, plan: Plan) -> Plan:
        """Return the plan without the siblings that their uses tell apart, and with what the uses confirm as evidence."""
        graph = Graph(plan, (self.first, self.second))
        sets: list[tuple[int, ...]] = []
        for places in plan.siblings:
            sets += _connected(places, [pair for pair in combinations(places, 2) if graph.gain(*pair) == 0])
        sure = graph.confirmed()
        said = tuple(
            replace(each, evidence=NAMES_AND_USE) if at in sure and each.evidence == "names" else each
            for at, each in enumerate(plan.entries)
        )
        said = tuple(replace(e, evidence=USE) if at in sure and e.evidence == "shapes" else e for at, e in enumerate(said))
        return replace(plan, entries=said, siblings=tuple(sets))

    def _exchanged(self, plan: Plan) -> Plan:
        """Return the plan after the exchanges that make the order of use more alike, the best first."""
        graph = Graph(plan, (self.first, self.second))
        while graph.wrong and self.trials < MOST_TRIALS:
            dirty = graph.dirty()
            gains: dict[tuple[int, int], int] = {}
            for pair in graph.exchangeable(dirty):
                self.trials += 1
                gains[pair] = graph.gain(*pair)
                if self.trials >= MOST_TRIALS:
                    break
            best = max(gains, key=lambda pair: gains[pair], default=None)
            if best is None or gains[best] <= 0:
                break
            plan = plan.swapped(*best).with_evidence(best, USE)
            graph = Graph(plan, (self.first, self.second))
        return plan

    def _fitting(self, choices: tuple[Moves, ...]) -> tuple[Moves, ...]:
        """Return the layouts that put every element where it counts as it did, or all where none is known to."""
        if len(choices) < 2:
            return choices
        fit = tuple(moves for moves in choices if all(self._counts_alike(move) for move in moves))
        return fit or choices

    def _counts_alike(self, move: Move) -> bool:
        """Return whether a move keeps what its elements count; True where the uses do not tell."""
        pair = _alike(_used(self.first, move.first), _used(self.second, move.second))
        if pair is None:
            return True
        ours, theirs = _addresses(move)
        one, other = (
            {role: _count(use, role, at) for role in _roles(pair)} for use, at in zip(pair, (ours, theirs), strict=True)
        )
        if any(np.any(one[role] != other[role]) for role in one if role != "out"):
            return False
        # A part of a fused kernel counts its outputs from elsewhere, but in the same order.
        if "out" not in one:
            return True
        order = np.argsort(other["out"], kind="stable")
        same, steps = np.diff(other["out"][order]) == 0, np.diff(one["out"][order])
        return bool(np.all(steps[same] == 0) and np.all(steps[~same] > 0))


def _as_most(entries: list[Entry], plan: Plan) -> list[Entry]:
    """Return the entries laid out as most of their like are in other layers: one that is not is a mistake of a program.

    Args:
        entries: with the layouts that their uses leave.
        plan: with all layouts.
    """
    kinds: dict[tuple[object, ...], list[int]] = {}
    for at, entry in enumerate(plan.entries):
        if len(entry.choices) > 1:
            kinds.setdefault(entry.kind, []).append(at)
    for places in kinds.values():
        # The place of the layout among all, which are alike for all entries of a kind.
        chosen = {at: plan.entries[at].choices.index(entries[at].choices[0]) for at in places}
        counts = Counter(chosen.values())
        most = max(counts, key=lambda choice: (counts[choice], -choice))
        for at in places:
            if chosen[at] != most:
                entries[at] = replace(entries[at], choices=(plan.entries[at].choices[most],))
    return entries


def _connected(places: Sequence[int], pairs: Sequence[tuple[int, int]]) -> list[tuple[int, ...]]:
    """Return the sets of places that pairs join, those of more than one."""
    sets: list[set[int]] = []
    for pair in pairs:
        joined = [each for each in sets if each & {*pair}]
        sets = [each for each in sets if each not in joined] + [{*pair}.union(*joined)]
    return [tuple(place for place in places if place in each) for each in sets]


def _used(uses: Uses, block: Block) -> list[Use]:
    """Return the uses whose roles are known of the array that a block is of."""
    low, high = span(block)
    found = (use for use in uses.found if use.view.name == block.name and use.roles)
    return [use for use in found if use.view.span[0] <= low and high <= use.view.span[1]]


def _alike(ours: list[Use], theirs: list[Use]) -> tuple[Use, Use] | None:
    """Return a use of each program, of the same kind where there is such a pair."""
    pairs = [(one, other) for one in ours for other in theirs]
    return min(pairs, key=lambda pair: pair[0].kind != pair[1].kind, default=None)


def _roles(pair: tuple[Use, Use]) -> set[str]:
    return {*pair[0].roles, *pair[1].roles}


def _count(use: Use, role: str, addresses: np.ndarray) -> np.ndarray:
    """Return what elements count in a role."""
    digits: Digits = use.roles.get(role, ())
    count = np.zeros(addresses.shape, np.int64)
    for size, stride in digits:
        count = count * size + (addresses - use.view.start) // max(stride, 1) % size
    return count


def _addresses(move: Move) -> tuple[np.ndarray, np.ndarray]:
    """Return the addresses of some elements of a move's first block, and where they go in the second's array."""
    rng = np.random.default_rng(0)
    size = int(np.prod(move.axes, dtype=np.int64))
    chosen = np.unique(np.concatenate([rng.integers(0, size, SAMPLES), [0, size - 1]]))
    laid = (
        np.ravel_multi_index(tuple(np.unravel_index(chosen, move.axes)[axis] for axis in move.order), move.laid)
        if move.axes
        else chosen
    )
    return _address(move.first, chosen), _address(move.second, laid)


def _address(block: Block, places: np.ndarray) -> np.ndarray:
    if not block.sizes:
        return places
    index = np.unravel_index(places, block.sizes)
    strides = strides_of(block.split)
    return sum((at + start) * stride for at, (start, _), stride in zip(index, block.spans, strides, strict=True))  # pyright: ignore[reportReturnType]
