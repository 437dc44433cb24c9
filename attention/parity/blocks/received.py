"""The inputs that a part of a model received, and which of them correspond to those of its counterpart.

    torch: (hidden, attention_mask=..., position_embeddings=(cos, sin))        jax: (hidden, positions)        hidden <-> hidden

Both parts are then given the first model's array, so that errors of earlier parts do not count against this one. An input
without a counterpart stays as each part received it.
"""

# Calls come from users, with types that strict mode cannot know.
# pyright: standard

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from attention.parity.adapters.program import Call
from attention.parity.numerics.array_kinds import is_float

FARTHEST = 0.5
"""The relative RMS difference up to which two arrays of one shape are taken for the same, but for an earlier difference."""


@dataclass(frozen=True)
class Shared:
    """An array that both parts received.

    Attributes:
        first: its path in the call of the first part.
        second: that in the call of the second.
        apart: the relative RMS difference of the two.
    """

    first: str
    second: str
    apart: float


def shared(first: Call, second: Call) -> list[Shared]:
    """Return the float arrays that both parts received: the nearest of one shape, and the first of each in any case.

    Parts that received no floats, such as an embedding, share their integers.
    """
    return _shared(first, second, floats=True) or _shared(first, second, floats=False)


def _shared(first: Call, second: Call, *, floats: bool) -> list[Shared]:
    ours, theirs = (
        {path: x for path, x in call.leaves.items() if is_float(x) == floats and x.size} for call in (first, second)
    )
    names = list(ours), list(theirs)
    cost = np.full((len(ours), len(theirs)), np.inf)
    for i, one in enumerate(names[0]):
        for j, other in enumerate(names[1]):
            if ours[one].shape == theirs[other].shape:
                cost[i, j] = apart(ours[one], theirs[other])
    found = [
        Shared(names[0][i], names[1][j], float(cost[i, j]))
        for i, j in zip(*linear_sum_assignment(np.minimum(cost, 1e9)), strict=True)
        if cost[i, j] <= FARTHEST
    ]
    # Behind a wrong part, hidden states may be as far apart as any two arrays; they come first in every call.
    if not found and cost.size and np.isfinite(cost[0, 0]):
        found = [Shared(names[0][0], names[1][0], float(cost[0, 0]))]
    # Inputs that are equal in every bit need no exchange, but one input must remain.
    differing = [each for each in found if each.apart > 0]
    return differing or found[:1]


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """Return the RMS difference of two arrays of one shape, over the RMS of the first; equal infinities differ by 0."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    with np.errstate(invalid="ignore"):
        difference = np.where(one == other, 0.0, one - other)
    if not np.isfinite(difference).all():
        return np.inf
    scale = float(np.sqrt(np.mean(np.where(np.isfinite(one), one, 0.0) ** 2)))
    rms = float(np.sqrt(np.mean(difference**2)))
    return 0.0 if rms == 0 else rms / scale if scale else np.inf
