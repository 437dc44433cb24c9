"""Fitting: the one value of a number that explains what a program answered.

    minimise over x:  sum ((answer - oracle(right * exp x)) / spread)^2        Gauss-Newton, damped

A scale wrong by 0.003 % is not in any list; but if a number alone is wrong, its value follows from the answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from attention.parity.diagnosis.evidence import NEAR, Asked
from attention.parity.mutations.mutation import Dial, Mistake
from attention.parity.mutations.operators import compose

STEPS, SLOPE, LARGEST = 12, 1e-4, 3.0
"""Iterations; the step of the slope, and the largest step, both of the logarithm."""
QUESTIONS = 2
"""How many answers a number is fitted to; the others then judge it."""
STALLED = 0.9
"""A step that leaves more of the residual than this is not converging; two of them end the search."""

Residual = Callable[[float], "np.ndarray | None"]


def fit(dial: Dial, base: Mistake | None, asked: Sequence[Asked]) -> Mistake | None:
    """Return the hypothesis of the dial's best value, beside another mistake if given, or None if no value comes near.

    Args:
        dial: the number.
        base: a mistake that is also made, or None.
        asked: questions that the program answered wrongly.
    """
    best: tuple[float, float] | None = None
    residual = _residual(dial, base, asked[:QUESTIONS])
    for start in (dial.right, *dial.starts):
        found = _descend(residual, math.log(start / dial.right))
        if found is not None and (best is None or found[1] < best[1]):
            best = found
            if best[1] <= NEAR:
                break
    if best is None or best[1] > NEAR:
        return None
    mistake = dial.at(dial.right * math.exp(best[0]))
    if base is None:
        return mistake
    return Mistake(f"{base.name} AND {mistake.name}", compose(base.plant, mistake.plant), f"{base.knob} + {mistake.knob}")


def _residual(dial: Dial, base: Mistake | None, asked: Sequence[Asked]) -> Residual:
    def residual(x: float) -> np.ndarray | None:
        plant = dial.turned(dial.right * math.exp(x))
        plant = plant if base is None else compose(base.plant, plant)
        rows: list[np.ndarray] = []
        for question in asked:
            made = question.made(plant)
            if made is None:
                return None
            with np.errstate(invalid="ignore"):
                rows.append((made - question.given) / question.spread)
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
