"""Scores of queries and keys: dot, scaled dot and cosine products, soft cap, and the user's `score_mod`.

    Dot          x[t, s] = q[t] . k[s]
    ScaledDot    x[t, s] = q[t] . k[s] * scale            scale = 1 / sqrt(D) unless given
    Cosine       x[t, s] = exp(log_scale) (q[t] / |q[t]|) . (k[s] / |k[s]|)        log_scale learned, one for each head
    soft cap     c * tanh(x / c)                          bounds scores to (-c, c)

References:
    Luong et al., arXiv:1508.04025 (dot); Vaswani et al., arXiv:1706.03762, equation 1 (scaled);
    Gemma 2, arXiv:2408.00118, section 2 (soft cap); Liu et al., arXiv:2111.09883, section 3.2 (cosine).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from attention.spec.axes import Array, Sizes, dtype_name
from attention.spec.errors import DTypeError, ShapeError
from attention.spec.norms import unit
from attention.spec.numbers import LARGEST32, SMALLEST32
from attention.spec.options import Option, check_options, checked, number, size, takes_arguments, whole
from attention.spec.params import Param

WIDTH = whole(1)
HEAD_DIM = size()
POSITIVE = number(above=0, wanted="a positive finite number")
SCALE = number(-LARGEST32, most=LARGEST32, wanted="a finite number in float32") | ", or None for 1 / sqrt(D)"
CAP = number(SMALLEST32, most=LARGEST32, wanted="a positive finite number in float32") | ", or None"


@dataclass(frozen=True)
class Dot:
    """The plain dot product, unscaled."""

    def factor(self, head_dim: int) -> float:
        """Return the factor of the dot product: 1."""
        HEAD_DIM.check("head_dim", head_dim)
        return 1.0


@dataclass(frozen=True)
class ScaledDot:
    """The dot product times `scale`; None means 1 / sqrt(D).

    >>> ScaledDot().factor(64)
    0.125
    """

    scale: float | None = None

    def __post_init__(self) -> None:
        # Not by `check_options`: torch.compile cannot trace a class' fields, and this class is made in every call.
        SCALE.check("scale", self.scale)

    def factor(self, head_dim: int) -> float:
        """Return the factor of the dot product."""
        HEAD_DIM.check("head_dim", head_dim)
        return 1.0 / math.sqrt(head_dim) if self.scale is None else self.scale


@dataclass(frozen=True)
class Cosine:
    """The cosine of query and key, divided by a learned temperature for each head.

    Args:
        initial: the first inverse temperature; > 0. What is learned is its logarithm.
        most: the bound of the inverse temperature, or None.
        eps: the least length that a query or a key is divided by.
    """

    initial: float = 10.0
    most: float | None = 100.0
    eps: float = 1e-12

    OPTIONS: ClassVar[Mapping[str, Option]] = {"initial": POSITIVE, "most": POSITIVE | "", "eps": POSITIVE}

    def __post_init__(self) -> None:
        check_options(self, "Cosine ")

    def factor(self, head_dim: int) -> float:
        """Return the factor of the product of prepared queries and keys: 1."""
        HEAD_DIM.check("head_dim", head_dim)
        return 1.0

    @checked(heads=WIDTH)
    def params(self, heads: int) -> dict[str, Param]:
        """Return the learned array: "log_scale" `(H,)`, the logarithm of the inverse temperature."""
        return {"log_scale": Param((heads,), "H", fill=math.log(self.initial))}

    def prepare(self, xp: Any, weights: Mapping[str, Array], q: Array, k: Array) -> tuple[Array, Array]:
        """Return q `(*batch, T, H, D)` and k `(*batch, S, K, D)`, whose dot products are the scores."""
        log_scale = weights["log_scale"]
        if self.most is not None:
            log_scale = xp.minimum(log_scale, xp.full_like(log_scale, math.log(self.most)))
        return unit(xp, q, self.eps) * xp.exp(log_scale)[:, None], unit(xp, k, self.eps)


Score = Dot | ScaledDot | Cosine


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
    # As a float: JAX would make an int an int32, which may not hold it.
    return scores if cap is None else float(cap) * xp.tanh(scores / float(cap))


ScoreMod = Callable[[Array, Array, Array, Array, Array], Array]
"""`(score, b, h, t, s) -> score`, written with operators: batch row (row-major over all batch axes), head, query, key."""


SCORE_MOD = Option("a function (score, b, h, t, s) -> score, or None", partial(takes_arguments, count=5))


def bind(score_mod: ScoreMod | None, sizes: Sizes, arange: Callable[[int], Array]) -> Callable[[Array], Array] | None:
    """Return a user's function as one of the scores alone.

    Args:
        score_mod: the function, or None.
        sizes: of the call.
        arange: the framework's, on the device of the scores.

    Raises:
        ShapeError: when called, if the function changes the shape of the scores.
        DTypeError: likewise, if it changes their dtype.
    """
    if score_mod is None:
        return None
    batch = arange(math.prod(sizes.batch)).reshape((*sizes.batch, 1, 1, 1))
    h, t, s = arange(sizes.H).reshape((sizes.H, 1, 1)), arange(sizes.T).reshape((sizes.T, 1)), arange(sizes.S)

    def modified(scores: Array) -> Array:
        made = score_mod(scores, batch, h, t, s)
        if tuple(getattr(made, "shape", ())) != sizes.scores:
            raise ShapeError(f"score_mod result {tuple(getattr(made, 'shape', ()))} must be (*batch, H, T, S) = {sizes.scores}")
        if dtype_name(made) != dtype_name(scores):
            raise DTypeError(f"score_mod result {dtype_name(made)} must be {dtype_name(scores)} as the scores are")
        return made

    return modified


def check_cap(cap: float | None) -> None:
    """Raise OptionError unless `cap` is None or a positive finite number."""
    CAP.check("softcap", cap)
