"""Differential attention: the difference of two softmax attentions per head; contract and formula.

    [q1_h; q2_h] = query W_q    [k1_h; k2_h] = key W_k    v_h = value W_v       heads 2h and 2h + 1 of q and k are a pair
    strength = exp(lambda_q1 . lambda_k1) - exp(lambda_q2 . lambda_k2) + initial
    initial  = 0.8 - 0.6 exp(-0.3 depth)                                         depth = 0 in the first layer
    context_h = softmax(q1_h k1_h^T / sqrt(D)) v_h - strength * softmax(q2_h k2_h^T / sqrt(D)) v_h
    output = sum_h (1 - initial) RMSNorm(context_h) W_o[h]

The paper counts layers from 1 and writes exp(-0.3 (l - 1)), which is the same. Values are 2 D wide; the norm's scale is one
for all heads. The four vectors of the strength are shared by the heads of a layer.

References:
    Ye et al., "Differential Transformer", arXiv:2410.05258, equations 1 to 3, and the code beside it
    (microsoft/unilm, Diff-Transformer), from which the order of the heads and the eps of 1e-5 are taken.
"""

# Arguments may come from code without type checks.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

from attention.spec.attend import UNOBSERVED, Observer, attend, unchanged
from attention.spec.axes import Array, Sizes
from attention.spec.errors import OptionError
from attention.spec.kernels import PRECISION
from attention.spec.kernels.nan_safety import zero_masked_inputs_dense
from attention.spec.layers.contract import Contract, ResolvedCall, Shapes
from attention.spec.layers.multi_head import MultiHeadAttention
from attention.spec.layers.multi_head.formula import rotate
from attention.spec.layers.projection import project
from attention.spec.layers.tokens import seed_at
from attention.spec.masks.algebra import STRUCTURE, Mask
from attention.spec.norms import Norm, RMSNorm
from attention.spec.options import Option, arrays_by_name, check_options, checked, instance, whole
from attention.spec.params import Param, inner, nest
from attention.spec.positions import AxialRotary, Rotary
from attention.spec.random import DROPOUT_RATE, keep
from attention.spec.scores import WIDTH, Dot, ScaledDot

PLACES = ("first", "second")
"""The two attentions; each drops by a child of the call's seed of this name."""
LAMBDAS = ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2")

INPUTS = arrays_by_name("query")


