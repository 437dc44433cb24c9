"""Distances between two training runs, and the replicas whose initial weights are perturbed by one rounding unit.

distance(a, b)[n] = root mean square of a[n] - b[n]     replica[n] = w[n] one rounding unit up or down, at random; 0 stays 0
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

from attention.spec.params import Weights

Distances = dict[str, float]


def perturbed(weights: Weights, replica: int) -> Weights:
    """Return weights, each perturbed by one rounding unit of its own, up or down.

    Args:
        weights: the initial weights of the run.
        replica: the number of the replica, the seed of the directions.
    """
    rng = np.random.default_rng(replica)
    return {
        name: np.where(w == 0, w, np.nextafter(w, rng.choice(np.array([-np.inf, np.inf], w.dtype), w.shape)))
        for name, w in weights.items()
    }


def distances(a: Weights, b: Weights) -> Distances:
    """Return the root mean square of the difference of each parameter; NaN and infinity are infinitely far."""
    return {name: _finite(rms(a[name].astype(np.float64) - b[name].astype(np.float64))) for name in a}


def furthest(found: Sequence[Distances]) -> Distances:
    """Return the largest of several distances of each parameter."""
    return {name: max(far[name] for far in found) for name in found[0]}


def sizes(weights: Weights) -> Distances:
    """Return the root mean square of each parameter."""
    return {name: rms(w.astype(np.float64)) for name, w in weights.items()}


def rms(x: np.ndarray) -> float:
    """Return the root mean square; 0 of nothing.

    >>> rms(np.asarray([3.0, -4.0, 0.0, 0.0]))
    2.5
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.sqrt(np.mean(np.square(x)))) if x.size else 0.0


def unit(weights: Weights) -> float:
    """Return half a rounding unit of 1 in the coarsest dtype among weights."""
    info: Any = ml_dtypes.finfo
    return max(float(info(w.dtype).eps) for w in weights.values()) / 2


def _finite(far: float) -> float:
    return far if np.isfinite(far) else np.inf
