"""DeepSeek-V2 and V3: the weight map of multi-head latent attention, and its contract from a config.

    kv_a_proj_with_mqa.weight (R + P, M)    kv_a_layernorm.weight (R,)    kv_b_proj.weight (H (nope + E), R)
    q_a_proj.weight (R', M)    q_a_layernorm.weight (R',)    q_b_proj.weight (HD, R')        with q_lora_rank
    q_proj.weight (HD, M)                                                                    without
    o_proj.weight (M, HE)

Both norms have eps 1e-6, regardless of `rms_norm_eps`. Files pair rotary features as neighbours (`rope_interleave`).

References:
    DeepSeek-V3, arXiv:2412.19437; names and defaults as in transformers 5.23.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from attention.checkpoints.config import any_count, count, number, number_or, switch
from attention.checkpoints.rope import kind_of, parameters, rotary
from attention.checkpoints.weight_map import Row, WeightMap, linear
from attention.spec.layers.latent import LatentAttention
from attention.spec.masks import Causal
from attention.spec.norms import RMSNorm
from attention.spec.scores import ScaledDot

DEEPSEEK = WeightMap(
    "DeepSeek-V3",
    (
        *linear("q_proj", "q_proj", ("HD", "M")),
        *linear("q_down", "q_a_proj", ("R", "M")),
        Row("q_norm.scale", "q_a_layernorm.weight", ("R",)),
        *linear("q_up", "q_b_proj", ("HD", "R")),
        *linear("kv_down", "kv_a_proj_with_mqa", ("R", "M")),
        Row("kv_norm.scale", "kv_a_layernorm.weight", ("R",)),
        *linear("kv_up", "kv_b_proj", ("HD", "R")),
        *linear("out_proj", "o_proj", ("M", "HE")),
    ),
)


def contract(config: Mapping[str, Any]) -> LatentAttention:
    """Return the contract of the attention that a DeepSeek-V3 `config.json` describes.

    Args:
        config: the parsed file. Dropout belongs to training and is not read.

    Raises:
        OptionError: a number is missing.
    """
    nope, rope = count(config, "qk_nope_head_dim"), count(config, "qk_rope_head_dim")
    bias = switch(config, "attention_bias", absent=False)
    return LatentAttention(
        embed_dim=count(config, "hidden_size"),
        num_heads=count(config, "num_attention_heads"),
        kv_rank=count(config, "kv_lora_rank"),
        nope_dim=nope,
        rope_dim=rope,
        value_dim=count(config, "v_head_dim"),
        q_rank=any_count(config, "q_lora_rank"),
        down_bias=bias,
        out_bias=bias,
        norm=RMSNorm(eps=1e-6),
        positions=rotary(config, rope, style="interleaved" if switch(config, "rope_interleave", absent=True) else "half"),
        score=ScaledDot(_sharpness(config) ** 2 / math.sqrt(nope + rope)),
        mask=Causal(),
    )


def _sharpness(config: Mapping[str, Any]) -> float:
    """Return the scale of the scores if the rotary positions are scaled."""
    given = parameters(config)
    mscale = number_or(given, "mscale_all_dim", 0.0)
    if kind_of(config) == "default" or not mscale or number(given, "factor") <= 1:
        return 1.0
    return 0.1 * mscale * math.log(number(given, "factor")) + 1.0
