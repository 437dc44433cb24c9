"""Learned alignment scores: general (bilinear), additive and concat, with their parameters.

    General      x[t, s] = (q[t] W) . k[s]                                W (M, M')
    Additive     x[t, s] = v . tanh(q[t] W1 + k[s] W2 + b)                W1 (M, A), W2 (M', A), v (A,)
    Concat       x[t, s] = v . tanh([q[t]; k[s]] W + b)                   W (M + M', A), v (A,)

`[q; k] W` is `q` times the first M rows of W plus `k` times the others, so no pair is ever laid side by side.

References:
    Luong et al., arXiv:1508.04025, equation 8 (general, concat); Bahdanau et al., arXiv:1409.0473, section A.1.2 (additive).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from attention.spec.axes import Array
from attention.spec.options import Option, check_options, checked, whole
from attention.spec.params import Param
from attention.spec.scores import HEAD_DIM, WIDTH, Cosine, Dot, ScaledDot


@dataclass(frozen=True)
class General:
    """Luong's general score: the query, mapped to the width of a key, times the key."""

    @checked(head_dim=HEAD_DIM)
    def factor(self, head_dim: int) -> float:
        """Return the factor of the product of mapped query and key: 1."""
        del head_dim
        return 1.0

    @checked(query_width=WIDTH, key_width=WIDTH)
    def params(self, query_width: int, key_width: int) -> dict[str, Param]:
        """Return the learned array: "score_proj.kernel" `(M, M')`."""
        return {"score_proj.kernel": Param((query_width, key_width), "MD", inputs=1)}


@dataclass(frozen=True)
class TanhScore:
    """A score by a hidden layer of tanh over every pair of a query and a key. Abstract.

    Args:
        hidden: A, the number of hidden features; None means the width of the query.
        bias: whether each feature has a learned bias inside its tanh; the papers have none, many a tutorial has.
        chunk_size: features computed at a time; None for all A at once, which allocates `(*batch, T, S, A)` and keeps it
            for the backward pass. In chunks no array exceeds `(*batch, T, S, chunk_size)`, at the price of a second
            computation of every tanh in the backward pass. Results agree to rounding. Second derivatives keep all.

    Raises:
        OptionError: an option outside its range.
    """

    hidden: int | None = None
    bias: bool = False
    chunk_size: int | None = None

    OPTIONS: ClassVar[Mapping[str, Option]] = {"hidden": whole(none=True), "chunk_size": whole(none=True)}

    def __post_init__(self) -> None:
        check_options(self, f"{type(self).__name__} ")

    @checked(head_dim=HEAD_DIM)
    def factor(self, head_dim: int) -> float:
        """Return the factor of a product of query and key: 1, as there is no product."""
        del head_dim
        return 1.0

    def _outer(self, width: int, name: str) -> dict[str, Param]:
        """Return the arrays beside the kernels: the bias, which belongs to the part `name`, and `v`."""
        bias = {f"{name}.bias": Param((width,), "A")} if self.bias else {}
        return {**bias, "score_v": Param((width,), "A", spread=(6.0 / (width + 1)) ** 0.5)}


@dataclass(frozen=True)
class Additive(TanhScore):
    """Bahdanau's additive score, a kernel each for query and key; arguments as `TanhScore`."""

    @checked(query_width=WIDTH, key_width=WIDTH)
    def params(self, query_width: int, key_width: int) -> dict[str, Param]:
        """Return "score_q_proj.kernel" `(M, A)`, perhaps its ".bias", "score_k_proj.kernel" `(M', A)`, "score_v" `(A,)`."""
        width = self.hidden or query_width
        kernels = {
            f"score_{n}_proj.kernel": Param((m, width), "MA", inputs=1) for n, m in (("q", query_width), ("k", key_width))
        }
        return {**kernels, **self._outer(width, "score_q_proj")}


@dataclass(frozen=True)
class Concat(TanhScore):
    """Luong's concat score, one kernel for both, the query's rows first; arguments as `TanhScore`."""

    @checked(query_width=WIDTH, key_width=WIDTH)
    def params(self, query_width: int, key_width: int) -> dict[str, Param]:
        """Return "score_proj.kernel" `(M + M', A)`, perhaps its ".bias", and "score_v" `(A,)`."""
        width = self.hidden or query_width
        kernel = Param((query_width + key_width, width), "MA", inputs=1)
        return {"score_proj.kernel": kernel, **self._outer(width, "score_proj")}


AlignmentScore = Dot | ScaledDot | Cosine | General | Additive | Concat


def learned(score: AlignmentScore, query_width: int, key_width: int) -> dict[str, Param]:
    """Return the parameter tree of any score, for one head."""
    if isinstance(score, (Dot, ScaledDot)):
        return {}
    return score.params(1) if isinstance(score, Cosine) else score.params(query_width, key_width)


def additive(xp: Any, q: Array, k: Array, v: Array) -> Array:
    """Return `v . tanh(q + k)` of every pair.

    Args:
        xp: the array namespace.
        q: `(*batch, T, A)`, the mapped queries.
        k: `(*batch, S, A)`, the mapped keys.
        v: `(A,)`.

    Returns:
        `(*batch, T, S)`, by way of an array `(*batch, T, S, A)`.

    >>> import numpy as np
    >>> additive(np, np.zeros((1, 2)), np.full((3, 2), np.inf), np.ones(2)).tolist()
    [[2.0, 2.0, 2.0]]
    """
    return xp.matmul(xp.tanh(q[..., :, None, :] + k[..., None, :, :]), v)
