"""Learning-rate schedules (linear, cosine, warm-up) and gradient clipping.

    Linear    rate(n) = first + (last - first) min(n, steps) / steps
    Cosine    rate(n) = last + (first - last) (1 + cos(pi min(n, steps) / steps)) / 2
    WarmUp    rate(n) = first n / steps  for n < steps,  then the schedule that follows, counted from 0 again

    Clip      by "global norm"   g <- g min(1, most / (|all g| + eps))
              by "tensor norm"   g <- g min(1, most / (|g| + eps))
              by "value"         g <- min(max(g, -most), most)

The first step of `torch.optim.lr_scheduler` and of `optax` has the rate of n = 0, so a warm-up's first step moves nothing.
torch's `clip_grad_norm_` has eps 1e-6, optax's `clip_by_global_norm` has none.

References:
    Loshchilov and Hutter, arXiv:1608.03983 (cosine); Pascanu et al., arXiv:1211.5063 (clipping by the norm of all).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from attention.spec.axes import Array, dtype_name
from attention.spec.options import FLOATS, NAMESPACE, Option, check_options, checked, is_array, number, one_of, whole

ClipBy = Literal["global norm", "tensor norm", "value"]

RATE = number(0)
STEPS = whole(1, wanted="an int >= 1")
WHOLE = whole(0)
COUNT = Option(
    WHOLE.wanted, lambda value: WHOLE.holds(value) or (is_array(value) and value.shape == () and "int" in dtype_name(value))
)


class Schedule(ABC):
    """A learning rate for every step."""

    @abstractmethod
    def rate(self, count: int) -> float:
        """Return the learning rate of the step that `count` others went before."""


@dataclass(frozen=True)
class LinearRate(Schedule):
    """A straight line from `first` to `last` in `steps` steps, then `last`."""

    first: float
    last: float
    steps: int

    OPTIONS: ClassVar[Mapping[str, Option]] = {"first": RATE, "last": RATE, "steps": STEPS}

    def __post_init__(self) -> None:
        check_options(self, f"{type(self).__name__} ")

    @checked(count=COUNT)
    def rate(self, count: int) -> float:
        return self.first + (self.last - self.first) * min(count, self.steps) / self.steps


@dataclass(frozen=True)
class CosineRate(Schedule):
    """Half a cosine from `first` to `last` in `steps` steps, then `last`."""

    first: float
    steps: int
    last: float = 0.0

    OPTIONS: ClassVar[Mapping[str, Option]] = {"first": RATE, "last": RATE, "steps": STEPS}

    def __post_init__(self) -> None:
        check_options(self, f"{type(self).__name__} ")

    @checked(count=COUNT)
    def rate(self, count: int) -> float:
        share = (1.0 + math.cos(math.pi * min(count, self.steps) / self.steps)) / 2.0
        return self.last + (self.first - self.last) * share


@dataclass(frozen=True)
class WarmUp(Schedule):
    """A straight line from 0 that reaches the first rate of the schedule that follows after `steps` steps.

    >>> [WarmUp(2, LinearRate(1.0, 0.0, 4)).rate(n) for n in range(5)]
    [0.0, 0.5, 1.0, 0.75, 0.5]
    """

    steps: int
    then: Schedule | float

    OPTIONS: ClassVar[Mapping[str, Option]] = {
        "steps": STEPS,
        "then": Option(RATE.wanted, lambda value: isinstance(value, Schedule) or RATE.holds(value)),
    }

    def __post_init__(self) -> None:
        check_options(self, "WarmUp ")

    @checked(count=COUNT)
    def rate(self, count: int) -> float:
        if count < self.steps:
            return rate(self.then, 0) * count / self.steps
        return rate(self.then, count - self.steps)


def rate(schedule: Schedule | float, count: int) -> float:
    """Return the learning rate of step `count`, from 0, of a schedule or of a constant."""
    return schedule.rate(count) if isinstance(schedule, Schedule) else schedule


@dataclass(frozen=True)
class Clip:
    """A bound on the gradients of one step.

    Args:
        most: the bound; > 0.
        by: the bounded quantity.
        eps: added to a norm that is divided by; >= 0. torch has 1e-6, optax 0.
    """

    most: float
    by: ClipBy = "global norm"
    eps: float = 0.0

    OPTIONS: ClassVar[Mapping[str, Option]] = {
        "most": number(above=0),
        "by": one_of(*get_args(ClipBy), wanted=f"one of {', '.join(get_args(ClipBy))}"),
        "eps": RATE,
    }

    def __post_init__(self) -> None:
        check_options(self, "Clip ")

    @checked(xp=NAMESPACE, gradients=FLOATS)
    def clipped(self, xp: Any, gradients: Mapping[str, Array]) -> dict[str, Array]:
        """Return the gradients, none of them longer than the bound."""
        if self.by == "value":
            return {name: xp.clip(g, -self.most, self.most) for name, g in gradients.items()}
        squares = {name: xp.sum(g * g) for name, g in gradients.items()}
        if self.by == "global norm":
            together = sum(squares.values())
            squares = dict.fromkeys(squares, together)
        return {name: g * self._factor(xp, squares[name]) for name, g in gradients.items()}

    def _factor(self, xp: Any, square: Array) -> Array:
        norm = xp.sqrt(square) + self.eps
        # Gradients of nothing are divided by 1, not by 0.
        short = norm <= self.most
        one = xp.ones_like(norm)
        return xp.where(short, one, self.most / xp.where(short, one, norm))
