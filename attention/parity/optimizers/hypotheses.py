"""Hypotheses: what may be wrong with an optimiser step.

    hypothesis = the contract with one knob turned, or two, or one number of any value

A number that no list has is solved for: the trajectory is a smooth function of it, so Newton's method finds it to all
digits if it is the only thing wrong, and nothing that fits if it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from attention.parity.optimizers.mutations import MISTAKES, StepMistake
from attention.spec.errors import OptionError
from attention.spec.optimizers.optimizer import Step
from attention.spec.optimizers.schedules import Schedule

SOLVED = "solved for"
Residual = Callable[[Step], np.ndarray]
"""How far the trajectory of a step is from what was seen, in standard deviations, as one flat array."""


@dataclass(frozen=True)
class Hypothesis:
    """A step, and what is wrong with it beside the contract; nothing, if `mistakes` is empty."""

    step: Step
    mistakes: tuple[StepMistake, ...] = ()

    @property
    def name(self) -> str:
        """The mistakes' names; "as the contract says" if there are none."""
        return " and ".join(mistake.name for mistake in self.mistakes) or "as the contract says"

    @property
    def solved(self) -> bool:
        """Whether a number in it is no known mistake but was solved for."""
        return any(mistake.source == SOLVED for mistake in self.mistakes)


def hypotheses(step: Step) -> tuple[Hypothesis, ...]:
    """Return what may be wrong with a step: one known mistake each."""
    turned = ((mistake, mistake.turn(step)) for mistake in MISTAKES)
    return tuple(Hypothesis(wrong, (mistake,)) for mistake, wrong in turned if wrong is not None and wrong != step)


def pairs(step: Step) -> Iterator[Hypothesis]:
    """Yield what may be wrong with a step: two known mistakes each, neither of which undoes the other."""
    singles = hypotheses(step)
    order = {mistake.name: number for number, mistake in enumerate(MISTAKES)}
    for first in singles:
        for second in MISTAKES[order[first.mistakes[0].name] + 1 :]:
            both = second.turn(first.step)
            alone = second.turn(step)
            if both is None or (alone is not None and _turned(step, both) != _turned(step, first.step) | _turned(step, alone)):
                continue
            if both not in (step, first.step, alone):
                yield Hypothesis(both, (*first.mistakes, second))


def _turned(right: Step, wrong: Step) -> set[tuple[str, Any]]:
    """Return the options in which two steps of one kind differ, with what they became."""
    return {(f.name, getattr(wrong, f.name)) for f in fields(right) if getattr(right, f.name) != getattr(wrong, f.name)}


@dataclass(frozen=True)
class _Knob:
    """A number of a step, on a scale where its mistakes are evenly far apart."""

    name: str
    starts: np.ndarray
    value: Callable[[float], float]


def _log(x: float) -> float:
    return float(np.exp(x))


def _share(x: float) -> float:
    return -float(np.expm1(x))


_SIZES = np.log(10.0) * np.arange(-12.0, 1.5)
_KNOBS = (
    _Knob("learning_rate", np.log(10.0) * np.arange(-7.0, 2.5), _log),
    _Knob("weight_decay", np.log(10.0) * np.arange(-6.0, 1.5), _log),
    _Knob("eps", _SIZES, _log),
    _Knob("eps_root", _SIZES, _log),
    _Knob("initial", _SIZES[6:], _log),
    *(
        _Knob(name, np.log(10.0) * np.arange(-4.0, 0.0, 0.25), _share)
        for name in ("b1", "b2", "momentum", "dampening", "decay")
    ),
    _Knob("gradient_scale", np.log(2.0) * np.arange(-13.0, 14.0), _log),
    _Knob("clip", np.log(10.0) * np.arange(-4.0, 4.5, 0.5), _log),
)


