"""Llama, Mistral and Qwen3: contract and weight map of one attention, one block and the whole decoder, from a config.

    mlp.gate_proj.weight (A, M)        up_proj (A, M)    down_proj (M, A)    input_layernorm, post_attention_layernorm (M,)
    model.layers.0.*                   model.layers.1.*  model.norm.weight (M,)    the whole decoder of Llama, Mistral, Qwen3

The attention of each "model_type" is in `decoders.py`.

References:
    Touvron et al., arXiv:2302.13971; names and defaults as in transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Iterable

from attention.checkpoints.config import Config, check_depth, check_layer, count, depth, number_or, switch, word
from attention.checkpoints.decoders import FAMILIES, GEMMA2, GPT_OSS, LLAMA, MISTRAL, QWEN3
from attention.checkpoints.weight_map import Row, WeightMap, linear, under
from attention.spec.errors import OptionError
from attention.spec.layers.feed_forward import FeedForward
from attention.spec.layers.multi_head import MultiHeadAttention
from attention.spec.layers.stack import Encoder
from attention.spec.layers.transformer import EncoderBlock
from attention.spec.norms import RMSNorm
from attention.spec.storage.disk import brief

__all__ = [
    "ACTIVATIONS",
    "BLOCK",
    "BLOCKS",
    "FAMILIES",
    "GEMMA2",
    "GPT_OSS",
    "LLAMA",
    "MISTRAL",
    "QWEN3",
    "block",
    "contract",
    "decoder",
    "decoder_weight_map",
    "stacked",
]

BLOCK = WeightMap(
    "Llama block",
    (
        *under("self_attn.", "self_attn.", QWEN3.rows),
        *linear("ffn.gate", "mlp.gate_proj", ("A", "M")),
        *linear("ffn.up", "mlp.up_proj", ("A", "M")),
        *linear("ffn.down", "mlp.down_proj", ("M", "A")),
        Row("norm1.scale", "input_layernorm.weight", ("M",)),
        Row("norm2.scale", "post_attention_layernorm.weight", ("M",)),
    ),
)
"""One layer of Llama, Mistral or Qwen3 as `block` describes it."""

ACTIVATIONS = {"silu": "swiglu", "gelu": "geglu", "gelu_pytorch_tanh": "geglu_tanh"}
"""The gated form of each "hidden_act"."""

BLOCKS = ("llama", "mistral", "qwen3")
"""The families whose whole layer is a `block`."""


def contract(config: Config, layer: int = 0) -> MultiHeadAttention:
    """Return the contract of the attention that a `config.json` describes.

    Args:
        config: the parsed file, whose "model_type" is one of `FAMILIES`. Dropout belongs to training and is not read.
        layer: of the model, from 0; in some families only some layers have a window.

    Raises:
        OptionError: another family, a number that is missing, or attention that is not causal.
    """
    kind = word(config, "model_type", tuple(FAMILIES))
    check_layer(layer)
    if switch(config, "use_bidirectional_attention", absent=False):
        raise OptionError("use_bidirectional_attention True must be False: the family's attention is causal")
    return FAMILIES[kind][1](config, layer)


def block(config: Config, layer: int = 0) -> EncoderBlock:
    """Return the contract of a pre-norm block: attention and gated feed-forward, each with a residual connection.

    Args:
        config: the parsed file, of Llama, Mistral or Qwen3; the others' layers have more norms, or experts.
        layer: of the model, from 0.

    Raises:
        OptionError: another family, a number that is missing, or an activation that is not known here.
    """
    _ = word(config, "model_type", BLOCKS)
    act = word(config, "hidden_act", tuple(ACTIVATIONS), "silu")
    return EncoderBlock(
        contract(config, layer),
        FeedForward(
            count(config, "hidden_size"),
            count(config, "intermediate_size"),
            ACTIVATIONS[act],
            bias=switch(config, "mlp_bias", absent=False),
        ),
        norm=RMSNorm(eps=number_or(config, "rms_norm_eps", 1e-6)),
        order="pre",
    )


def decoder(config: Config) -> Encoder:
    """Return the contract of all blocks and the final norm, between the embedding and the logits.

    Raises:
        OptionError: as `block`, or layers that are not all alike.
    """
    layers = depth(config, "num_hidden_layers")
    one = block(config)
    if any(contract(config, layer) != one.attention for layer in range(1, layers)):
        types = brief(repr(config.get("layer_types")))
        raise OptionError(f"layer_types {types} must be one type: a stack's blocks are all alike")
    return Encoder(one, layers, final_norm=one.norm)


def stacked(weight_map: WeightMap, depth: int, layers: str, norm: str, ignored: Iterable[str] = ()) -> WeightMap:
    """Return the weight map of a decoder from that of its blocks.

    Args:
        weight_map: of one block.
        depth: how many there are.
        layers: where block `{}` is: "layers.{}.".
        norm: the tensor of the norm after them.
        ignored: tensors under the same prefix that are not part of the decoder, such as the embedding.

    Raises:
        OptionError: the depth is no int that a stack may have.

    >>> stacked(BLOCK, 2, "layers.{}.", "norm.weight").rows[-1].stored
    'norm.weight'
    """
    check_depth(depth)
    rows = (row for i in range(depth) for row in under(f"layers.{i}.", layers.format(i), weight_map.rows))
    last = Row("final_norm.scale", norm, ("M",))
    return WeightMap(f"{weight_map.name}s", (*rows, last), ignored=frozenset(ignored))


def decoder_weight_map(depth: int) -> WeightMap:
    """Return the weight map of a transformers decoder, under the prefix "model."."""
    return stacked(BLOCK, depth, "layers.{}.", "norm.weight", ignored=("embed_tokens.weight",))
