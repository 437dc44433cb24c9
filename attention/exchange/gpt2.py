"""GPT-2: one matrix for queries, keys and values, stored inputs first, as its `Conv1D` multiplies.

    attn.c_attn.weight (M, 3 HD), bias (3 HD,)    attn.c_proj.weight (HE, M)        self-attention, causal
    crossattention.q_attn (M, HD)    c_attn (M, 2 HD)    c_proj (HE, M)             cross-attention

References:
    Radford et al., "Language models are unsupervised multitask learners", 2019; names as in Hugging Face checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attention.exchange.dialect import Dialect, Row
from attention.exchange.rope import need
from attention.spec.layers.multi_head import MultiHeadAttention
from attention.spec.masks import Causal
from attention.spec.scores import ScaledDot


def _conv(canonical: str, stored: str, axes: tuple[str, str]) -> tuple[Row, Row]:
    return Row(f"{canonical}.kernel", f"{stored}.weight", axes), Row(f"{canonical}.bias", f"{stored}.bias", (axes[1],))


# Files of the first checkpoints also hold the causal mask, and what stands there instead of -inf.
_BESIDE = frozenset({"bias", "masked_bias"})
_KEYS = (*_conv("k_proj", "c_attn", ("M", "|KD")), *_conv("v_proj", "c_attn", ("M", "|KE")))
_OUT = _conv("out_proj", "c_proj", ("HE", "M"))

GPT2 = Dialect("GPT-2", (*_conv("q_proj", "c_attn", ("M", "|HD")), *_KEYS, *_OUT), beside=_BESIDE)
GPT2_CROSS = Dialect("GPT-2 cross-attention", (*_conv("q_proj", "q_attn", ("M", "HD")), *_KEYS, *_OUT), beside=_BESIDE)


def contract(config: Mapping[str, Any], layer: int = 0, *, cross: bool = False) -> MultiHeadAttention:
    """Return the contract of the attention that a GPT-2 `config.json` describes.

    Args:
        config: the parsed file. Dropout belongs to training and is not read.
        layer: of the model, from 0; where `scale_attn_by_inverse_layer_idx` is set, each has its own scale.
        cross: whether it is the attention to an encoder.

    Raises:
        OptionError: a number is missing.
    """
    width = config.get("n_embd") or need(config, "hidden_size")
    heads = config.get("n_head") or need(config, "num_attention_heads")
    scale = (width // heads) ** -0.5 if config.get("scale_attn_weights", True) else 1.0
    if config.get("scale_attn_by_inverse_layer_idx", False):
        scale /= layer + 1
    return MultiHeadAttention(embed_dim=width, num_heads=heads, mask=None if cross else Causal(), score=ScaledDot(scale))
