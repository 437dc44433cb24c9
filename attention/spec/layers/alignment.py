"""Alignment attention (Bahdanau, Luong): a decoder state attends to the states of an encoder; contract and formula.

    q = query W_q + b_q    k = key W_k + b_k    v = value W_v + b_v        with `attn_dim`, else as they are given
    weights[t, s] = softmax_s(cap(score(q[t], k[s])))                      0 where the mask forbids, and in an empty row
    context[t] = sum_s weights[t, s] v[s]

One head. A query `(*batch, M)` is a single state: its context and weights have no axis T either.

References:
    Bahdanau et al., arXiv:1409.0473; Luong et al., arXiv:1508.04025. The scores are in `alignment_scores.py`.
"""

# Arguments may come from code without type checks.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from attention.spec.attend import UNOBSERVED, Observer, attend, unchanged
from attention.spec.axes import Array, Sizes
from attention.spec.errors import OptionError, ShapeError
from attention.spec.kernels import PRECISION
from attention.spec.kernels.nan_safety import zero_masked_inputs_dense
from attention.spec.layers.alignment_scores import Additive, AlignmentScore, Concat, General, TanhScore, additive, learned
from attention.spec.layers.contract import Contract, ResolvedCall, Shapes
from attention.spec.layers.projection import project
from attention.spec.masks.algebra import STRUCTURE, Mask, both, evaluate
from attention.spec.options import ARRAY, Option, arrays_by_name, check_options, checked, instance
from attention.spec.params import Param
from attention.spec.random import DROPOUT_RATE, keep
from attention.spec.scores import CAP, WIDTH, Cosine, Dot, ScaledDot, soft_cap

SCORES = (Dot, ScaledDot, General, Concat, Additive, Cosine)
WIDTHS = ("query_dim", "key_dim", "value_dim", "attn_dim")

INPUTS = arrays_by_name("query", "key")


