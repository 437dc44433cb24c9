"""Parameter values made symmetric, so that the outputs do not depend on chosen ambiguities of the map.

    x[i] = x[j]        for all elements i, j of the first program that some answers would put in the same place of the second

A kernel that may be transposed becomes symmetric, projections that may be exchanged become the same: whatever the answers
to these questions, the second program receives the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy.sparse import coo_array  # pyright: ignore[reportMissingTypeStubs]
from scipy.sparse.csgraph import connected_components  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

from attention.parity.adapters import Arrays
from attention.parity.param_mapping.candidates import Plan
from attention.parity.param_mapping.open_questions import Question
from attention.parity.param_mapping.permutation import Pool

MOST_ELEMENTS = 10**8
"""Over all answers; beyond, nothing is hidden, and questions may have to remain open."""

Pairs = tuple[np.ndarray, np.ndarray]


class SymmetrizedValues:
    """What is equal under the answers to questions about one plan.

    Args:
        plan: the open map.
        values: of the first program's matched parameters.
    """

    def __init__(self, plan: Plan, values: Arrays) -> None:
        self.plan = plan
        self.values = values
        self.pool = Pool({name: array.shape for name, array in values.items()})
        self._pairs: dict[tuple[int, int, bool], Pairs] = {}

    def after(self, plan: Plan, places: Sequence[int]) -> SymmetrizedValues:
        """Return the symmetrized values of the plan in which the layout of some entries has changed."""
        symmetrized = SymmetrizedValues(plan, self.values)
        symmetrized._pairs = {
            key: pairs for key, pairs in self._pairs.items() if not {key[0], key[1] if key[2] else key[0]} & {*places}
        }
        return symmetrized

    def over(self, hidden: Sequence[Question], asked: Question) -> Arrays:
        """Return the values, blind to all `hidden` questions.

        Args:
            hidden: the questions whose answers shall not matter.
            asked: the question whose answers shall.
        """
        keys = [key for question in hidden if question != asked for key in self._keys(question)]
        size = int(self.pool.starts[-1])
        if not keys or size * len(keys) > MOST_ELEMENTS:
            return self.values
        rows, columns = (np.concatenate([self._exchanged(key)[side] for key in keys]) for side in (0, 1))
        graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(size, size))
        # SciPy, which comes with JAX, says nothing of its types.
        labels: np.ndarray = connected_components(graph, directed=False)[1]  # pyright: ignore[reportUnknownVariableType]
        chosen = np.zeros(size, int)
        chosen[labels] = np.arange(size)
        flat = np.concatenate([array.ravel() for array in self.values.values()])[chosen[labels]]
        spans = zip(self.values.items(), self.pool.starts[:-1].tolist(), strict=True)
        return {name: flat[start : start + array.size].reshape(array.shape) for (name, array), start in spans}

    def _keys(self, question: Question) -> list[tuple[int, int, bool]]:
        """Return the single changes of which all answers are made: a swap of neighbours, or one entry's other layout."""
        places = question.places
        if question.siblings:
            return [(one, other, True) for one, other in pairwise(places)]
        return [(place, at, False) for place in places for at in range(1, len(self.plan.entries[place].choices))]

    def _exchanged(self, key: tuple[int, int, bool]) -> Pairs:
        """Return the elements that a change puts in each other's places."""
        if key not in self._pairs:
            one, other, swap = key
            changed = self.plan.swapped(one, other) if swap else self.plan.chosen([one], other)
            now, then = (plan.map.forward(self.pool.labels()) for plan in (self.plan, changed))
            # Of a sum of two it cannot be said which element it is.
            sums = {move.second.name for plan in (self.plan, changed) for move in plan.map.added}
            ends = [(now[name], then[name]) for name in now if name in then and name not in sums]
            moved = [(a[a != b], b[a != b]) for a, b in ends]
            self._pairs[key] = tuple(np.concatenate([np.zeros(0, int), *(pair[side] for pair in moved)]) for side in (0, 1))  # pyright: ignore[reportArgumentType]
        return self._pairs[key]
