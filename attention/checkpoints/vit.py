"""ViT: the weight maps of its self-attention, and its contract from a config.

    attention.q_proj.weight (HD, M)             ...    attention.o_proj.weight (M, HE)                 modules of transformers 5
    attention.attention.query.weight (HD, M)    ...    attention.output.dense.weight (M, HE)           files on the Hub

References:
    Dosovitskiy et al., arXiv:2010.11929; names as in transformers 5.23 and in Hugging Face checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attention.checkpoints.config import any_count, count, switch
from attention.checkpoints.weight_map import WeightMap, projections
from attention.spec.layers.multi_head import MultiHeadAttention

VIT = WeightMap("ViT", projections("q_proj", "k_proj", "v_proj", "o_proj"))
VIT_FILE = WeightMap("ViT file", projections("attention.query", "attention.key", "attention.value", "output.dense"))


def contract(config: Mapping[str, Any]) -> MultiHeadAttention:
    """Return the contract of the attention that a ViT `config.json` describes.

    Args:
        config: the parsed file. Dropout belongs to training and is not read.

    Raises:
        OptionError: a number is missing.
    """
    return MultiHeadAttention(
        embed_dim=count(config, "hidden_size"),
        num_heads=count(config, "num_attention_heads"),
        head_dim=any_count(config, "head_dim"),
        qkv_bias=switch(config, "qkv_bias", absent=True),
    )
