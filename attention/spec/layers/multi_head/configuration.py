"""Configuration of multi-head attention: options and their checks, parameters, shapes.

W_q (M, H, D), W_k (M', K, D), W_v (M'', K, E), W_o (H, E, M)
"""

# Arguments may come from code without type checks.
# pyright: reportUnnecessaryIsInstance=false

# Values are whatever a user passed, of types that strict mode cannot know.
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from attention.spec.axes import Array, Sizes
from attention.spec.errors import OptionError, ShapeError
from attention.spec.kernels import PRECISION
from attention.spec.layers.contract import Contract
from attention.spec.masks.algebra import STRUCTURE, Mask
from attention.spec.norms import L2Norm, LayerNorm, Norm, RMSNorm
from attention.spec.options import ARRAY, SWITCH, Option, check_options, checked, instance, one_of
from attention.spec.params import Param, nest
from attention.spec.positions import Alibi, AxialRotary, RelativeBias, RelativeKeys, Rotary
from attention.spec.random import DROPOUT_RATE
from attention.spec.scores import CAP, WIDTH, Cosine, Dot, ScaledDot

BIASES = (Alibi, RelativeBias, RelativeKeys)
"""Positions that add to the scores; the others rotate queries and keys."""

Positions = Rotary | AxialRotary | Alibi | RelativeBias | RelativeKeys
WIDTHS = ("embed_dim", "num_heads", "num_kv_heads", "head_dim", "value_dim", "kdim", "vdim", "out_dim")
SOFTMAX = ("standard", "off_by_one")
GATES = ("headwise", "elementwise")


def _one(*kinds: type) -> Option:
    """Return the option of one of some classes, None among them by its type."""
    return instance(*kinds, wanted=", ".join("None" if kind is type(None) else f"{kind.__name__}(...)" for kind in kinds))


@dataclass(frozen=True)
class MultiHeadConfiguration(Contract):
    """The options of a multi-head attention layer, as `MultiHeadAttention` describes them. Abstract."""

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
