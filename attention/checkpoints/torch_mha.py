"""`torch.nn.MultiheadAttention`: weight map, packed or with separate projections, and contract.

    in_proj_weight (3 HD, M)                                             packed: kdim = vdim = embed_dim
    q_proj_weight (HD, M)    k_proj_weight (KD, M')    v_proj_weight (KE, M'')        separate
    in_proj_bias (3 HD,)    bias_k (1, 1, KD)    bias_v (1, 1, KE)    out_proj.weight (M, HE)    out_proj.bias (M,)

Masks (True forbids in torch) and `batch_first` are not in the contract: they belong to a call.

References:
    torch.nn.MultiheadAttention, version 2.13.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attention.checkpoints.config import any_count, count, switch
from attention.checkpoints.weight_map import Row, WeightMap, linear
from attention.spec.layers.multi_head import MultiHeadAttention

_REST = (
    Row("q_proj.bias", "in_proj_bias", ("|HD",)),
    Row("k_proj.bias", "in_proj_bias", ("|KD",)),
    Row("v_proj.bias", "in_proj_bias", ("|KE",)),
    Row("bias_k", "bias_k", ("", "", "KD")),
    Row("bias_v", "bias_v", ("", "", "KE")),
    *linear("out_proj", "out_proj", ("M", "HE")),
)
PACKED = WeightMap(
    "torch.nn.MultiheadAttention",
    (
        Row("q_proj.kernel", "in_proj_weight", ("|HD", "M")),
        Row("k_proj.kernel", "in_proj_weight", ("|KD", "M")),
        Row("v_proj.kernel", "in_proj_weight", ("|KE", "M")),
        *_REST,
    ),
)
SEPARATE = WeightMap(
    "torch.nn.MultiheadAttention with kdim or vdim",
    (
        Row("q_proj.kernel", "q_proj_weight", ("HD", "M")),
        Row("k_proj.kernel", "k_proj_weight", ("KD", "M")),
        Row("v_proj.kernel", "v_proj_weight", ("KE", "M")),
        *_REST,
    ),
)


def contract(config: Mapping[str, Any]) -> MultiHeadAttention:
    """Return the contract of `torch.nn.MultiheadAttention(**config)`.

    Args:
        config: its arguments. Dropout belongs to training and is not read, `batch_first` and `device` to the call.

    Raises:
        OptionError: a number is missing.
    """
    width, bias = count(config, "embed_dim"), switch(config, "bias", absent=True)
    return MultiHeadAttention(
        embed_dim=width,
        num_heads=count(config, "num_heads"),
        kdim=any_count(config, "kdim"),
        # torch defaults to embed_dim, the contract to kdim.
        vdim=any_count(config, "vdim") or width,
        qkv_bias=bias,
        out_bias=bias,
        add_bias_kv=switch(config, "add_bias_kv", absent=False),
        add_zero_attn=switch(config, "add_zero_attn", absent=False),
    )


def weight_map(config: Mapping[str, Any]) -> WeightMap:
    """Return the weight map of `torch.nn.MultiheadAttention(**config)`."""
    width = count(config, "embed_dim")
    return PACKED if (any_count(config, "kdim") or width) == width == (any_count(config, "vdim") or width) else SEPARATE
