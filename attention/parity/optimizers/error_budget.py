"""The error budget of an optimiser step: how far correct rounding may move its parameters.

    sigma(float64) = sqrt(2) 2^-29 sigma(float32)        because the formula beside it is rounded in float64 as well

The formula is elementwise except for a clip and for Adafactor. So all tensors of rank 2 and more are run as one array, and all
others as another; Adafactor runs each tensor by itself.
"""

# JAX leaves the types of its arrays unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from attention.parity.numerics.error_budget import budget
from attention.parity.optimizers.adapters import Trajectory, formula, steps_of
from attention.parity.optimizers.hypotheses import Hypothesis
from attention.parity.optimizers.probe import Arrays, StepProbe
from attention.spec.errors import DTypeError
from attention.spec.optimizers.optimizer import Step

SHARES = {"float32": 1.0, "float64": math.sqrt(2.0) * 2.0**-29}
RUNS = 4


@dataclass(frozen=True)
class _Program:
    # A dataclass and not a closure: two of the same step are equal and share one trace.
    step: Step

    def __call__(self, params: dict[str, Any], gradients: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return steps_of(jnp, self.step, params, gradients)


class StepBudgets:
    """The trajectories of steps on one probe, and their budgets in one dtype, cached.

    Args:
        probe: first parameters and gradients.
        dtype: in which, "float32" or "float64".

    Raises:
        DTypeError: another dtype.
    """

    def __init__(self, probe: StepProbe, dtype: str) -> None:
        if dtype not in SHARES:
            raise DTypeError(f"dtype {dtype!r} of a program must be one of {', '.join(SHARES)}")
        self.probe, self.dtype = probe, dtype
        self._made: dict[Step, Trajectory] = {}

    def after(self, step: Step) -> Trajectory:
        """Return the parameters after each step of the formula."""
        groups = self._groups(step)
        small = StepProbe(_grouped(self.probe.params, groups), tuple(_grouped(g, groups) for g in self.probe.gradients))
        return [_single(after, groups, self.probe.params) for after in formula(step, small)]

    def flat(self, step: Step) -> np.ndarray:
        """Return the same in one row."""
        return flat(self.after(step))

    def sigma(self, step: Step) -> Trajectory:
        """Return one standard deviation of every parameter after every step."""
        if step not in self._made:
            groups = self._groups(step)
            gradients = [_grouped(g, groups) for g in self.probe.gradients]
            made = budget(_Program(step), (_grouped(self.probe.params, groups), gradients), dtype="float32", runs=RUNS)
            self._made[step] = [_single(after, groups, self.probe.params, SHARES[self.dtype]) for after in made.sigma]
        return self._made[step]

    def _groups(self, step: Step) -> dict[str, list[str]]:
        params = self.probe.params
        if not step.ELEMENTWISE or (step.clip is not None and step.clip.by == "tensor norm"):
            return {name: [name] for name in params}
        return {
            "matrices": [name for name, p in params.items() if p.ndim > 1],
            "others": [name for name, p in params.items() if p.ndim < 2],
        }


def effective(candidates: Iterable[Hypothesis], contract: Step, budgets: StepBudgets) -> list[Hypothesis]:
    """Return the hypotheses that change the trajectory: a decay of 0 may be coupled or not."""
    right = budgets.flat(contract)
    least = 1e-13 * np.maximum(np.abs(right), 1e-3)
    return [h for h in candidates if not np.all(np.abs(budgets.flat(h.step) - right) <= least)]


def flat(trajectory: Trajectory) -> np.ndarray:
    """Return all parameters after all steps in one row of float64."""
    return np.concatenate([np.ravel(after[name]) for after in trajectory for name in after]).astype(np.float64)


def _grouped(arrays: Arrays, groups: dict[str, list[str]]) -> Arrays:
    """Return one array for each group: a row for matrices, flat for others."""
    made = {group: np.concatenate([np.ravel(arrays[name]) for name in names]) for group, names in groups.items()}
    return {group: x[:, None] if arrays[groups[group][0]].ndim > 1 else x for group, x in made.items()}


def _single(after: Arrays, groups: dict[str, list[str]], like: Arrays, share: float = 1.0) -> Arrays:
    made: Arrays = {}
    for group, names in groups.items():
        ends = np.cumsum([like[name].size for name in names])[:-1]
        parts = np.split(np.ravel(np.asarray(after[group])) * share, ends)
        made |= {name: part.reshape(like[name].shape) for name, part in zip(names, parts, strict=True)}
    return {name: made[name] for name in like}