@dataclass(frozen=True)
class DifferentialAttention(Contract):
    """The contract of a differential attention layer. Hashable; holds no array.

    Args:
        embed_dim: M, the width of inputs and output.
        num_heads: H, pairs of query heads: half the heads of a plain layer of this width.
        depth: the number of layers before this one.
        num_kv_heads: K, a divisor of H: pairs of key heads; None means H.
        head_dim: D, the width of one of a pair; None means M / 2H.
        qkv_bias: whether the three input projections have biases.
        out_bias: whether the output projection has one.
        norm: of each head's context.
        mask: structure that always holds, such as `Causal()`; lengths and arrays come with the call.
        positions: `Rotary(...)`, `AxialRotary(...)` or None.
        score: `ScaledDot()` or `Dot()`.
        dropout_rate: probability of dropping a weight of either attention while training.
        precision: least precision of float32 products, one of `kernels.PRECISIONS`.

    Raises:
        OptionError: an option outside its range.
        MaskError: `mask` holds an array.
    """

    embed_dim: int
    num_heads: int
    depth: int
    num_kv_heads: int | None = None
    head_dim: int | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    norm: RMSNorm = RMSNorm(eps=1e-5)
    mask: Mask | None = None
    positions: Rotary | AxialRotary | None = None
    score: Dot | ScaledDot = ScaledDot()
    dropout_rate: float = 0.0
    precision: str | None = None

    call_kwargs: ClassVar[frozenset[str]] = frozenset(
        {"mask", "query_positions", "key_positions", "dropout_seed", "intermediates"}
    )

    OPTIONS: ClassVar[Mapping[str, Option]] = {
        **dict.fromkeys(("embed_dim", "num_heads"), WIDTH),
        **dict.fromkeys(("num_kv_heads", "head_dim"), WIDTH | ""),
        "depth": whole(0, wanted="an int >= 0, the layers before this one"),
        "norm": instance(RMSNorm),
        "score": instance(ScaledDot, Dot),
        "positions": instance(Rotary, AxialRotary) | " or None",
        "mask": STRUCTURE,
        "dropout_rate": DROPOUT_RATE,
        "precision": PRECISION,
    }

    def __post_init__(self) -> None:
        check_options(self)
        if self.head_dim is None and self.embed_dim % (2 * self.num_heads):
            raise OptionError(
                f"2 num_heads = {2 * self.num_heads} must divide embed_dim = {self.embed_dim}, or head_dim be given"
            )
        _ = self.attention

    @cached_property
    def attention(self) -> MultiHeadAttention:
        """What each of the two attentions is, its projections aside."""
        return MultiHeadAttention(
            self.embed_dim,
            self.num_heads,
            self.num_kv_heads,
            head_dim=self.width,
            value_dim=2 * self.width,
            mask=self.mask,
            positions=self.positions,
            score=self.score,
            dropout_rate=self.dropout_rate,
            precision=self.precision,
        )

    @property
    def width(self) -> int:
        """D."""
        return self.embed_dim // (2 * self.num_heads) if self.head_dim is None else self.head_dim

    @property
    def initial(self) -> float:
        """The part of the strength that is not learned: 0.2 in the first layer, near 0.8 in deep ones."""
        return 0.8 - 0.6 * math.exp(-0.3 * self.depth)

    @property
    def inputs(self) -> dict[str, int]:
        """The model width of each input."""
        return dict.fromkeys(("query", "key", "value"), self.embed_dim)

    @property
    def norms(self) -> dict[str, Norm]:
        return {"norm": self.norm}

    @property
    def params(self) -> dict[str, Param]:
        """The parameter tree."""
        m, h, k, d = self.embed_dim, self.num_heads, self.num_kv_heads or self.num_heads, self.width
        tree = {
            "q_proj.kernel": Param((m, 2 * h, d), "MHD", inputs=1),
            "q_proj.bias": Param((2 * h, d), "HD") if self.qkv_bias else None,
            "k_proj.kernel": Param((m, 2 * k, d), "MKD", inputs=1),
            "k_proj.bias": Param((2 * k, d), "KD") if self.qkv_bias else None,
            "v_proj.kernel": Param((m, k, 2 * d), "MKE", inputs=1),
            "v_proj.bias": Param((k, 2 * d), "KE") if self.qkv_bias else None,
            "out_proj.kernel": Param((h, 2 * d, m), "HEM", inputs=2),
            "out_proj.bias": Param((m,), "M") if self.out_bias else None,
            # The paper draws them from a normal distribution of 0.1; this uniform one is as wide.
            **{name: Param((d,), "D", spread=0.1 * 3.0**0.5) for name in LAMBDAS},
            **nest("norm", self.norm.params(2 * d, "E")),
        }
        return {name: param for name, param in tree.items() if param is not None}

    @checked(arrays=INPUTS)
    def sizes_of(self, arrays: Mapping[str, Array]) -> Sizes:
        """Return the sizes of each of the two attentions of a call, as `MultiHeadAttention` does."""
        return self.attention.sizes_of(arrays)

    @checked(arrays=INPUTS)
    def results(self, arrays: Mapping[str, Array]) -> Shapes:
        n = self.sizes_of(arrays)
        weights = (*n.batch, 2, *n.scores[-3:])
        return {"output": (*n.batch, n.T, self.embed_dim), "weights": weights, "logsumexp": weights[:-1]}

    @checked(arrays=INPUTS)
    def resolve(self, arrays: Mapping[str, Array], **call: Any) -> ResolvedCall:
        """Return the resolved of a call: that of `MultiHeadAttention`, with "keep" a dict by `PLACES`."""
        seed = call.pop("dropout_seed", None)
        made = self.attention.resolve(arrays, **call)
        shape, seeds = self.sizes_of(arrays).scores, {place: seed_at(seed, place) for place in PLACES}
        drops = bool(self.dropout_rate) and seed is not None
        made["keep"] = {place: keep(own, self.dropout_rate, shape) if drops else None for place, own in seeds.items()}
        return made

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
        query = arrays["query"]
        key = arrays.get("key", query)
        value = arrays.get("value", key)
        given = zero_masked_inputs_dense(
            xp, resolved["allowed"], observe("input", query), observe("input", key), observe("input", value)
        )
        names = ("q_proj", "k_proj", "v_proj")
        q, k, v = (project(xp, weights, name, x, observe) for name, x in zip(names, given, strict=True))
        q, k = (rotate(self.attention, xp, x, resolved[f"{n}_table"], observe) for n, x in (("query", q), ("key", k)))
        made = [
            attend(
                xp,
                q[..., i::2, :],
                k[..., i::2, :],
                v,
                scale=self.score.factor(self.width),
                allowed=resolved["allowed"],
                keep=resolved["keep"][place],
                dropout_rate=self.dropout_rate,
                constant=constant,
                observe=observe,
            )
            for i, place in enumerate(PLACES)
        ]
        context = made[0]["context"] - strength(xp, self, weights) * made[1]["context"]
        context = (1.0 - self.initial) * self.norm.normalise(xp, inner("norm", weights), context)
        output = project(xp, weights, "out_proj", observe("normed", context), observe, summed=2)
        return {**together(xp, *made, axis=query.ndim - 2), "output": output}

    def unresolved(self) -> DifferentialAttention:
        return replace(self, mask=None, precision=None)


def strength(xp: Any, contract: DifferentialAttention, weights: Mapping[str, Array]) -> Array:
    """Return how much of the second attention is taken away: one number, `(2 D,)` times; `weights` in the compute dtype."""
    q1, k1, q2, k2 = (weights[name] for name in LAMBDAS)
    number = xp.exp(xp.sum(q1 * k1)) - xp.exp(xp.sum(q2 * k2)) + contract.initial
    # As wide as a value, so that its gradient is summed in two steps: XLA loses digits in one sum over a whole batch.
    return xp.broadcast_to(number, (2 * contract.width,))


def together(xp: Any, first: Mapping[str, Array], second: Mapping[str, Array], axis: int) -> dict[str, Array]:
    """Return the intermediates of both attentions, stacked along a new axis of 2 behind the batch axes."""
    return {name: xp.stack([first[name], second[name]], axis=axis) for name in first}
