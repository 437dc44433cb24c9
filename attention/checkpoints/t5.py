"""T5: the weight map of its attention (unscaled scores, learned relative bias), and its contract from a config.

    SelfAttention.q.weight (HD, M)    k (KD, M)    v (KE, M)    o (M, HE)    relative_attention_bias.weight (P, H)

Only the first layer of a stack stores the relative bias, and the others add the same numbers: give them its table's rows. The
attention to the encoder has none.

References:
    Raffel et al., arXiv:1910.10683; names as in Hugging Face checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attention.checkpoints.config import any_count, count
from attention.checkpoints.weight_map import Row, WeightMap, projections
from attention.spec.layers.multi_head import MultiHeadAttention
from attention.spec.masks import Causal
from attention.spec.options import SWITCH, checked
from attention.spec.positions import RelativeBias
from attention.spec.scores import Dot

T5 = WeightMap("T5", (*projections("q", "k", "v", "o"), Row("relative_bias", "relative_attention_bias.weight", ("P", "H"))))


@checked(decoder=SWITCH, cross=SWITCH)
def contract(config: Mapping[str, Any], *, decoder: bool = False, cross: bool = False) -> MultiHeadAttention:
    """Return the contract of the attention that a T5 `config.json` describes.

    Args:
        config: the parsed file. Dropout belongs to training and is not read.
        decoder: whether it is the decoder's attention to itself, which is causal, with a bias for past distances only.
        cross: whether it is the decoder's attention to the encoder, which has no relative bias.

    Raises:
        OptionError: a number is missing.
    """
    distances = RelativeBias(
        num_buckets=any_count(config, "relative_attention_num_buckets") or 32,
        max_distance=any_count(config, "relative_attention_max_distance") or 128,
        bidirectional=not decoder,
    )
    return MultiHeadAttention(
        embed_dim=count(config, "d_model"),
        num_heads=count(config, "num_heads"),
        head_dim=count(config, "d_kv"),
        qkv_bias=False,
        out_bias=False,
        mask=Causal() if decoder and not cross else None,
        positions=None if cross else distances,
        score=Dot(),
    )
