"""Resampling of images: nearest or linear interpolation, with or without align_corners.

torch = bilinear(x)        jax = nearest(x), or bilinear with align_corners        both made again from torch's own x
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from attention.parity.diagnosis.rules.arrays import near
from attention.parity.diagnosis.rules.operand_pair import Finding, OperandPair

MOST = 200_000
MADE_BY = ("upsample_nearest", "upsample_bilinear", "upsample_linear")


def other_resampling(pair: OperandPair) -> Finding | None:
    """Name how each side makes an image larger, or smaller."""
    values = {event.index: event.value for event in pair.region[0]}
    for event in pair.region[0]:
        x = values.get(event.inputs[0]) if event.op.startswith(MADE_BY) and event.inputs else None
        if x is None or x.ndim < 3 or max(x.size, event.value.size) > MOST:
            continue
        ways = list(_ways(x, event.shape))
        torch = next((name for name, y in ways if near(event.value, y)), "")
        others = [e.value for e in pair.region[1] if e.is_operation and e.value.size == event.value.size]
        jax = [name for name, y in ways if name != torch and any(near(value, y) for value in others)]
        if torch and jax and not any(near(value, event.value) for value in others):
            return Finding(f"resampled {torch} on torch, {jax[0]} on jax", "both made again from torch's array", jax[0], torch)
    return None


def _ways(x: np.ndarray, shape: tuple[int, ...]) -> Iterator[tuple[str, np.ndarray]]:
    for name in ("by nearest elements", "linearly, edges aligned", "linearly, corners aligned"):
        y = x
        for axis in range(2, x.ndim):
            y = np.moveaxis(np.tensordot(_matrix(name, x.shape[axis], shape[axis]), y, (1, axis)), 0, axis)
        yield name, y


def _matrix(name: str, n: int, m: int) -> np.ndarray:
    """Return what m elements are made of, of n."""
    at = np.arange(m)
    if name == "by nearest elements":
        return np.eye(n)[np.minimum(at * n // m, n - 1)]
    place = at * (n - 1) / max(m - 1, 1) if "corners" in name else np.clip((at + 0.5) * n / m - 0.5, 0, n - 1)
    low = np.minimum(place.astype(int), n - 1)
    share = (place - low)[:, None]
    return (1 - share) * np.eye(n)[low] + share * np.eye(n)[np.minimum(low + 1, n - 1)]


RULES = (other_resampling,)
