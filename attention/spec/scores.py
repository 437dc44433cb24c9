"""Scores: how well a key answers a query.

    Dot          x[t, s] = q[t] . k[s]
    ScaledDot    x[t, s] = q[t] . k[s] * scale            scale = 1 / sqrt(D) unless given
    soft cap     c * tanh(x / c)                          bounds scores to (-c, c)

References:
    Luong et al., arXiv:1508.04025 (dot); Vaswani et al., arXiv:1706.03762, equation 1 (scaled);
    Gemma 2, arXiv:2408.00118, section 2 (soft cap).
"""

# To a type checker a bool is no Real; to Python it is.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

from attention.spec.axes import Array
from attention.spec.errors import OptionError


def is_finite(value: Any) -> bool:
    """Return whether `value` is a finite number, and no bool."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class Dot:
    """The plain dot product, unscaled."""

    def factor(self, head_dim: int) -> float:
        """Return what the dot product is multiplied by: 1."""
        del head_dim
        return 1.0


@dataclass(frozen=True)
class ScaledDot:
    """The dot product times `scale`; None means 1 / sqrt(D).

    >>> ScaledDot().factor(64)
    0.125
    """

    scale: float | None = None

    def __post_init__(self) -> None:
        if self.scale is not None and not is_finite(self.scale):
            raise OptionError(f"scale {self.scale!r} must be a finite number, or None for 1 / sqrt(D)")

    def factor(self, head_dim: int) -> float:
        """Return what the dot product is multiplied by."""
        return 1.0 / math.sqrt(head_dim) if self.scale is None else self.scale


Score = Dot | ScaledDot


def products(xp: Any, q: Array, k: Array) -> Array:
    """Return every query's dot product with every key, grouped heads included.

    Args:
        xp: the array namespace.
        q: `(*batch, T, H, D)`.
        k: `(*batch, S, K, D)`; query head h reads key head `h // (H // K)`.

    Returns:
        `(*batch, H, T, S)`.
    """
    q, k = heads_first(xp, q), heads_first(xp, k)  # (*batch, H, T, D), (*batch, K, S, D)
    *batch, h, t, d = q.shape
    kv, s = k.shape[-3], k.shape[-2]
    # The group folds into the query axis, so that keys are read once and never repeated.
    folded = xp.reshape(q, (*batch, kv, (h // kv) * t, d))
    return xp.reshape(xp.matmul(folded, xp.matrix_transpose(k)), (*batch, h, t, s))


def mix(xp: Any, weights: Array, v: Array) -> Array:
    """Return the weighted sum of values.

    Args:
        xp: the array namespace.
        weights: `(*batch, H, T, S)`.
        v: `(*batch, S, K, E)`.

    Returns:
        `(*batch, T, H, E)`.
    """
    v = heads_first(xp, v)  # (*batch, K, S, E)
    *batch, h, t, s = weights.shape
    kv, e = v.shape[-3], v.shape[-1]
    folded = xp.reshape(weights, (*batch, kv, (h // kv) * t, s))
    return heads_first(xp, xp.reshape(xp.matmul(folded, v), (*batch, h, t, e)))


def heads_first(xp: Any, x: Array) -> Array:
    """Exchange the sequence and head axes: `(*batch, N, H, D)` to `(*batch, H, N, D)`, and back."""
    n = x.ndim
    # Not moveaxis, for which torch.func.vmap has no rule.
    return xp.permute_dims(x, (*range(n - 3), n - 2, n - 3, n - 1))


def soft_cap(xp: Any, scores: Array, cap: float | None) -> Array:
    """Return `cap * tanh(scores / cap)`, or the scores as they are where `cap` is None."""
    return scores if cap is None else cap * xp.tanh(scores / cap)


def check_cap(cap: float | None) -> None:
    """Raise OptionError unless `cap` is None or a positive finite number."""
    if cap is not None and not (is_finite(cap) and cap > 0):
        raise OptionError(f"softcap {cap!r} must be a positive finite number, or None")
