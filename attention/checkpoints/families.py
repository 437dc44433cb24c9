"""Lookup by transformers "model_type": the weight map and the contract of a model's self-attention.

FAMILIES["qwen3"].contract(config, layer)        FAMILIES["qwen3"].weight_map.output == "o_proj"
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from attention.checkpoints import bert, decoders, gpt2, vit
from attention.checkpoints.config import Config
from attention.checkpoints.weight_map import WeightMap
from attention.spec.layers.multi_head import MultiHeadAttention


@dataclass(frozen=True)
class Family:
    """Weight map and contract of the self-attention of one model family.

    Attributes:
        weight_map: the table of its tensors.
        contract: of a parsed `config.json` and the number of a layer.
    """

    weight_map: WeightMap
    contract: Callable[[Config, int], MultiHeadAttention]


def _alike(contract: Callable[[Config], MultiHeadAttention]) -> Callable[[Config, int], MultiHeadAttention]:
    """Return the contract function of a family whose layers are all equal."""
    return lambda config, _: contract(config)


FAMILIES: dict[str, Family] = {
    **{kind: Family(weight_map, contract) for kind, (weight_map, contract) in decoders.FAMILIES.items()},
    "gpt2": Family(gpt2.GPT2, gpt2.contract),
    "bert": Family(bert.BERT, _alike(bert.contract)),
    "albert": Family(bert.ALBERT, _alike(bert.contract)),
    "vit": Family(vit.VIT, _alike(vit.contract)),
}
"""By "model_type"."""
