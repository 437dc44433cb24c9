"""The probe of an optimiser step: first parameters and gradients that reveal every known mutation.

    |g| from eps / 10 to 30, log-uniform        every eps, inside or outside a root, outweighs some gradient
    some rows 0 in some steps                   running means decay, weight decay continues
    |all g| = most times 0.4, 1.5, 20, ...      some steps are clipped and some are not
    p = 0 for a third                           the first update keeps all its digits in float32

Sizes are unequal primes of ranks 0 to 3, so that biases differ from matrices, and the norm of a tensor from that of all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from attention.spec.optimizers.adafactor import Adafactor
from attention.spec.optimizers.optimizer import Step
from attention.spec.optimizers.schedules import Schedule
from attention.spec.optimizers.steps import Lion

Arrays = dict[str, np.ndarray]

SHAPES = {"kernel": (5, 7), "bias": (7,), "scale": (11,), "heads": (2, 3, 5), "embedding": (13, 3), "temperature": ()}
LOUDNESS = (0.4, 1.5, 0.7, 20.0, 0.05, 1.1, 3.0)
"""The size of the gradients of each step, relative to the bound of the clip, or 1."""


@dataclass(frozen=True, eq=False)
class StepProbe:
    """First parameters, and the gradients of every step, by name, in float64."""

    params: Arrays
    gradients: tuple[Arrays, ...]

    @property
    def steps(self) -> int:
        """The number of steps."""
        return len(self.gradients)


def step_probe(step: Step, seed: int = 0, steps: int = len(LOUDNESS)) -> StepProbe:
    """Return the probe that a contract needs.

    Args:
        step: the contract; the gradients are near its eps and its clip.
        seed: of the numbers.
        steps: how many.
    """
    draws = np.random.default_rng(seed)
    params = {name: _parameter(draws, shape) for name, shape in SHAPES.items()}
    sizes = _sizes(step, draws)
    gradients = tuple(_gradients(draws, sizes, step, number) for number in range(_long_enough(step, steps)))
    return StepProbe(params, gradients)


def _long_enough(step: Step, steps: int) -> int:
    """Return as many steps, at least two after the schedule's last change, and more if the step depends on signs alone."""
    schedule = step.learning_rate
    steps = 3 * steps if isinstance(step, Lion) else steps
    return max(steps, min(length(schedule) + 2, 24)) if isinstance(schedule, Schedule) else steps


def length(schedule: Schedule | float) -> int:
    """Return the number of steps after which the rate is constant."""
    return getattr(schedule, "steps", 0) + length(getattr(schedule, "then", 0.0)) if isinstance(schedule, Schedule) else 0


def _parameter(draws: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    values = draws.normal(size=shape)
    return np.where(draws.random(shape) < 1 / 3, 0.0, values)


def _sizes(step: Step, draws: np.random.Generator) -> Arrays:
    """Return the size of each element's gradients: half of all decades near an eps, half near 1."""
    options: Any = step
    if isinstance(step, Adafactor):
        small = [x for x in (step.floor, math.sqrt(step.eps)) if x]
    else:
        small = [x for x in (getattr(options, "eps", 0.0), math.sqrt(getattr(options, "eps_root", 0.0))) if x]
    least = math.log10(min([*small, 1e-8])) - 1
    return {name: 10 ** draws.uniform(least, 0.5, shape) for name, shape in SHAPES.items()}


def _gradients(draws: np.random.Generator, sizes: Arrays, step: Step, number: int) -> Arrays:
    gradients = {name: size * draws.normal(size=size.shape) for name, size in sizes.items()}
    # Embedding rows of absent tokens have no gradient; in some steps a whole tensor has none.
    gradients["embedding"][draws.random(13) < 0.4] = 0.0
    if number % 3 == 2:
        gradients["heads"][:] = 0.0
    loud = LOUDNESS[number % len(LOUDNESS)]
    if step.clip is None:
        return {name: g * loud for name, g in gradients.items()}
    # Only large gradients are scaled, so that those near eps stay there.
    norm = math.sqrt(sum(float(np.sum(g**2)) for g in gradients.values()))
    factor = loud * step.clip.most / norm
    return {name: np.where(np.abs(g) > 1e-3, g * factor, g) for name, g in gradients.items()}
