"""Trial runs: both programs run under a possible map, and the error of their outputs.

error(map) = |second(map.forward(x)) - first(x)| / |first(x)|

What they hold besides parameters, such as running statistics, is carried over too: it would hide which map is right.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from attention.parity.adapters import Arrays, Call, Program
from attention.parity.param_mapping.candidates import Plan
from attention.parity.param_mapping.param_map import ParamMap
from attention.parity.param_mapping.state_pairing import Pairs, carried, load_state, paired
from attention.parity.param_mapping.value_search import FLOATS
from attention.spec.errors import AttentionError

NOISE = 0.3
"""Of what is added to the parameters, relative to their size."""


@dataclass
class Trial:
    """Both programs on one call, and how often they ran.

    Args:
        first: the first program.
        second: the second.
        call: the inputs.
        crossed: parameters of one program that are state of the other.
    """

    first: Program
    second: Program
    call: Call
    crossed: Pairs = ()
    runs: int = field(default=0, init=False)
    failure: str = field(default="", init=False)
    _stated: dict[Pairs, Program] = field(default_factory=dict["Pairs", Program], init=False, repr=False)

    def error(self, plan: Plan, values: Arrays) -> float:
        """Return the relative error of the second's outputs, infinite where they cannot be compared.

        Args:
            plan: whose map carries the values over.
            values: of matched parameters of the first.
        """
        wanted = self.outputs(self.first, plan.map.backward(plan.map.forward(values)))
        return self.distance(plan.map, values, wanted)

    def distance(self, found: ParamMap, values: Arrays, wanted: Arrays | None) -> float:
        """Return how far the second's outputs are from `wanted`, with values carried over by a map."""
        given = {**found.forward(values), **self._carried[0]}
        made = None if wanted is None else self.outputs(self.stated(found), given)
        return float("inf") if made is None or wanted is None else difference(wanted, made)

    def stated(self, found: ParamMap) -> Program:
        """Return the second program with the first's state: other statistics of a norm would hide which map is right."""
        if not self.state[1]:
            return self.second
        pairs = tuple(paired(*self.state, found))
        # Another program has to be compiled anew.
        if pairs not in self._stated:
            program = load_state((self.first, self.second), ("", ""), found, "first").programs[1]
            self._stated[pairs] = program.holding(self._carried[1]) if self._carried[1] else program
        return self._stated[pairs]

    @cached_property
    def _carried(self) -> tuple[Arrays, Arrays]:
        """The second's parameters, and its state, that are crossed with those of the first."""
        return carried((self.first, self.second), self.crossed, "first")

    @cached_property
    def state(self) -> tuple[Arrays, Arrays]:
        """What both hold besides their parameters."""
        return self.first.state, self.second.state

    def outputs(self, program: Program, values: Arrays) -> Arrays | None:
        """Return what a program makes with some of its parameters replaced, or None where it fails."""
        self.runs += 1
        own = program.params
        try:
            return program.run(
                self.call, params={**own, **{name: x.astype(own[name].dtype) for name, x in values.items()}}
            ).outputs
        except AttentionError as error:
            self.failure = self.failure or str(error)
            return None


def difference(wanted: Arrays, made: Arrays) -> float:
    """Return the largest relative error of the float outputs, in whatever layout; infinite where they do not fit.

    Outputs that have the same names are compared by name, others in order.
    """
    names = wanted.keys() == made.keys()
    pairs = (
        [(x, made[name]) for name, x in wanted.items()] if names else list(zip(wanted.values(), made.values(), strict=False))
    )
    worst, compared = 0.0, False
    for one, other in pairs:
        if one.size != other.size:
            return float("inf")
        ours, theirs = (np.asarray(x, np.float64).ravel() for x in (one, other))
        if one.shape != other.shape:
            ours, theirs = np.sort(ours), np.sort(theirs)
        finite = np.isfinite(ours)
        if not np.array_equal(finite, np.isfinite(theirs)):
            return float("inf")
        size = float(np.sqrt(np.sum(ours[finite] ** 2)))
        away = float(np.sqrt(np.sum((ours[finite] - theirs[finite]) ** 2)))
        compared |= size > 0
        worst = max(worst, away / size if size else (0.0 if away == 0 else float("inf")))
    return worst if compared else float("inf")


def noisy(plan: Plan, seed: int = 0) -> Arrays:
    """Return the first's matched parameters with noise, so that no bias is zero and no kernel symmetric."""
    rng = np.random.default_rng(seed)
    moved = {move.first.name for move in (*plan.map.moves, *plan.map.added)}
    found: Arrays = {}
    for name, array in plan.first.items():
        if name in moved and array.dtype.kind not in FLOATS:
            found[name] = array
        elif name in moved:
            size = float(np.sqrt(np.mean(np.square(array.astype(np.float64)))))
            noise = NOISE * (size or NOISE) * rng.standard_normal(array.shape, np.float32)
            # NumPy makes a number of an array without axes.
            found[name] = np.asarray(array + noise, None if array.dtype.kind == "V" else array.dtype)
    return found
