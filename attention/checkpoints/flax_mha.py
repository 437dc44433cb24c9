"""`flax.nnx.MultiHeadAttention` and `flax.linen.MultiHeadDotProductAttention`: weight map and contract.

    query.kernel (M, H, D)    key.kernel (M', K, D)    value.kernel (M', K, D)    out.kernel (H, D, M)    query.bias (H, D) ...
    query_ln.scale (D,)    key_ln.scale (D,)        normalize_qk=True: a LayerNorm without bias, eps 1e-6

References:
    flax.nnx.MultiHeadAttention, version 0.12.8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attention.checkpoints.config import any_count, count, divided, switch
from attention.checkpoints.weight_map import Row, WeightMap
from attention.spec.layers.multi_head import MultiHeadAttention
from attention.spec.norms import LayerNorm


def _linear(canonical: str, stored: str, kernel: tuple[str, ...], bias: tuple[str, ...]) -> tuple[Row, Row]:
    return Row(f"{canonical}.kernel", f"{stored}.kernel", kernel), Row(f"{canonical}.bias", f"{stored}.bias", bias)


FLAX = WeightMap(
    "flax.nnx.MultiHeadAttention",
    (
        *_linear("q_proj", "query", ("M", "H", "D"), ("H", "D")),
        *_linear("k_proj", "key", ("M", "K", "D"), ("K", "D")),
        *_linear("v_proj", "value", ("M", "K", "E"), ("K", "E")),
        *_linear("out_proj", "out", ("H", "E", "M"), ("M",)),
        Row("q_norm.scale", "query_ln.scale", ("D",)),
        Row("k_norm.scale", "key_ln.scale", ("D",)),
    ),
)


def contract(config: Mapping[str, Any]) -> MultiHeadAttention:
    """Return the contract of `flax.nnx.MultiHeadAttention(**config)`.

    Args:
        config: its arguments. Dropout belongs to training and is not read, dtypes and `rngs` to the call.

    Raises:
        OptionError: a number is missing, or the heads do not divide `qkv_features`.
    """
    width, heads = count(config, "in_features"), count(config, "num_heads")
    inner = any_count(config, "qkv_features") or width
    bias = switch(config, "use_bias", absent=True)
    return MultiHeadAttention(
        embed_dim=width,
        num_heads=heads,
        num_kv_heads=any_count(config, "num_kv_heads"),
        head_dim=divided(inner, heads, ("qkv_features", "num_heads")),
        kdim=any_count(config, "in_kv_features"),
        out_dim=any_count(config, "out_features"),
        qkv_bias=bias,
        out_bias=bias,
        qk_norm=LayerNorm(eps=1e-6, bias=False) if switch(config, "normalize_qk", absent=False) else None,
    )
