"""Errors of an implementation against float64, over every element.

rms = sqrt(mean((program - float64)^2))        of the output and of each gradient, from the same bits as inputs
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from benchmarks.cases import Case, drawn
from benchmarks.implementations import find
from benchmarks.measure import alone
from benchmarks.programs import Program, build, from_inputs


def errors(case: Case, implementations: Sequence[str]) -> list[dict[str, float]]:
    """Return the error of each implementation, by result.

    Args:
        case: the call; all its scores are made in float64.
        implementations: exact names.

    Raises:
        KernelRefused: a kernel of ours cannot do it.
    """
    with alone(case):
        cotangent = drawn(case, 1)[0][3]
        made = [build(find(name), case, 1).results(cotangent) for name in implementations]
        exact = _exact(case).results(cotangent.astype(np.float64))
    return [{name: _rms(x, exact[name]) for name, x in results.items()} for results in made]


def _exact(case: Case) -> Program:
    """Return the formula in float64 on the very bits that the implementations are given."""
    given = tuple(x.astype(np.float64) for x in drawn(case, 1)[0])
    return from_inputs(find("torch reference"), replace(case, dtype="float64"), given)


def _rms(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.sqrt(np.mean((got.astype(np.float64) - wanted) ** 2)))
