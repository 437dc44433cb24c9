"""GPT-2: the weight map of its attention (one `Conv1D` matrix for q, k and v), and its contract from a config.

    attn.c_attn.weight (M, 3 HD), bias (3 HD,)    attn.c_proj.weight (HE, M)        self-attention, causal
    crossattention.q_attn (M, HD)    c_attn (M, 2 HD)    c_proj (HE, M)             cross-attention

References:
    Radford et al., "Language models are unsupervised multitask learners", 2019; names as in Hugging Face checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attention.checkpoints.config import any_count, check_layer, count, divided, switch
from attention.checkpoints.weight_map import Row, WeightMap
from attention.spec.layers.multi_head import MultiHeadAttention
from attention.spec.masks import Causal
from attention.spec.options import SWITCH, checked
from attention.spec.scores import ScaledDot


def _conv(canonical: str, stored: str, axes: tuple[str, str]) -> tuple[Row, Row]:
    return Row(f"{canonical}.kernel", f"{stored}.weight", axes), Row(f"{canonical}.bias", f"{stored}.bias", (axes[1],))


# Old checkpoint files also hold the causal mask and its fill value.
_IGNORED = frozenset({"bias", "masked_bias"})
_KEYS = (*_conv("k_proj", "c_attn", ("M", "|KD")), *_conv("v_proj", "c_attn", ("M", "|KE")))
_OUT = _conv("out_proj", "c_proj", ("HE", "M"))

GPT2 = WeightMap("GPT-2", (*_conv("q_proj", "c_attn", ("M", "|HD")), *_KEYS, *_OUT), ignored=_IGNORED)
GPT2_CROSS = WeightMap("GPT-2 cross-attention", (*_conv("q_proj", "q_attn", ("M", "HD")), *_KEYS, *_OUT), ignored=_IGNORED)


@checked(cross=SWITCH)
def contract(config: Mapping[str, Any], layer: int = 0, *, cross: bool = False) -> MultiHeadAttention:
    """Return the contract of the attention that a GPT-2 `config.json` describes.

    Args:
        config: the parsed file. Dropout belongs to training and is not read.
        layer: of the model, from 0; where `scale_attn_by_inverse_layer_idx` is set, each has its own scale.
        cross: whether it is the attention to an encoder.

    Raises:
        OptionError: a number is missing.
    """
    check_layer(layer)
    width = any_count(config, "n_embd") or count(config, "hidden_size")
    heads = any_count(config, "n_head") or count(config, "num_attention_heads")
    head_dim = divided(width, heads, ("n_embd", "n_head"))
    scale = head_dim**-0.5 if switch(config, "scale_attn_weights", absent=True) else 1.0
    if switch(config, "scale_attn_by_inverse_layer_idx", absent=False):
        scale /= layer + 1
    return MultiHeadAttention(embed_dim=width, num_heads=heads, mask=None if cross else Causal(), score=ScaledDot(scale))
