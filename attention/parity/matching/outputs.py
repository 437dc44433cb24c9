"""Outputs: when neither values nor names decide, both programs are run, and the map that makes them agree is kept.

    error(map) = |second(map.forward(x)) - first(x)| / |first(x)|        for random x

One question is asked at a time. While another is open, x is blind to it: elements that its answers would exchange are equal
(a kernel that may be transposed is symmetric; projections that may be swapped are the same), so no answer to it matters.
The number of runs is the number of answers, not their product.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import coo_array  # pyright: ignore[reportMissingTypeStubs]
from scipy.sparse.csgraph import connected_components  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

from attention.parity.matching.layout import Pool
from attention.parity.matching.param_map import ParamMap
from attention.parity.matching.plan import Plan, Question, questions
from attention.parity.programs import Arrays, Call, Program
from attention.spec.errors import AttentionError

MOST_RUNS = 200
AGREES = 1e-3
"""The largest relative error of float32 outputs that are said to agree."""
APART = 10.0
"""How much larger the error of a map must be to be told from the best."""
CLEARER = 0.5
"""Where no map agrees, how small the best error must be, relative to the present map's, to change it."""
FLOOR = 1e-7
NOISE = 0.3


@dataclass
class Trial:
    """Both programs on one call, and how often they ran.

    Args:
        first: the first program.
        second: the second.
        call: the inputs.
    """

    first: Program
    second: Program
    call: Call
    runs: int = field(default=0, init=False)
    failure: str = field(default="", init=False)

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
        made = None if wanted is None else self.outputs(self.second, found.forward(values))
        return float("inf") if made is None or wanted is None else difference(wanted, made)

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


def decide(plan: Plan, trial: Trial) -> tuple[Plan, tuple[str, ...]]:
    """Return the plan with its open questions answered by the outputs, and those that remain, in words.

    Args:
        plan: the open map.
        trial: the two programs.
    """
    if not any(entry.evidence != "values" for entry in plan.entries) and not questions(plan):
        return plan, ()
    values = noisy(plan)
    agreed = trial.error(plan, values) <= AGREES
    if trial.failure:
        return plan, tuple(q.text(plan, len(q.answers(plan))) + f"; not asked: {trial.failure}" for q in questions(plan))
    ties: list[str] = []
    asked: set[int] = set()
    waiting = questions(plan)
    while waiting:
        question = waiting.pop(0)
        rest = [left for other in questions(plan) if (left := other.without(question)).places]
        plan, tie = _ask(question, plan, trial, values if agreed else blind(plan, values, rest))
        asked |= {*question.places}
        if tie and not agreed and question.split():
            waiting = question.split() + waiting
        elif tie:
            ties.append(tie)
    final = trial.error(plan, values)
    return _confirmed(plan, final, asked), tuple(ties)


def _confirmed(plan: Plan, error: float, asked: Iterable[int]) -> Plan:
    """Return the plan whose evidence says whether outputs agree in the end."""
    entries = enumerate(plan.entries)
    if error <= AGREES:
        return plan.said((at for at, entry in entries if entry.evidence != "values"), "outputs agree")
    for at in asked:
        count = len(plan.entries[at].choices)
        plan = plan.said([at], f"best of {max(count, 2)}, outputs still differ ({error:.2g})")
    return plan


def _ask(question: Question, plan: Plan, trial: Trial, values: Arrays) -> tuple[Plan, str]:
    """Return the plan with the best answer, and what remains untold, or ""."""
    answers = question.answers(plan)
    if trial.runs + len(answers) + 1 > MOST_RUNS:
        return plan, f"{question.text(plan, len(answers))}; not asked: {MOST_RUNS} runs are the most"
    wanted = trial.outputs(trial.first, plan.map.backward(plan.map.forward(values)))
    errors = [trial.distance(answer.map, values, wanted) for answer in answers]
    best = min(errors)
    if best > AGREES:
        winner = answers[errors.index(best)] if best <= CLEARER * errors[0] else plan
        clear = sum(error <= best / CLEARER for error in errors) == 1
        return winner, "" if clear else f"{question.text(plan, len(answers))}; none makes the outputs agree"
    good = [at for at, error in enumerate(errors) if error <= AGREES and error <= APART * max(best, FLOOR)]
    tie = "" if len(good) == 1 else f"{question.text(plan, len(answers))}; the outputs agree under {len(good)} of them"
    return answers[good[0]], tie


def noisy(plan: Plan, seed: int = 0) -> Arrays:
    """Return the first's matched parameters with noise, so that no bias is zero and no kernel symmetric."""
    rng = np.random.default_rng(seed)
    moved = {move.first.name for move in plan.map.moves}
    found: Arrays = {}
    for name, array in plan.first.items():
        if name in moved:
            size = float(np.sqrt(np.mean(np.square(array.astype(np.float64)))))
            found[name] = array + NOISE * (size or NOISE) * rng.standard_normal(array.shape)
    return found


def blind(plan: Plan, values: Arrays, open_questions: list[Question]) -> Arrays:
    """Return the values with those elements made equal that the answers to open questions would exchange.

    Args:
        plan: the open map.
        values: of the first's matched parameters.
        open_questions: those that no answer shall matter to.
    """
    pool = Pool({name: array.shape for name, array in values.items()})
    size = int(pool.starts[-1])
    carried = _addresses(plan, pool)
    ends = [
        (carried[name], other[name])
        for q in open_questions
        for other in (_addresses(a, pool) for a in q.answers(plan)[1:])
        for name in carried
    ]
    apart = [(one[one != other], other[one != other]) for one, other in ends if one.shape == other.shape]
    if not apart:
        return values
    rows, columns = (np.concatenate([pair[side] for pair in apart]) for side in (0, 1))
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(size, size))
    # SciPy, which comes with JAX, says nothing of its types.
    labels: np.ndarray = connected_components(graph, directed=False)[1]  # pyright: ignore[reportUnknownVariableType]
    first = np.zeros(size, int)
    first[labels[::-1]] = np.arange(size)[::-1]
    flat = np.concatenate([array.ravel() for array in values.values()])[first[labels]]
    return {
        name: flat[start : start + x.size].reshape(x.shape)
        for (name, x), start in zip(values.items(), pool.starts, strict=False)
    }


def _addresses(plan: Plan, pool: Pool) -> Arrays:
    """Return where each element of the second's arrays comes from."""
    return plan.map.forward(pool.labels())
