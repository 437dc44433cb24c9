"""Hypotheses about an optimiser step: the contract with one mutation, with two, or with one number of any value.

A number that is in no list is solved for by Newton's method, since the trajectory is a smooth function of it. It is found to
all digits if it is the only mistake; otherwise the best value does not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from attention.parity.mutations.catalog_optimizers import STEP_MUTATIONS
from attention.parity.mutations.mutation import Mutation
from attention.spec.errors import OptionError
from attention.spec.optimizers.optimizer import Step
from attention.spec.optimizers.schedules import Schedule

SOLVED = "solved for"
Residual = Callable[[Step], np.ndarray]
"""The distance of a step's trajectory from the observed one, in standard deviations, as one flat array."""


@dataclass(frozen=True)
class Hypothesis:
    """A step, and how it differs from the contract; not at all if `mutations` is empty."""

    step: Step
    mutations: tuple[Mutation, ...] = ()

    @property
    def name(self) -> str:
        """The names of the mutations; "as the contract says" if there are none."""
        return " and ".join(mutation.name for mutation in self.mutations) or "as the contract says"

    @property
    def solved(self) -> bool:
        """Whether it has a number that was solved for."""
        return any(mutation.source == SOLVED for mutation in self.mutations)


def hypotheses(step: Step) -> tuple[Hypothesis, ...]:
    """Return the hypotheses of one known mutation each."""
    mutated = ((mutation, mutation.operator(step)) for mutation in STEP_MUTATIONS)
    return tuple(Hypothesis(wrong, (mutation,)) for mutation, wrong in mutated if wrong is not None and wrong != step)


def pairs(step: Step) -> Iterator[Hypothesis]:
    """Yield the hypotheses of two known mutations each, neither of which undoes the other."""
    singles = hypotheses(step)
    order = {mutation.name: number for number, mutation in enumerate(STEP_MUTATIONS)}
    for first in singles:
        for second in STEP_MUTATIONS[order[first.mutations[0].name] + 1 :]:
            both = second.operator(first.step)
            alone = second.operator(step)
            if both is None or (
                alone is not None and _changed(step, both) != _changed(step, first.step) | _changed(step, alone)
            ):
                continue
            if both not in (step, first.step, alone):
                yield Hypothesis(both, (*first.mutations, second))


def _changed(right: Step, wrong: Step) -> set[tuple[str, Any]]:
    """Return the options in which two steps of one kind differ, with what they became."""
    return {(f.name, getattr(wrong, f.name)) for f in fields(right) if getattr(right, f.name) != getattr(wrong, f.name)}


@dataclass(frozen=True)
class _Scalar:
    """A number of a step, on a scale where its usual wrong values are evenly spaced."""

    name: str
    starts: np.ndarray
    value: Callable[[float], float]


def _log(x: float) -> float:
    return float(np.exp(x))


def _share(x: float) -> float:
    return -float(np.expm1(x))


_SIZES = np.log(10.0) * np.arange(-12.0, 1.5)
_SCALARS = (
    _Scalar("learning_rate", np.log(10.0) * np.arange(-7.0, 2.5), _log),
    _Scalar("weight_decay", np.log(10.0) * np.arange(-6.0, 1.5), _log),
    _Scalar("eps", _SIZES, _log),
    _Scalar("eps_root", _SIZES, _log),
    _Scalar("initial", _SIZES[6:], _log),
    *(
        _Scalar(name, np.log(10.0) * np.arange(-4.0, 0.0, 0.25), _share)
        for name in ("b1", "b2", "momentum", "dampening", "decay")
    ),
    _Scalar("gradient_scale", np.log(2.0) * np.arange(-13.0, 14.0), _log),
    _Scalar("clip", np.log(10.0) * np.arange(-4.0, 4.5, 0.5), _log),
)


def solved(step: Step, residual: Residual, known: Collection[str] = ()) -> Iterator[Hypothesis]:
    """Yield the step with one number set to the value nearest to the observed trajectory, for each number it has.

    Args:
        step: the contract.
        residual: of a step.
        known: numbers that are not solved for, since a known mutation of them explains the program.
    """
    for kind in _SCALARS:
        if kind.name not in known and (found := _nearest(kind, step, residual)) is not None:
            yield Hypothesis(found, (_own(kind.name, found, step),))


def neighbours(singles: Iterable[Hypothesis], residual: Residual) -> Iterator[Hypothesis]:
    """Yield known mutations with a related number solved for: a coupled decay of 0.03 for a decoupled one of 0.01."""
    for single in singles:
        for kind in _SCALARS:
            if kind.name == _BESIDE.get(single.mutations[0].kind) and (found := _nearest(kind, single.step, residual)):
                yield Hypothesis(found, (*single.mutations, _own(kind.name, found, single.step)))


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


def _own(kind: str, found: Step, step: Step) -> Mutation:
    name = f"{kind} {_value(found, kind):.6g} for {_value(step, kind):.6g}"
    return Mutation(name, lambda _: found, kind, "a number that is nobody's default", SOLVED)


def _nearest(kind: _Scalar, step: Step, residual: Residual) -> Step | None:
    """Return the step with the best value of one number: the best start, then Newton's method on the residual."""
    if getattr(step, kind.name, None) is None or isinstance(getattr(step, kind.name), Schedule):
        return None

    def apart(value: float) -> np.ndarray:
        # Outside its range a number explains nothing.
        try:
            return residual(_with(step, kind.name, value))
        except OptionError:
            return np.full(1, np.inf)

    x = min((float(x) for x in kind.starts), key=lambda x: _length(apart(kind.value(x))))
    for _ in range(12):
        x, moved = _newton(x, lambda x: apart(kind.value(x)))
        if moved < 1e-15:
            break
    far = _length(apart(kind.value(x)))
    if not np.isfinite(far):
        return None
    # A person wrote the number, so the round one is it wherever it fits as well.
    rounded = float(f"{kind.value(x):.6g}")
    fits = _length(apart(rounded)) <= max(2.0 * far, 2.0)
    return _with(step, kind.name, rounded if fits else kind.value(x))


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
