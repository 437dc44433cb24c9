"""Fit one number of a contract, such as its scale, to the outputs of a program.

    minimise over x:  sum ((output - oracle(right * exp x)) / spread)^2        Gauss-Newton, damped

A scale wrong by 0.003 % is in no list, but its value follows from the outputs if it is the only mistake.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from attention.parity.diagnosis.evidence import NEAR, Observation
from attention.parity.mutations.mutation import FittedScalar, Mutation
from attention.parity.mutations.operators import compose

STEPS, SLOPE, LARGEST = 12, 1e-4, 3.0
"""Iterations; the step of the slope, and the largest step, both of the logarithm."""
QUESTIONS = 2
"""How many observations a number is fitted to; the others then test it."""
STALLED = 0.9
"""A step that leaves more of the residual than this is not converging; two of them end the search."""

Residual = Callable[[float], "np.ndarray | None"]


def fit(scalar: FittedScalar, base: Mutation | None, observations: Sequence[Observation]) -> Mutation | None:
    """Return the mutation with the best value of a number, or None if no value comes near.

    Args:
        scalar: the number.
        base: a mutation that is applied as well, or None.
        observations: those with wrong outputs.
    """
    best: tuple[float, float] | None = None
    residual = _residual(scalar, base, observations[:QUESTIONS])
    for start in (scalar.right, *scalar.starts):
        found = _descend(residual, math.log(start / scalar.right))
        if found is not None and (best is None or found[1] < best[1]):
            best = found
            if best[1] <= NEAR:
                break
    if best is None or best[1] > NEAR:
        return None
    mutation = scalar.at(scalar.right * math.exp(best[0]))
    if base is None:
        return mutation
    return Mutation(
        f"{base.name} AND {mutation.name}", compose(base.operator, mutation.operator), f"{base.kind} + {mutation.kind}"
    )


def _residual(scalar: FittedScalar, base: Mutation | None, observations: Sequence[Observation]) -> Residual:
    def residual(x: float) -> np.ndarray | None:
        operator = scalar.with_value(scalar.right * math.exp(x))
        operator = operator if base is None else compose(base.operator, operator)
        rows: list[np.ndarray] = []
        for observation in observations:
            made = observation.made(operator)
            if made is None:
                return None
            with np.errstate(invalid="ignore"):
                rows.append((made - observation.given) / observation.spread)
        stacked = np.concatenate(rows)
        return stacked if np.isfinite(stacked).all() else None

    return residual


def _descend(residual: Residual, x: float) -> tuple[float, float] | None:
    """Return the best x and its RMS residual, or None where the residual is not finite."""
    r = residual(x)
    stalls = 0
    for _ in range(STEPS):
        ahead = None if r is None else residual(x + SLOPE)
        if r is None or ahead is None:
            return None
        slope = (ahead - r) / SLOPE
        steep = float(slope @ slope)
        if steep == 0.0:
            break
        step = float(np.clip(-(slope @ r) / steep, -LARGEST, LARGEST))
        before = _rms(r)
        x, r = _shorter(residual, x, r, step)
        stalls = stalls + 1 if _rms(r) > STALLED * before else 0
        if stalls == 2 or abs(step) < 1e-12:
            break
    return None if r is None else (x, _rms(r))


def _shorter(residual: Residual, x: float, r: np.ndarray, step: float) -> tuple[float, np.ndarray]:
    """Return where a step leads, halved until it leads down; the start if none does."""
    for _ in range(6):
        other = residual(x + step)
        if other is not None and _rms(other) <= _rms(r):
            return x + step, other
        step /= 2
    return x, r


def _rms(r: np.ndarray) -> float:
    return float(np.sqrt(np.mean(r**2)))
