"""Rounding differences: whether rounding in the dtype of the run explains the difference of two arrays.

|t - j| <= 4 u max(|t|, |j|)    for each element, where u is the unit roundoff
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from attention.parity.tracing.activation_patching import Pair, possible_layouts
from attention.parity.tracing.backward_slice import BackwardSlice, backward_slice
from attention.parity.tracing.fingerprint import Fingerprint, masked, real
from attention.parity.tracing.trace_alignment import Alignment

ULPS = 4.0
"""Roundings of the programs' dtype that two computations of one array may be apart, relative to each element."""


def near_pairs(state: Alignment, unit: float, tried: set[int]) -> Iterator[Pair]:
    """Yield pairs of arrays on the way to the outputs that are equal within roundings of the programs' dtype, in order."""
    first, second = backward_slices(state)
    prints = state.prints
    left: dict[tuple[int, int, bytes], list[int]] = {}
    for t in first.inside:
        if state.torch.events[t].is_operation and state.torch.events[t].is_float:
            left.setdefault(_key(prints[0][t]), []).append(t)
    # A long program has thousands of arrays of one size, so that they are compared all at once.
    rows = {key: np.stack([prints[0][t].statistics for t in group]) for key, group in left.items()}
    scales = {key: np.array([prints[0][t].scale for t in group]) for key, group in left.items()}
    for j in second.inside:
        event, key = state.jax.events[j], _key(prints[1][j])
        if j in tried or not event.is_operation or not event.is_float or key not in left:
            continue
        most = ULPS * unit * np.maximum(scales[key], prints[1][j].scale)[:, None]
        near = np.flatnonzero((np.abs(rows[key] - prints[1][j].statistics) <= most).all(axis=1))
        yield from ((left[key][n], j) for n in near if _is_near(state, unit, left[key][n], j))


def _key(found: Fingerprint) -> tuple[int, int, bytes]:
    return found.count, found.masked, found.pattern


def _is_near(state: Alignment, unit: float, t: int, j: int) -> bool:
    here, there = state.prints[0][t], state.prints[1][j]
    if (here.count, here.masked, here.pattern) != (there.count, there.masked, there.pattern) or not here.count:
        return False
    if (np.abs(here.statistics - there.statistics) > ULPS * unit * max(here.scale, there.scale)).any():
        return False
    return is_within(state.torch.events[t].value, state.jax.events[j].value, ULPS * unit)


def also_near(state: Alignment, unit: float, pair: Pair) -> list[Pair]:
    """Return the further arrays of JAX that a rounding sets apart from the array of torch, and that have no partner."""
    t, first = pair
    alone = [e.index for e in state.jax.events if e.is_float and e.is_operation and not state.alike[1][e.index]]
    return [(t, j) for j in alone if j != first and _is_near(state, unit, t, j)]


def _as_given(t: np.ndarray, j: np.ndarray) -> list[np.ndarray]:
    """Return the layouts in which two arrays are compared: of one shape as they are, as exchanged axes are a difference."""
    same = t.squeeze().shape == j.squeeze().shape and t.dtype.kind == j.dtype.kind
    return [t.reshape(j.shape)] if same else possible_layouts(t, j)


def backward_slices(state: Alignment) -> tuple[BackwardSlice, BackwardSlice]:
    """Return what differs on the torch side and on the JAX side."""
    ends = zip(*state.unequal, strict=True)
    first, second = (backward_slice(*each) for each in zip((state.torch, state.jax), state.fine, ends, strict=True))
    return first, second


def is_within(t: np.ndarray, j: np.ndarray, limit: float) -> bool:
    """Return whether every element is as far from its counterpart as a limit allows, relative to it, in some layout."""
    for x in _as_given(t, j):
        a, b = real(x), real(j)
        if a.dtype.kind != "f" or (masked(a) != masked(b)).any():
            continue
        seen = ~masked(a)
        if (np.abs(a - b)[seen] <= limit * np.maximum(np.abs(a), np.abs(b))[seen]).all():
            return True
    return False


def distance(t: np.ndarray, j: np.ndarray) -> float:
    """Return the relative RMS distance of two arrays, in the layout in which they are nearest; 1 where none fits."""
    best = 1.0
    for x in _as_given(t, j):
        a, b = (np.asarray(real(each), np.float64) for each in (x, j))
        seen = np.isfinite(a) & np.isfinite(b)
        if not seen.any() or (np.isfinite(a) != np.isfinite(b)).any():
            continue
        size = float(np.sqrt(np.mean(a[seen] ** 2))) or float(np.sqrt(np.mean(b[seen] ** 2))) or 1.0
        best = min(best, float(np.sqrt(np.mean((a - b)[seen] ** 2))) / size)
    return best
