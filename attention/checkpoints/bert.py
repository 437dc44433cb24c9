"""BERT and ALBERT: the weight maps of their self-attention, and its contract from a config.

    attention.self.query.weight (HD, M)   ...   attention.output.dense.weight (M, HE)

References:
    Devlin et al., arXiv:1810.04805 (BERT); Lan et al., arXiv:1909.11942 (ALBERT); names as in Hugging Face checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attention.checkpoints.config import count, get, switch
from attention.checkpoints.weight_map import Row, WeightMap, projections, read, write
from attention.spec.errors import OptionError
from attention.spec.layers.multi_head import MultiHeadAttention
from attention.spec.storage.disk import brief

__all__ = ["ALBERT", "BERT", "Row", "WeightMap", "contract", "read", "write"]

BERT = WeightMap(
    "BERT",
    projections("self.query", "self.key", "self.value", "output.dense"),
    ignored=frozenset({"output.LayerNorm.weight", "output.LayerNorm.bias"}),
)
ALBERT = WeightMap(
    "ALBERT",
    projections("query", "key", "value", "dense"),
    ignored=frozenset({"LayerNorm.weight", "LayerNorm.bias"}),
)


def contract(config: Mapping[str, Any]) -> MultiHeadAttention:
    """Return the contract of the attention that a BERT or ALBERT `config.json` describes.

    Args:
        config: the parsed file. Only sizes are taken from it; dropout belongs to training.

    Raises:
        OptionError: the config has positions inside the attention, or is a decoder's.
    """
    positions = get(config, "position_embedding_type")
    if not (positions is None or (isinstance(positions, str) and positions == "absolute")):
        raise OptionError(
            f"position_embedding_type {brief(repr(positions))} must be 'absolute', which is outside the attention"
        )
    if switch(config, "is_decoder", absent=False):
        raise OptionError("is_decoder True must be False: the table has no causal mask and no cross-attention")
    return MultiHeadAttention(embed_dim=count(config, "hidden_size"), num_heads=count(config, "num_attention_heads"))
