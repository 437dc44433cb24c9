"""Multi-head attention: the contract, with options, parameters, shapes and formula.

    q = query W_q + b_q    k = key W_k + b_k    v = value W_v + b_v         W_q (M, H, D), W_k (M', K, D), W_v (M'', K, E)
    q, k = rotate(norm(q)), rotate(norm(k))
    output = sum_h context[h] W_o[h] + b_o                                  W_o (H, E, M)

References:
    Vaswani et al., arXiv:1706.03762, section 3.2.2; Ainslie et al., arXiv:2305.13245 (grouped heads, K < H); Miller,
    "Attention is off by one", 2023 (a 1 more in the denominator). Those of the other options stand in `heads.py`.
"""

# Bad input comes from code that nobody type-checked, so it is looked at again here.
# pyright: reportUnnecessaryIsInstance=false

# Values are whatever a user passed, of types that strict mode cannot know.
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from attention.spec.attend import UNOBSERVED, Observer, unchanged
from attention.spec.axes import Array, Sizes
from attention.spec.errors import OptionError, ShapeError
from attention.spec.kernels import PRECISION
from attention.spec.layers import oracle
from attention.spec.layers.contract import Contract, ResolvedCall, Shapes
from attention.spec.layers.heads import BIASES, zero_masked_inputs
from attention.spec.masks.algebra import STRUCTURE, Mask
from attention.spec.norms import L2Norm, LayerNorm, Norm, RMSNorm
from attention.spec.options import ARRAY, SWITCH, Option, arrays_by_name, check_options, checked, instance, one_of
from attention.spec.params import Param, nest
from attention.spec.positions import Alibi, AxialRotary, RelativeBias, RelativeKeys, Rotary
from attention.spec.random import DROPOUT_RATE
from attention.spec.scores import CAP, WIDTH, Cosine, Dot, ScaledDot

__all__ = ["MultiHeadAttention", "zero_masked_inputs"]

Positions = Rotary | AxialRotary | Alibi | RelativeBias | RelativeKeys
WIDTHS = ("embed_dim", "num_heads", "num_kv_heads", "head_dim", "value_dim", "kdim", "vdim", "out_dim")
SOFTMAX = ("standard", "off_by_one")
GATES = ("headwise", "elementwise")


def _one(*kinds: type) -> Option:
    """Return the option of one of some classes, None among them by its type."""
    return instance(*kinds, wanted=", ".join("None" if kind is type(None) else f"{kind.__name__}(...)" for kind in kinds))


INPUTS = arrays_by_name("query")