def solved(step: Step, residual: Residual, told: Collection[str] = ()) -> Iterator[Hypothesis]:
    """Yield the step with one number turned to the value that comes nearest to what was seen, for each number it has.

    Args:
        step: the contract.
        residual: how far a step is from what was seen.
        told: knobs that need no solving, because it is known what is wrong with them.
    """
    for knob in _KNOBS:
        if knob.name not in told and (found := _nearest(knob, step, residual)) is not None:
            yield Hypothesis(found, (_own(knob.name, found, step),))


def neighbours(singles: Iterable[Hypothesis], residual: Residual) -> Iterator[Hypothesis]:
    """Yield known mistakes with the number beside the knob turned as well: a coupled decay of 0.03 for a decoupled of 0.01."""
    for single in singles:
        for knob in _KNOBS:
            if knob.name == _BESIDE.get(single.mistakes[0].knob) and (found := _nearest(knob, single.step, residual)):
                yield Hypothesis(found, (*single.mistakes, _own(knob.name, found, single.step)))


_BESIDE = {
    "decoupled": "weight_decay",
    "decayed": "weight_decay",
    "decay_times_rate": "weight_decay",
    "eps_corrected": "eps",
    "dampening": "momentum",
    "nesterov": "momentum",
    "rate_in_sum": "momentum",
    "clip": "clip",
}


def _own(knob: str, found: Step, step: Step) -> StepMistake:
    name = f"{knob} {_value(found, knob):.6g} for {_value(step, knob):.6g}"
    return StepMistake(name, knob, lambda _: found, "a number that is nobody's default", SOLVED, "any")


def _nearest(knob: _Knob, step: Step, residual: Residual) -> Step | None:
    """Return the step with the best value of one knob: the best start, then Newton's method on the residual."""
    if getattr(step, knob.name, None) is None or isinstance(getattr(step, knob.name), Schedule):
        return None

    def apart(value: float) -> np.ndarray:
        # Outside its range a number explains nothing.
        try:
            return residual(_with(step, knob.name, value))
        except OptionError:
            return np.full(1, np.inf)

    x = min((float(x) for x in knob.starts), key=lambda x: _length(apart(knob.value(x))))
    for _ in range(12):
        x, moved = _newton(x, lambda x: apart(knob.value(x)))
        if moved < 1e-15:
            break
    far = _length(apart(knob.value(x)))
    if not np.isfinite(far):
        return None
    # A person wrote the number, so the round one is it wherever it fits as well.
    rounded = float(f"{knob.value(x):.6g}")
    fits = _length(apart(rounded)) <= max(2.0 * far, 2.0)
    return _with(step, knob.name, rounded if fits else knob.value(x))


def _length(residual: np.ndarray) -> float:
    """Return the root mean square; inf if any element is not finite."""
    with np.errstate(all="ignore"):
        length = float(np.sqrt(np.mean(residual * residual)))
    return length if np.isfinite(length) else np.inf


def _newton(x: float, residual: Callable[[float], np.ndarray]) -> tuple[float, float]:
    """Return a nearer x, and by how much it moved; a step that does not come nearer is shortened."""
    here, width = residual(x), 1e-6
    with np.errstate(all="ignore"):
        slope = (residual(x + width) - residual(x - width)) / (2 * width)
        curve = float(slope @ slope)
    if not (np.isfinite(curve) and curve > 0):
        return x, 0.0
    # The starts are no farther apart than this.
    whole = float(np.clip(-float(slope @ here) / curve, -2.5, 2.5))
    for part in (1.0, 0.5, 0.25, 0.1, 0.01):
        if _length(residual(x + part * whole)) < _length(here):
            return x + part * whole, abs(part * whole)
    return x, 0.0


def _with(step: Step, name: str, value: float) -> Step:
    options: dict[str, Any] = {name: replace(step.clip, most=value) if name == "clip" and step.clip else value}
    return replace(step, **options)


def _value(step: Step, name: str) -> float:
    option: Any = getattr(step, name)
    return float(option.most if name == "clip" else option)
