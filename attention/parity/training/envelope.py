"""The divergence bound (envelope): how far two correct runs of one recipe may be apart.

    spread[t] = max over s <= 1.5 t of the distance of the furthest perturbed replica from its run after step s
    own[t]    = A[t] sum over s <= t of share[s] |w[s] - w[s-1]| + leak[s] |w[s]|      rounding of the optimiser's own numbers
    inside  <=>  |torch - jax|[t] <= 4 spread[t] + 2 own[t] + 2 u max |w|              for each parameter, root mean squares
            and  |loss_torch - loss_jax|[t] <= 16 spread of losses + 2 A share (max - min of losses) + 32 u max |loss|

A[t] is the distance of the median parameter's furthest replica, divided by twice its first distance, and at least 1: early
rounding grows as the replicas' distance does. The spread of a parameter, relative to the distance it has moved, is at least
that of the median parameter: two replicas of a scalar may be close by accident.

The factors are measured on runs of the named contracts that differ only by framework:
`parity_tests/parity/training/test_envelope.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

FACTOR, OWN, FLOOR = 4.0, 2.0, 2.0
LOSS_FACTOR, LOSS_FLOOR = 16.0, 32.0
"""A loss is one number, and two replicas may be close by accident: Student's t of 2 degrees is beyond 16 once in 260."""
AHEAD = 1.5
"""How many times as many steps a replica may need to be as far: runs may diverge tenfold in ten steps, by chance."""

Curves = Mapping[str, np.ndarray]
"""By parameter, a number for each step at which weights were compared."""


@dataclass(frozen=True)
class EnvelopeExit:
    """The point where a run leaves the envelope.

    Attributes:
        step: counted from 1.
        what: a parameter's name, or "loss".
        distance: of the two frameworks.
        most: the envelope.
    """

    step: int
    what: str
    distance: float
    most: float

    @property
    def ratio(self) -> float:
        """The distance, relative to the envelope."""
        return self.distance / self.most if self.most else np.inf

    def __str__(self) -> str:
        times = f"{self.ratio:.3g} times the envelope of {self.most:.2e}"
        return f"{self.what} at step {self.step}: {self.distance:.2e} apart, {times}"


@dataclass(frozen=True, eq=False)
class Runs:
    """The measured distances of all runs.

    Args:
        counts: elements of each parameter.
        watched: the steps after which weights were compared, counted from 0.
        apart: the distance of torch from JAX, each a root mean square.
        spread: the distance of the furthest replica from JAX.
        size: of JAX's parameters.
        gone: the distance that JAX has moved since the last comparison.
        first: the initial distance of the furthest replica.
        share: the rounding of the optimiser's numbers at every step, relative to the step.
        leak: the same, relative to the parameter.
        unit: half a rounding unit of 1.
    """

    counts: Mapping[str, int]
    watched: np.ndarray
    apart: Curves
    spread: Curves
    size: Curves
    gone: Curves
    first: Mapping[str, float]
    share: np.ndarray
    leak: np.ndarray
    unit: float

    @property
    def growth(self) -> np.ndarray:
        """A, at each comparison; never less than 1."""
        # Not the mean: a parameter whose gradient is pure rounding moves as far as any other.
        grown = [np.maximum.accumulate(far) / (2 * self.first[name]) for name, far in self.spread.items() if self.first[name]]
        return np.maximum(np.median(grown, axis=0), 1.0) if grown else np.ones(self.watched.size)

    def envelope(self) -> dict[str, np.ndarray]:
        """Return the largest allowed distance of each parameter, at each comparison."""
        # Leaks add up over the steps between two comparisons; of their shares the largest counts.
        since = np.concatenate([[0], self.watched[:-1] + 1])
        share, leak = np.maximum.reduceat(self.share, since), np.add.reduceat(self.leak, since)
        way = {name: np.cumsum(gone) for name, gone in self.gone.items()}
        widest = {name: _ahead(spread, self.watched) for name, spread in self.spread.items()}
        usual = _usual(widest, way)
        return {
            name: FACTOR * np.maximum(widest[name], usual * way[name])
            + OWN * self.growth * np.cumsum(share * self.gone[name] + leak * self.size[name])
            + FLOOR * self.unit * np.maximum.accumulate(self.size[name])
            for name in self.apart
        }

    def loss_envelope(self, losses: np.ndarray, replicas: np.ndarray) -> np.ndarray:
        """Return the largest allowed distance of the losses, at every step.

        Args:
            losses: of JAX, `(steps,)`.
            replicas: of the replicas, `(replicas, steps)`.
        """
        spread = _ahead(np.abs(replicas - losses).max(axis=0), np.arange(losses.size))
        last = np.searchsorted(self.watched, np.arange(losses.size), side="right") - 1
        growth = self.growth[np.maximum(last, 0)]
        fall = np.maximum.accumulate(losses) - np.minimum.accumulate(losses)
        ahead = np.cumsum(self.share) / np.arange(1, losses.size + 1)
        size = np.maximum.accumulate(np.abs(losses))
        return LOSS_FACTOR * spread + OWN * growth * ahead * fall + LOSS_FLOOR * self.unit * size


def _ahead(spread: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return the largest spread up to `AHEAD` times as many steps, or up to the last."""
    last = np.searchsorted(steps + 1, AHEAD * (steps + 1), side="right") - 1
    return np.maximum.accumulate(spread)[last]


def _usual(spread: Curves, way: Curves) -> np.ndarray:
    """Return the median parameter's spread relative to the distance it has moved; 0 while none has moved."""
    with np.errstate(divide="ignore", invalid="ignore"):
        beside = np.stack([np.where(way[name] > 0, spread[name] / way[name], np.nan) for name in spread])
    rows = [column[np.isfinite(column)] for column in beside.T]
    return np.array([np.median(row) if row.size else 0.0 for row in rows])


def outside(what: str, steps: np.ndarray, distance: np.ndarray, most: np.ndarray) -> EnvelopeExit | None:
    """Return where a curve first leaves its envelope, or None."""
    left = np.flatnonzero(~(distance <= most))
    return _at(what, steps, distance, most, left[0]) if left.size else None


def worst(what: str, steps: np.ndarray, distance: np.ndarray, most: np.ndarray) -> EnvelopeExit:
    """Return where a curve is farthest outside its envelope, or nearest to it."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(distance > 0, distance / most, 0.0)
    return _at(what, steps, distance, most, int(np.argmax(np.nan_to_num(ratio, nan=np.inf))))


def _at(what: str, steps: np.ndarray, distance: np.ndarray, most: np.ndarray, place: int) -> EnvelopeExit:
    return EnvelopeExit(int(steps[place]) + 1, what, float(distance[place]), float(most[place]))