@dataclass(frozen=True)
class MultiHeadAttention(Contract):
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

    embed_dim: int
    num_heads: int
    num_kv_heads: int | None = None
    head_dim: int | None = None
    value_dim: int | None = None
    kdim: int | None = None
    vdim: int | None = None
    qkv_bias: bool | tuple[bool, bool, bool] = True
    out_bias: bool = True
    mask: Mask | None = None
    positions: Positions | None = None
    score: Dot | ScaledDot | Cosine = ScaledDot()
    softcap: float | None = None
    dropout_rate: float = 0.0
    precision: str | None = None
    out_dim: int | None = None
    qk_norm: Norm | None = None
    sinks: bool = False
    softmax: str = "standard"
    gate: str | None = None
    add_bias_kv: bool = False
    add_zero_attn: bool = False

    call_kwargs: ClassVar[frozenset[str]] = frozenset(
        {"mask", "query_positions", "key_positions", "dropout_seed", "bias", "intermediates"}
    )

    OPTIONS: ClassVar[Mapping[str, Option]] = {
        **dict.fromkeys(WIDTHS, WIDTH | ""),
        **dict.fromkeys(("embed_dim", "num_heads"), WIDTH),
        "qkv_bias": Option(
            "True or False, or one of them each for q, k and v",
            lambda value: (
                SWITCH.holds(value) or (isinstance(value, tuple) and len(value) == 3 and all(map(SWITCH.holds, value)))
            ),
        ),
        "mask": STRUCTURE,
        "score": _one(Dot, ScaledDot, Cosine),
        "positions": _one(Rotary, AxialRotary, *BIASES, type(None)),
        "qk_norm": _one(RMSNorm, LayerNorm, L2Norm, type(None)),
        "softmax": one_of(*SOFTMAX),
        "gate": one_of(*GATES, none=True),
        "softcap": CAP,
        "precision": PRECISION,
        "dropout_rate": DROPOUT_RATE,
    }

    def __post_init__(self) -> None:
        check_options(self)
        self._check_sizes()
        if isinstance(self.positions, (Rotary, AxialRotary)):
            _ = self.positions.width(self.width)
        if self.sinks and self.softmax == "off_by_one":
            raise OptionError("softmax 'off_by_one' must be 'standard' when sinks is True: it is a sink whose logit is 0")
        if self.softcap is not None and isinstance(self.positions, RelativeKeys):
            raise OptionError(f"softcap {self.softcap} must be None with RelativeKeys, whose share of a score it would bound")

    def _check_sizes(self) -> None:
        if self.num_heads % self.kv_heads:
            raise OptionError(f"num_kv_heads {self.kv_heads} must divide num_heads = {self.num_heads}")
        if self.head_dim is None and self.embed_dim % self.num_heads:
            raise OptionError(f"num_heads {self.num_heads} must divide embed_dim = {self.embed_dim}, or head_dim be given")

    @property
    def kv_heads(self) -> int:
        """K."""
        return self.num_kv_heads or self.num_heads

    @property
    def width(self) -> int:
        """D."""
        return self.head_dim or self.embed_dim // self.num_heads

    @property
    def value_width(self) -> int:
        """E."""
        return self.value_dim or self.width

    @property
    def out_width(self) -> int:
        """The width of the output."""
        return self.out_dim or self.embed_dim

    @property
    def extra_keys(self) -> int:
        """How many keys are appended to those of a call."""
        return self.add_bias_kv + self.add_zero_attn

    @property
    def inputs(self) -> dict[str, int]:
        """The model width of each input."""
        key = self.kdim or self.embed_dim
        return {"query": self.embed_dim, "key": key, "value": self.vdim or key}

    @property
    def attends_self(self) -> bool:
        return len(set(self.inputs.values())) == 1

    @property
    def norms(self) -> dict[str, Norm]:
        return {} if self.qk_norm is None else {"q_norm": self.qk_norm, "k_norm": self.qk_norm}

    @property
    def params(self) -> dict[str, Param]:
        """The parameter tree."""
        h, k, d, e, out = self.num_heads, self.kv_heads, self.width, self.value_width, self.out_width
        widths = self.inputs
        biases = self.qkv_bias if isinstance(self.qkv_bias, tuple) else (self.qkv_bias,) * 3
        gate = {None: None, "headwise": Param((self.embed_dim, h), "MH", inputs=1)}
        tree = {
            "q_proj.kernel": Param((widths["query"], h, d), "MHD", inputs=1),
            "q_proj.bias": Param((h, d), "HD") if biases[0] else None,
            "k_proj.kernel": Param((widths["key"], k, d), "MKD", inputs=1),
            "k_proj.bias": Param((k, d), "KD") if biases[1] else None,
            "v_proj.kernel": Param((widths["value"], k, e), "MKE", inputs=1),
            "v_proj.bias": Param((k, e), "KE") if biases[2] else None,
            "out_proj.kernel": Param((h, e, out), "HEM", inputs=2),
            "out_proj.bias": Param((out,), "M") if self.out_bias else None,
            "gate_proj.kernel": gate.get(self.gate, Param((self.embed_dim, h, e), "MHE", inputs=1)),
            "sinks": Param((h,), "H") if self.sinks else None,
            "bias_k": Param((k, d), "KD", spread=(6.0 / (1 + k * d)) ** 0.5) if self.add_bias_kv else None,
            "bias_v": Param((k, e), "KE", spread=(6.0 / (1 + k * e)) ** 0.5) if self.add_bias_kv else None,
        }
        for name, norm in self.norms.items():
            tree |= nest(name, norm.params(d, "D"))
        tree |= self.score.params(h) if isinstance(self.score, Cosine) else {}
        tree |= self.positions.params(h, d) if isinstance(self.positions, BIASES) else {}
        return {name: param for name, param in tree.items() if param is not None}

    @checked(query=ARRAY, key=ARRAY, value=ARRAY)
    def sizes(self, query: Array, key: Array, value: Array) -> Sizes:
        """Return the sizes of a call.

        Args:
            query: `(*batch, T, M)`.
            key: `(*batch, S, kdim)`.
            value: `(*batch, S, vdim)`.

        Raises:
            ShapeError: a rank or a size does not fit.
        """
        for (name, width), array in zip(self.inputs.items(), (query, key, value), strict=True):
            if len(array.shape) < 2 or array.shape[-1] != width:
                letters = f"(*batch, {'T' if name == 'query' else 'S'}, M)"
                raise ShapeError(f"{name} {tuple(array.shape)} must be {letters} with M = {width}")
        *batch, t, _ = query.shape
        s = key.shape[-2]
        for name, array in (("key", key), ("value", value)):
            if tuple(array.shape[:-1]) != (*batch, s):
                raise ShapeError(f"{name} {tuple(array.shape)} must be (*batch, S, M) with batch = {tuple(batch)}, S = {s}")
        return Sizes(tuple(batch), t, s, self.num_heads, self.kv_heads, self.width, self.value_width)

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
        return oracle.resolve(self, self.sizes_of(arrays), **call)

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
        return oracle.oracle(self, xp, weights, arrays, resolved, constant=constant, observe=observe)

    def unresolved(self) -> MultiHeadAttention:
        return replace(self, mask=None, precision=None)
