"""A program's own budget: what its own operations may lose, where those of the reference lose less.

    sigma = max(sigma of the reference's operations, sigma of its own)

Two right programs may sum in another order or recompute an exponential from a rounded logarithm (torch differentiates
logsumexp by exp(x - logsumexp)), so that one loses more than the other. Only a result that stands just outside is asked again.
"""

# A program is whatever its user brought, of types that strict mode cannot know.
# pyright: standard

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from attention.parity.adapters.jax_program import JaxProgram
from attention.parity.compare.conventions import Triple
from attention.parity.compare.jax_budget import traced
from attention.parity.compare.oracle import Oracle, Question, scaled
from attention.parity.numerics.comparison import judge
from attention.parity.numerics.error_budget import Budget
from attention.parity.param_mapping.result_pairing import Pairing

NEAR = 100.0
"""How many times its limit a result may stand outside and still be within a budget of other operations."""


def widened(
    question: Question, triples: dict[str, Triple], found: Oracle, pairs: Pairing, note: Callable[[Iterable[str]], None]
) -> dict[str, Triple]:
    """Return the results of a program with the larger of two budgets, where that of the reference alone is not kept.

    Args:
        question: the program, and what it was asked.
        triples: its results, what they should be, and the budget of the reference.
        found: the reference.
        pairs: of the names of both programs.
        note: is told of the budget that was taken.
    """
    bad = [name for name, triple in triples.items() if not (v := judge(name, *triple)).agrees and v.badness < NEAR]
    if not bad or question.index == found.side or found.ratio:
        return triples
    budget = _own(question)
    if budget is None:
        return triples
    sigmas = pairs.onto(question.index, found.side, budget.sigma, found.budgets[question.index].value)
    wide = {name: np.maximum(triples[name][2], np.abs(sigmas[name][0])) for name in bad if name in sigmas}
    note([f"{', '.join(wide)}: {question.program.name} is judged by the rounding of its own operations, which is larger"])
    return {name: (*triple[:2], wide.get(name, triple[2])) for name, triple in triples.items()}


def _own(question: Question) -> Budget | None:
    data = question.program, question.call, question.params, question.cotangents
    try:
        if isinstance(question.program, JaxProgram):
            return scaled(question, traced(question.program, *data[1:], dtype=question.counted, casts=question.casts))
        if hasattr(question.program, "bind") and not question.casts:
            from attention.parity.compare.torch_budget import perturbed  # noqa: PLC0415 - only this way needs torch

            return scaled(question, perturbed(*data, dtype=question.counted))
    except Exception:  # noqa: BLE001 - a program that cannot be perturbed is judged by the reference's operations
        return None
    return None
