"""Whisper: weight maps and contracts of its encoder and decoder stacks.

    self_attn.q_proj (HD, M)    k_proj (KD, M), no bias    v_proj (KE, M)    out_proj (M, HE)        encoder_attn the same
    self_attn_layer_norm    encoder_attn_layer_norm    final_layer_norm, which is the feed-forward layer's
    fc1 (A, M)    fc2 (M, A)    layers.0.*    layers.1.*    layer_norm, which is the stack's last

References:
    Radford et al., arXiv:2212.04356; names as in Hugging Face checkpoints.
"""

# Arguments may come from code without type checks.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attention.checkpoints.config import count, depth, word
from attention.checkpoints.weight_map import Row, WeightMap, linear, projections, under
from attention.spec.errors import OptionError, shown
from attention.spec.layers.feed_forward import FeedForward
from attention.spec.layers.multi_head import MultiHeadAttention
from attention.spec.layers.stack import Decoder, Encoder, Stack
from attention.spec.layers.transformer import DecoderBlock, EncoderBlock
from attention.spec.masks import Causal
from attention.spec.norms import LayerNorm
from attention.spec.options import SWITCH, checked

WHISPER = WeightMap("Whisper", projections("q_proj", "k_proj", "v_proj", "out_proj"))

THEIRS = {"self_attn": ("self_attn", "norm1"), "cross_attn": ("encoder_attn", "norm2")}
"""Stored name of each attention (its norm has the suffix `_layer_norm`) and canonical name of its norm."""

ACTIVATIONS = ("gelu", "relu", "silu")


@checked(decoder=SWITCH, cross=SWITCH)
def contract(config: Mapping[str, Any], *, decoder: bool = False, cross: bool = False) -> MultiHeadAttention:
    """Return the contract of the attention that a Whisper `config.json` describes.

    Args:
        config: the parsed file. Dropout belongs to training and is not read.
        decoder: whether it is in the decoder; its attention to itself is causal.
        cross: whether it is the decoder's attention to the encoder.

    Raises:
        OptionError: a number is missing.
    """
    heads = count(config, "decoder_attention_heads" if decoder or cross else "encoder_attention_heads")
    mask = Causal() if decoder and not cross else None
    return MultiHeadAttention(count(config, "d_model"), heads, qkv_bias=(True, False, True), mask=mask)


def encoder(config: Mapping[str, Any]) -> Encoder:
    """Return the contract of the encoder's blocks and their last norm; arguments and errors as `contract`."""
    block = EncoderBlock(contract(config), _fed(config, "encoder"), order="pre")
    return Encoder(block, depth(config, "encoder_layers"), LayerNorm())


def decoder(config: Mapping[str, Any]) -> Decoder:
    """Return the contract of the decoder's blocks and their last norm; arguments and errors as `contract`."""
    own, cross = contract(config, decoder=True), contract(config, cross=True)
    block = DecoderBlock(own, cross, _fed(config, "decoder"), order="pre")
    return Decoder(block, depth(config, "decoder_layers"), LayerNorm())


def stack(contract: Encoder | Decoder) -> WeightMap:
    """Return the weight map of a stack, whose names in a checkpoint begin with "model.encoder." or "model.decoder.".

    Raises:
        OptionError: no stack.
    """
    if not isinstance(contract, Stack):
        raise OptionError(f"contract {shown(contract)} must be an Encoder or a Decoder")
    table = DECODER_LAYER if isinstance(contract, Decoder) else ENCODER_LAYER
    rows = [row for name in contract.parts for row in under(f"{name}.", f"{name}.", table.rows)]
    return WeightMap(f"Whisper {type(contract).__name__}", (*rows, *_norm("final_norm", "layer_norm")))


def _fed(config: Mapping[str, Any], side: str) -> FeedForward:
    activation = word(config, "activation_function", ACTIVATIONS, "gelu")
    return FeedForward(count(config, "d_model"), count(config, f"{side}_ffn_dim"), activation)


def _norm(ours: str, theirs: str) -> tuple[Row, Row]:
    return Row(f"{ours}.scale", f"{theirs}.weight", ("M",)), Row(f"{ours}.bias", f"{theirs}.bias", ("M",))


def _block(*attentions: str) -> tuple[Row, ...]:
    rows: list[Row] = []
    for ours in attentions:
        theirs, norm = THEIRS[ours]
        rows += [*under(f"{ours}.", f"{theirs}.", WHISPER.rows), *_norm(norm, f"{theirs}_layer_norm")]
    fed = (*linear("ffn.up", "fc1", ("A", "M")), *linear("ffn.down", "fc2", ("M", "A")))
    return (*rows, *fed, *_norm(f"norm{len(attentions) + 1}", "final_layer_norm"))


ENCODER_LAYER = WeightMap("Whisper encoder layer", _block("self_attn"))
DECODER_LAYER = WeightMap("Whisper decoder layer", _block("self_attn", "cross_attn"))
