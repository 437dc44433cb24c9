"""Multi-head attention: project, attend per head, project back.

    q = query W_q + b_q    k = key W_k + b_k    v = value W_v + b_v         W_q (M, H, D), W_k (M', K, D), W_v (M'', K, E)
    q, k = rotate(q), rotate(k)
    output = sum_h context[h] W_o[h] + b_o                                  W_o (H, E, M)

References:
    Vaswani et al., arXiv:1706.03762, section 3.2.2; Ainslie et al., arXiv:2305.13245 (grouped heads, K < H).
"""

# Bad input comes from code that nobody type-checked, so it is looked at again here.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from attention.spec.algebra import Mask
from attention.spec.attend import reachable
from attention.spec.axes import Array, Sizes
from attention.spec.errors import MaskError, OptionError, ShapeError, UnknownName
from attention.spec.kernels import check_precision
from attention.spec.params import Param, Weights, init
from attention.spec.positions import Rotary
from attention.spec.random import keep_threshold
from attention.spec.scores import Dot, ScaledDot, check_cap

ROOMS = {"torch": "attention.torch_impl", "jax": "attention.jax_impl"}


@dataclass(frozen=True)
class MultiHeadAttention:
    """The contract of a multi-head attention layer. Hashable; holds no array.

    Args:
        embed_dim: M, the width of queries and of the output.
        num_heads: H.
        num_kv_heads: K, a divisor of H; None means H.
        head_dim: D; None means M / H.
        value_dim: E, the width of a value head; None means D.
        kdim: the width of keys; None means M.
        vdim: the width of values; None means that of keys.
        qkv_bias: whether the three input projections have biases.
        out_bias: whether the output projection has one.
        mask: structure that always holds, such as `Causal()`; lengths and arrays come with the call.
        positions: `Rotary(...)` or None.
        score: `ScaledDot()` or `Dot()`.
        softcap: bound of the scores, or None.
        dropout_rate: probability of dropping a weight while training.
        precision: least precision of float32 products, one of `kernels.PRECISIONS`.

    Raises:
        OptionError: an option outside its range.
        MaskError: `mask` holds an array.
    """

    embed_dim: int
    num_heads: int
    num_kv_heads: int | None = None
    head_dim: int | None = None
    value_dim: int | None = None
    kdim: int | None = None
    vdim: int | None = None
    qkv_bias: bool = True
    out_bias: bool = True
    mask: Mask | None = None
    positions: Rotary | None = None
    score: Dot | ScaledDot = ScaledDot()
    softcap: float | None = None
    dropout_rate: float = 0.0
    precision: str | None = None

    def __post_init__(self) -> None:
        self._check_sizes()
        if self.mask is not None and not (isinstance(self.mask, Mask) and self.mask.is_static):
            raise MaskError(f"mask {self.mask!r} must be structure without arrays: pass lengths and arrays with the call")
        if not isinstance(self.score, (Dot, ScaledDot)):
            raise OptionError(f"score {self.score!r} must be Dot() or ScaledDot()")
        if self.positions is not None:
            if not isinstance(self.positions, Rotary):
                raise OptionError(f"positions {self.positions!r} must be Rotary(...) or None")
            _ = self.positions.width(self.width)
        check_cap(self.softcap)
        check_precision(self.precision)
        _ = keep_threshold(self.dropout_rate)

    def _check_sizes(self) -> None:
        for name in ("embed_dim", "num_heads", "num_kv_heads", "head_dim", "value_dim", "kdim", "vdim"):
            value = getattr(self, name)
            required = name in ("embed_dim", "num_heads")
            if required if value is None else not (isinstance(value, int) and value > 0 and value is not True):
                raise OptionError(f"{name} {value!r} must be a positive int")
        for name in ("qkv_bias", "out_bias"):
            if not isinstance(getattr(self, name), bool):
                raise OptionError(f"{name} {getattr(self, name)!r} must be True or False")
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
    def inputs(self) -> dict[str, int]:
        """The model width of each input."""
        key = self.kdim or self.embed_dim
        return {"query": self.embed_dim, "key": key, "value": self.vdim or key}

    @property
    def params(self) -> dict[str, Param]:
        """The parameter tree."""
        h, k, d, e = self.num_heads, self.kv_heads, self.width, self.value_width
        widths = self.inputs
        tree = {
            "q_proj.kernel": Param((widths["query"], h, d), "MHD", inputs=1),
            "q_proj.bias": Param((h, d), "HD"),
            "k_proj.kernel": Param((widths["key"], k, d), "MKD", inputs=1),
            "k_proj.bias": Param((k, d), "KD"),
            "v_proj.kernel": Param((widths["value"], k, e), "MKE", inputs=1),
            "v_proj.bias": Param((k, e), "KE"),
            "out_proj.kernel": Param((h, e, self.embed_dim), "HEM", inputs=2),
            "out_proj.bias": Param((self.embed_dim,), "M"),
        }
        return {name: param for name, param in tree.items() if param.inputs or self.has_bias(name)}

    def has_bias(self, name: str) -> bool:
        """Return whether the projection that `name` begins with has a bias."""
        return self.out_bias if name.startswith("out_proj") else self.qkv_bias

    def init(self, seed: int, dtype: str = "float32") -> Weights:
        """Return first weights: the same bits here, in torch and in JAX."""
        return init(self.params, seed, dtype)

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

    def build(self, backend: str, **options: Any) -> Any:
        """Return the layer in a framework: "torch" (an `nn.Module`) or "jax" (an `nnx.Module`).

        Raises:
            UnknownName: no such backend.
            MissingExtra: the framework is not installed.
        """
        if backend not in ROOMS:
            raise UnknownName(f"backend {backend!r} must be one of {', '.join(ROOMS)}")
        return getattr(importlib.import_module(ROOMS[backend]), type(self).__name__)(self, **options)


def shield_inputs(xp: Any, allowed: Array, query: Array, key: Array, value: Array) -> tuple[Array, Array, Array]:
    """Return the inputs with zeros in rows that nothing reads, so that a NaN there reaches no projection's gradient.

    Args:
        xp: the array namespace.
        allowed: bool, broadcastable to `(*batch, H, T, S)`, or None.
        query: `(*batch, T, M)`.
        key: `(*batch, S, M)`.
        value: `(*batch, S, M)`.
    """
    if allowed is None:
        return query, key, value
    rows, keys = (xp.any(seen, axis=-2) for seen in reachable(xp, allowed, 1))  # (*batch, T, 1), (*batch, S, 1)
    return tuple(xp.where(seen, x, xp.zeros_like(x)) for seen, x in ((rows, query), (keys, key), (keys, value)))  # type: ignore[return-value]
