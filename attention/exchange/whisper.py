"""Whisper: biases on queries, values and the output, none on keys, where softmax would not see one.

    self_attn.q_proj (HD, M)    k_proj (KD, M), no bias    v_proj (KE, M)    out_proj (M, HE)        encoder_attn the same

References:
    Radford et al., arXiv:2212.04356; names as in Hugging Face checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attention.exchange.dialect import Dialect, projections
from attention.exchange.rope import need
from attention.spec.layers.multi_head import MultiHeadAttention
from attention.spec.masks import Causal

WHISPER = Dialect("Whisper", projections("q_proj", "k_proj", "v_proj", "out_proj"))


def contract(config: Mapping[str, Any], *, decoder: bool = False, cross: bool = False) -> MultiHeadAttention:
    """Return the contract of the attention that a Whisper `config.json` describes.

    Args:
        config: the parsed file. Dropout belongs to training and is not read.
        decoder: whether it is in the decoder; its attention to itself is causal.
        cross: whether it is the decoder's attention to the encoder.

    Raises:
        OptionError: a number is missing.
    """
    heads = need(config, "decoder_attention_heads" if decoder or cross else "encoder_attention_heads")
    mask = Causal() if decoder and not cross else None
    return MultiHeadAttention(need(config, "d_model"), heads, qkv_bias=(True, False, True), mask=mask)