@dataclass(frozen=True)
class AlignmentAttention(Contract):
    """The contract of an alignment model. Hashable; holds no array.

    Args:
        query_dim: M, the width of a decoder state.
        key_dim: M', the width of an encoder state; None means M.
        value_dim: the width of values; None means that of keys.
        score: `Dot()`, `ScaledDot()`, `General()`, `Concat(...)`, `Additive(...)` or `Cosine(...)`.
        attn_dim: A, the width to which learned projections first take queries, keys and values; None: there are none.
        mask: structure that always holds; lengths and arrays come with the call.
        softcap: bound of the scores, or None.
        dropout_rate: probability of dropping a weight while training.
        precision: least precision of float32 products, one of `kernels.PRECISIONS`.

    Raises:
        OptionError: an option outside its range, or two that exclude each other.
        MaskError: `mask` holds an array.

    >>> contract = AlignmentAttention(4, 6, score=Additive(hidden=5))
    >>> {name: param.shape for name, param in contract.params.items()}
    {'score_q_proj.kernel': (4, 5), 'score_k_proj.kernel': (6, 5), 'score_v': (5,)}
    """

    query_dim: int
    key_dim: int | None = None
    value_dim: int | None = None
    score: AlignmentScore = Additive()
    attn_dim: int | None = None
    mask: Mask | None = None
    softcap: float | None = None
    dropout_rate: float = 0.0
    precision: str | None = None

    outputs: ClassVar[tuple[str, ...]] = ("context", "weights")
    call_kwargs: ClassVar[frozenset[str]] = frozenset({"mask", "dropout_seed"})

    OPTIONS: ClassVar[Mapping[str, Option]] = {
        **dict.fromkeys(WIDTHS, WIDTH | ""),
        "query_dim": WIDTH,
        "score": instance(*SCORES, wanted=", ".join(f"{kind.__name__}(...)" for kind in SCORES)),
        "mask": STRUCTURE,
        "softcap": CAP,
        "precision": PRECISION,
        "dropout_rate": DROPOUT_RATE,
    }

    def __post_init__(self) -> None:
        check_options(self)
        q, k = self.score_widths
        if isinstance(self.score, (Dot, ScaledDot, Cosine)) and q != k:
            raise OptionError(f"key_dim {k} must be query_dim = {q} for {type(self.score).__name__}, or attn_dim be given")

    @property
    def inputs(self) -> dict[str, int]:
        """The width of each input."""
        key = self.key_dim or self.query_dim
        return {"query": self.query_dim, "key": key, "value": self.value_dim or key}

    @property
    def score_widths(self) -> tuple[int, int]:
        """The widths of the queries and keys that the score is given."""
        return (self.attn_dim or self.query_dim, self.attn_dim or self.inputs["key"])

    @property
    def attends_self(self) -> bool:
        return False

    @property
    def params(self) -> dict[str, Param]:
        """The parameter tree."""
        tree: dict[str, Param] = {}
        if self.attn_dim is not None:
            for letter, width in zip("qkv", self.inputs.values(), strict=True):
                tree[f"{letter}_proj.kernel"] = Param((width, self.attn_dim), "MA", inputs=1)
                tree[f"{letter}_proj.bias"] = Param((self.attn_dim,), "A")
        return {**tree, **learned(self.score, *self.score_widths)}

    @checked(query=ARRAY, key=ARRAY, value=ARRAY)
    def sizes(self, query: Array, key: Array, value: Array) -> Sizes:
        """Return the sizes of a call, T = 1 for a single state.

        Args:
            query: `(*batch, T, M)` or `(*batch, M)`.
            key: `(*batch, S, M')`.
            value: `(*batch, S, value_dim)`.

        Raises:
            ShapeError: a rank or a size does not fit.
        """
        widths = self.inputs
        if len(key.shape) < 2 or key.shape[-1] != widths["key"]:
            raise ShapeError(f"key {tuple(key.shape)} must be (*batch, S, M) with M = {widths['key']}")
        *batch, s, _ = key.shape
        if tuple(value.shape) != (*batch, s, widths["value"]):
            letters = f"(*batch, S, M) with batch = {tuple(batch)}, S = {s}, M = {widths['value']}"
            raise ShapeError(f"value {tuple(value.shape)} must be {letters}")
        shape = tuple(query.shape)
        t = 1 if len(shape) == len(batch) + 1 else shape[-2] if len(shape) == len(batch) + 2 else None
        if t is None or (*shape[: len(batch)], shape[-1]) != (*batch, widths["query"]):
            letters = f"(*batch, T, M) or (*batch, M) with batch = {tuple(batch)}, M = {widths['query']}"
            raise ShapeError(f"query {shape} must be {letters} as key has")
        return Sizes(tuple(batch), t, s, 1, 1, self.score_widths[1], self.attn_dim or widths["value"])

    @checked(arrays=INPUTS)
    def results(self, arrays: Mapping[str, Array]) -> Shapes:
        key = arrays["key"]
        n = self.sizes(arrays["query"], key, arrays.get("value", key))
        rows = () if is_state(arrays["query"], key) else (n.T,)
        return {"context": (*n.batch, *rows, n.E), "weights": (*n.batch, *rows, n.S)}

    @checked(arrays=INPUTS)
    def resolve(self, arrays: Mapping[str, Array], **call: Any) -> ResolvedCall:
        key, seed = arrays["key"], call.get("dropout_seed")
        sizes = self.sizes(arrays["query"], key, arrays.get("value", key))
        allowed = evaluate(both(self.mask, call.get("mask")), sizes)
        dropped = self.dropout_rate and seed is not None
        return {
            "allowed": np.ones(sizes.scores, bool) if allowed is None else np.broadcast_to(allowed, sizes.scores),
            "keep": keep(seed, self.dropout_rate, sizes.scores) if dropped else None,
        }

    def formula(
        self,
        xp: Any,
        weights: Mapping[str, Array],
        arrays: Mapping[str, Array],
        resolved: ResolvedCall,
        *,
        constant: Callable[[Array], Array] = unchanged,
        observe: Observer = UNOBSERVED,
    ) -> dict[str, Array]:
        query, key = arrays["query"], arrays["key"]
        state = is_state(query, key)
        given = (query[..., None, :] if state else query, key, arrays.get("value", key))
        q, k, v = zero_masked_inputs_dense(xp, resolved["allowed"], *(observe("input", x) for x in given))
        if self.attn_dim is not None:
            q, k, v = (project(xp, weights, f"{name}_proj", x, observe) for name, x in zip("qkv", (q, k, v), strict=True))
        q, k, scores = self._scored(xp, weights, q, k, observe)
        intermediates = attend(
            xp,
            q,
            k,
            v[..., None, :],
            scale=self.score.factor(self.score_widths[1]),
            allowed=resolved["allowed"],
            bias=None if scores is None else soft_cap(xp, scores, self.softcap)[..., None, :, :],
            softcap=self.softcap,
            keep=resolved["keep"],
            dropout_rate=self.dropout_rate,
            constant=constant,
            observe=observe,
        )
        return bare(intermediates, scores, self.softcap, state=state, xp=xp)

    def _scored(
        self, xp: Any, weights: Mapping[str, Array], q: Array, k: Array, observe: Observer
    ) -> tuple[Array, Array, Array | None]:
        """Return queries and keys, one head each, whose products are the scores; or nothing to multiply, and the scores."""
        if isinstance(self.score, TanhScore):
            q, k = (project(xp, part, "score", x, observe) for part, x in zip(self._hidden(weights), (q, k), strict=True))
            scores = additive(xp, q, k, weights["score_v"])
            return xp.zeros_like(q[..., None, :1]), xp.zeros_like(k[..., None, :1]), scores
        if isinstance(self.score, General):
            q = project(xp, weights, "score_proj", q, observe)
        q, k = q[..., None, :], k[..., None, :]
        if isinstance(self.score, Cosine):
            q, k = (observe("prepared", x) for x in self.score.prepare(xp, weights, q, k))
        return q, k, None

    def _hidden(self, weights: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return what maps queries and what maps keys to hidden features; a bias goes with the queries."""
        if isinstance(self.score, Concat):
            name, rows = "score_proj", self.score_widths[0]
            first, second = weights["score_proj.kernel"][:rows], weights["score_proj.kernel"][rows:]
        else:
            name = "score_q_proj"
            first, second = weights["score_q_proj.kernel"], weights["score_k_proj.kernel"]
        bias = {"score.bias": weights[f"{name}.bias"]} if f"{name}.bias" in weights else {}
        return {"score.kernel": first, **bias}, {"score.kernel": second}

    def unresolved(self) -> AlignmentAttention:
        score = replace(self.score, chunk_size=None) if isinstance(self.score, TanhScore) else self.score
        return replace(self, mask=None, precision=None, score=score)


def is_state(query: Array, key: Array) -> bool:
    """Return whether `query` is a single decoder state, without an axis T."""
    return len(query.shape) < len(key.shape)


def bare(
    intermediates: Mapping[str, Array], scores: Array | None, cap: float | None, *, state: bool, xp: Any
) -> dict[str, Array]:
    """Return the intermediates of one head without the axis H, and of a single state without the axis T.

    Args:
        intermediates: of the attention, by name.
        scores: `(*batch, T, S)` before the cap, where they came as a bias; the intermediates before it are then these.
        cap: bound of the scores, or None.
        state: whether the query is a single state.
        xp: the array namespace.
    """
    heads = {"context": -2, "logsumexp": -2}
    made = {name: x if name == "mean_weights" else _first(x, heads.get(name, -3)) for name, x in intermediates.items()}
    if scores is not None:
        made |= {name: x for name, x in (("scaled", scores), ("capped", soft_cap(xp, scores, cap))) if name in made}
    return {name: _first(x, -1 if name == "logsumexp" else -2) for name, x in made.items()} if state else made


def _first(x: Array, axis: int) -> Array:
    """Return the first slice along an axis counted from the end."""
    return x[(..., 0, *(slice(None),) * (-axis - 1))]
