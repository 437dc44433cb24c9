"""Rounding of the optimiser's own numbers: optax holds them in float32, torch in float64.

    slow(b, t) = |(1 - f32(b)^t) / (1 - b^t) - 1| + u / (1 - b^t)        a bias correction in float32
    share(t)   = 4 u + sum over the step's corrections of slow           of the distance that a parameter moves in step t
    leak(t)    = |f32(1 - r w) - (1 - r w)|                              of the parameter itself, by a decoupled decay

u = 2^-24 is half a unit of float32. At b2 = 0.999 Adam's correction is thereby known to 1e-5: a hundred times as coarsely as
its gradients, at every step, and always with the same sign, so that no perturbed replica of one framework shows it.
"""

from __future__ import annotations

import numpy as np

from attention.spec.optimizers.optimizer import Step
from attention.spec.optimizers.schedules import rate
from attention.spec.optimizers.steps import SGD, Adam

UNIT = 2.0**-24


def share(step: Step, count: int) -> float:
    """Return of the way that a parameter goes in a step the share that is rounding of the step's own numbers.

    Args:
        step: the optimiser's.
        count: of steps before this one.

    >>> share(Adam(1e-3), 0) > 1e-5 > share(Adam(1e-3, b2=0.95), 0)
    True
    """
    # What is a root, halves an error below it.
    corrections: list[tuple[float, float]] = []
    if isinstance(step, Adam) and step.bias_correction:
        corrections = [(step.b1, 1.0), (step.b2, 0.5)]
    elif isinstance(step, SGD) and step.debias:
        corrections = [(step.momentum, 1.0)]
    return 4 * UNIT + sum(weight * slow(b, count + 1) for b, weight in corrections)


def slow(b: float, t: int) -> float:
    """Return the relative error of 1 - b^t in float32."""
    exact = 1.0 - b**t
    return abs(1.0 - float(np.float32(b)) ** t - exact) / exact + UNIT / exact


def leak(step: Step, count: int) -> float:
    """Return of a parameter the share by which its decoupled decay is rounded in a step."""
    if not (step.decoupled and step.weight_decay):
        return 0.0
    decay = step.weight_decay * (rate(step.learning_rate, count + step.first_count) if step.decay_times_rate else 1.0)
    return abs(float(np.float32(1.0 - decay)) - (1.0 - decay))
