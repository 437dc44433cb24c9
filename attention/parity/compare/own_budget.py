"""A second, wider budget from a program's own operations, for results outside the first one.

    sigma = max(sigma at hand, sigma of its own operations)

Two right programs may sum in another order or recompute an exponential from a rounded logarithm (torch differentiates
logsumexp by exp(x - logsumexp)), so that one loses more than the other. A large pair is judged by the error of the other
program alone, which may have been lucky. Every result of a small pair that stands outside is judged again, of a large pair one
that is near its limit. Of a result of a few numbers, such as a loss, the spread of 8 runs is known within a third only, so that
it is taken from 64. A result that the program makes in float64 too is not judged again: no rounding explains it.
"""

# A program is whatever its user brought, of types that strict mode cannot know.
# pyright: standard

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from attention.parity.adapters.jax_program import JaxProgram
from attention.parity.compare.conventions import Triple
from attention.parity.compare.jax_budget import traced
from attention.parity.compare.oracle import MEDIUM, Oracle, Pair, Question, runs_of, scaled, size
from attention.parity.numerics.comparison import judge
from attention.parity.numerics.error_budget import Budget
from attention.parity.param_mapping.result_pairing import Pairing

NEAR = 1000.0
"""Of a pair with many parameters: how many times its limit a result may stand outside and be judged again. A result that one
program cancels to 0 may be outside by any factor, so that small pairs are always judged again."""

SAME = 0.1
"""How much nearer a result is to the program's own float64 run than to the reference where the mathematics differ."""
FEW, JUST, MORE_RUNS = 16, 3.0, 64
"""Elements of a result that is judged by more runs, how many times its limit it may stand outside, and the runs."""


def widened(
    pair: Pair, index: int, triples: dict[str, Triple], found: Oracle, pairs: Pairing, note: Callable[[Iterable[str]], None]
) -> dict[str, Triple]:
    """Return the results of a program with the larger of two budgets, where the one at hand is not kept.

    Args:
        pair: both programs, and what they were asked.
        index: which of them is judged.
        triples: its results, what they should be, and the budget at hand.
        found: the reference.
        pairs: of the names of both programs.
        note: is told of the budget that was taken.
    """
    most = np.inf if size(pair) < MEDIUM else NEAR
    bad = [name for name, triple in triples.items() if not (v := judge(name, *triple)).agrees and v.badness < most]
    few = [name for name in bad if triples[name][0].size <= FEW and judge(name, *triples[name]).badness < JUST]
    if not bad or (index == found.side and not found.ratio and (few != bad or size(pair) >= MEDIUM)):
        return triples
    perturbed = _operations(pair, index, found)
    budget = _budget(perturbed, MORE_RUNS if few == bad and size(pair) < MEDIUM else runs_of(pair))
    if budget is None:
        return triples
    reference = found.budgets[index].value
    sigmas = pairs.onto(perturbed.index, found.side, budget.sigma, reference)
    own = pairs.onto(perturbed.index, found.side, budget.value, reference)
    # fmax, as a spread that is not known allows nothing, and forbids nothing either.
    wide = {
        name: np.fmax(triples[name][2], np.abs(sigmas[name][0]))
        for name in bad
        if name in sigmas and not (perturbed.index == index and _explained(triples[name], own[name][0]))
    }
    if not wide:
        return triples
    whose = "its own operations" if perturbed.index == index else f"the operations of {perturbed.program.name}"
    note([f"{', '.join(wide)}: {pair[index].program.name} is judged by the rounding of {whose}, which is larger"])
    return {name: (*triple[:2], wide.get(name, triple[2])) for name, triple in triples.items()}


def _explained(triple: Triple, own: np.ndarray) -> bool:
    """Return whether a result is what the program makes in float64 too: then no rounding sets it apart from the reference.

    A rounding or a choice inside of a program may have a spread of any size, which must not hide a mistake.
    """
    got, wanted, _ = triple
    with np.errstate(invalid="ignore", over="ignore"):
        gaps = [np.where(np.isfinite(x), x, 0.0) for x in (got - own, got - wanted)]
    near, far = (float(np.sqrt(np.mean(np.square(gap)))) if gap.size else 0.0 for gap in gaps)
    return near <= SAME * far


def _operations(pair: Pair, index: int, found: Oracle) -> Question:
    """Return the program whose operations are perturbed: of a large pair the torch one, which holds one run at a time."""
    return next((each for each in pair if found.ratio and hasattr(each.program, "bind")), pair[index])


def _budget(question: Question, runs: int) -> Budget | None:
    data = question.program, question.call, question.params, question.cotangents
    try:
        if isinstance(question.program, JaxProgram):
            return scaled(
                question, traced(question.program, *data[1:], dtype=question.counted, casts=question.casts, runs=runs)
            )
        if hasattr(question.program, "bind") and not question.casts:
            from attention.parity.compare.torch_budget import perturbed  # noqa: PLC0415 - only this way needs torch

            return scaled(question, perturbed(*data, dtype=question.counted, runs=runs))
    except Exception:  # noqa: BLE001 - a program that cannot be perturbed is judged by the budget at hand
        return None
    return None
