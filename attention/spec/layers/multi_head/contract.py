"""Multi-head attention: the contract, with options, parameters, shapes and formula.

    q = query W_q + b_q    k = key W_k + b_k    v = value W_v + b_v         W_q (M, H, D), W_k (M', K, D), W_v (M'', K, E)
    q, k = rotate(norm(q)), rotate(norm(k))
    output = sum_h context[h] W_o[h] + b_o                                  W_o (H, E, M)

References:
    Vaswani et al., arXiv:1706.03762, section 3.2.2; Ainslie et al., arXiv:2305.13245 (grouped heads, K < H); Miller,
    "Attention is off by one", 2023 (a 1 more in the denominator). References of other options are in `heads.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from attention.spec.attend import UNOBSERVED, Observer, unchanged
from attention.spec.axes import Array, Sizes
from attention.spec.layers.contract import ResolvedCall, Shapes
from attention.spec.layers.multi_head import formula
from attention.spec.layers.multi_head.configuration import MultiHeadConfiguration
from attention.spec.options import arrays_by_name, checked

INPUTS = arrays_by_name("query")


@dataclass(frozen=True)
class MultiHeadAttention(MultiHeadConfiguration):
    """The contract of a multi-head attention layer. Hashable; holds no array.

    Args:
        embed_dim: M, the width of queries and of the output.
        num_heads: H.
        num_kv_heads: K, a divisor of H; None means H.
        head_dim: D; None means M / H.
        value_dim: E, the width of a value head; None means D.
        kdim: the width of keys; None means M.
        vdim: the width of values; None means that of keys.
        qkv_bias: whether the three input projections have biases: one bool, or one each for queries, keys and values.
        out_bias: whether the output projection has one.
        mask: structure that always holds, such as `Causal()`; lengths and arrays come with the call.
        positions: `Rotary(...)`, `AxialRotary(...)`, `Alibi()`, `RelativeBias(...)`, `RelativeKeys(...)` or None.
        score: `ScaledDot()`, `Dot()` or `Cosine()`.
        softcap: bound of the scores, or None.
        dropout_rate: probability of dropping a weight while training.
        precision: least precision of float32 products, one of `kernels.PRECISIONS`.
        out_dim: the width of the output; None means M.
        qk_norm: a norm of each query and key head, before rotation: `RMSNorm()`, `LayerNorm()`, `L2Norm()` or None.
        sinks: whether each head learns a logit that takes weight and gives no value.
        softmax: "standard", or "off_by_one": a 1 more in the denominator, which is a sink of 0.
        gate: None, "headwise" or "elementwise": a sigmoid gate on the context, computed from the query.
        add_bias_kv: whether a learned key and value are appended, which every query may attend to.
        add_zero_attn: whether a key and value of zeros are appended after that.

    Raises:
        OptionError: an option outside its range, or two that exclude each other.
        MaskError: `mask` holds an array.
    """

    @checked(arrays=INPUTS)
    def sizes_of(self, arrays: Mapping[str, Array]) -> Sizes:
        """Return the sizes of a call from its arrays by name, those that are absent being what they default to."""
        query = arrays["query"]
        key = arrays.get("key", query)
        return self.sizes(query, key, arrays.get("value", key))

    @checked(arrays=INPUTS)
    def results(self, arrays: Mapping[str, Array]) -> Shapes:
        n = self.sizes_of(arrays)
        weights = (*n.scores[:-1], n.S + self.extra_keys)
        return {"output": (*n.batch, n.T, self.out_width), "weights": weights, "logsumexp": weights[:-1]}

    @checked(arrays=INPUTS)
    def optional(self, arrays: Mapping[str, Array]) -> Shapes:
        return {"bias": self.sizes_of(arrays).scores}

    @checked(arrays=INPUTS)
    def resolve(self, arrays: Mapping[str, Array], **call: Any) -> ResolvedCall:
        return formula.resolve(self, self.sizes_of(arrays), **call)

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
        return formula.formula(self, xp, weights, arrays, resolved, constant=constant, observe=observe)

    def unresolved(self) -> MultiHeadAttention:
        return replace(self, mask=None, precision=None)
