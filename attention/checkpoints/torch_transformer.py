"""`torch.nn.TransformerEncoderLayer`, `TransformerDecoderLayer` and their stacks: weight maps and contracts.

    self_attn.in_proj_weight (3 HD, M)    self_attn.out_proj.weight (M, HE)    multihead_attn.* likewise: the memory's
    linear1.weight (A, M)    linear2.weight (M, A)    norm1.weight (M,)    norm1.bias (M,)    norm2, and norm3 in a decoder
    layers.0.*    layers.1.*    norm.weight (M,)    norm.bias (M,)         in TransformerEncoder and TransformerDecoder

Masks and `batch_first` belong to a call. A `key_padding_mask` that forbids is `Lengths(kv=...)`; a
causal `attn_mask` is `mask=Causal()` of the attention.

References:
    torch.nn.TransformerEncoderLayer and its kin, version 2.13.
"""

# Arguments may come from code without type checks.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from attention.checkpoints.config import any_count, count, number_or, switch, word
from attention.checkpoints.torch_mha import PACKED
from attention.checkpoints.weight_map import Row, WeightMap, linear, under
from attention.spec.errors import OptionError, shown
from attention.spec.layers.block import Block
from attention.spec.layers.feed_forward import FeedForward
from attention.spec.layers.multi_head import MultiHeadAttention
from attention.spec.layers.stack import Decoder, Encoder, Stack
from attention.spec.layers.transformer import DecoderBlock, EncoderBlock
from attention.spec.masks.algebra import Mask
from attention.spec.norms import LayerNorm
from attention.spec.storage.disk import brief

THEIRS = {"self_attn": "self_attn", "cross_attn": "multihead_attn"}
ACTIVATIONS = ("relu", "gelu")


def _norm(ours: str, theirs: str) -> tuple[Row, Row]:
    return Row(f"{ours}.scale", f"{theirs}.weight", ("M",)), Row(f"{ours}.bias", f"{theirs}.bias", ("M",))


def _block(*attentions: str) -> tuple[Row, ...]:
    parts = (under(f"{name}.", f"{THEIRS[name]}.", PACKED.rows) for name in attentions)
    norms = (_norm(f"norm{i}", f"norm{i}") for i in range(1, len(attentions) + 2))
    fed = (*linear("ffn.up", "linear1", ("A", "M")), *linear("ffn.down", "linear2", ("M", "A")))
    return (*(row for rows in parts for row in rows), *fed, *(row for rows in norms for row in rows))


ENCODER_LAYER = WeightMap("torch.nn.TransformerEncoderLayer", _block("self_attn"))
DECODER_LAYER = WeightMap("torch.nn.TransformerDecoderLayer", _block("self_attn", "cross_attn"))


def encoder_block(config: Mapping[str, Any], mask: Mask | None = None) -> EncoderBlock:
    """Return the contract of `torch.nn.TransformerEncoderLayer(**config)`.

    Args:
        config: its arguments; `batch_first`, `device` and `dtype` are matters of a call.
        mask: stands for every `src_mask`.

    Raises:
        OptionError: a number is missing, or the activation is neither "relu" nor "gelu".
    """
    return EncoderBlock(_attention(config, mask), _feed_forward(config), **_options(config))


def decoder_block(config: Mapping[str, Any], mask: Mask | None = None) -> DecoderBlock:
    """Return the contract of `torch.nn.TransformerDecoderLayer(**config)`; `mask` stands for every `tgt_mask`."""
    return DecoderBlock(_attention(config, mask), _attention(config), _feed_forward(config), **_options(config))


def weight_map(contract: EncoderBlock | DecoderBlock | Encoder | Decoder) -> WeightMap:
    """Return the weight map of a layer or a stack of torch.

    Raises:
        OptionError: torch has no such layer: the mathematics would be another.
    """
    if not isinstance(contract, (Block, Stack)):
        raise OptionError(f"contract {shown(contract)} must be a block or a stack of blocks")
    block = contract if isinstance(contract, Block) else contract.block
    _check(block)
    table = DECODER_LAYER if isinstance(block, DecoderBlock) else ENCODER_LAYER
    if isinstance(contract, Block):
        return table
    rows = tuple(row for name in contract.parts for row in under(f"{name}.", f"{name}.", table.rows))
    return WeightMap(f"torch.nn.Transformer{type(contract).__name__}", (*rows, *_norm("final_norm", "norm")))


def _attention(config: Mapping[str, Any], mask: Mask | None = None) -> MultiHeadAttention:
    bias = switch(config, "bias", absent=True)
    return MultiHeadAttention(
        embed_dim=count(config, "d_model"),
        num_heads=count(config, "nhead"),
        qkv_bias=bias,
        out_bias=bias,
        mask=mask,
        dropout_rate=number_or(config, "dropout", 0.1),
    )


def _feed_forward(config: Mapping[str, Any]) -> FeedForward:
    return FeedForward(
        embed_dim=count(config, "d_model"),
        hidden_dim=any_count(config, "dim_feedforward") or 2048,
        activation=word(config, "activation", ACTIVATIONS, "relu"),
        bias=switch(config, "bias", absent=True),
        dropout_rate=number_or(config, "dropout", 0.1),
    )


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "norm": LayerNorm(eps=number_or(config, "layer_norm_eps", 1e-5), bias=switch(config, "bias", absent=True)),
        "order": "pre" if switch(config, "norm_first", absent=False) else "post",
        "dropout_rate": number_or(config, "dropout", 0.1),
    }


def _check(block: Block) -> None:
    """Raise OptionError for options with torch's names and shapes but another meaning."""
    if not isinstance(block.norm, LayerNorm):
        raise OptionError(f"norm {brief(repr(block.norm))} must be LayerNorm(...), torch's only one")
    for name, part in block.parts.items():
        if not isinstance(part, MultiHeadAttention):
            continue
        wanted = MultiHeadAttention(
            part.embed_dim, part.num_heads, qkv_bias=part.qkv_bias, out_bias=part.out_bias, dropout_rate=part.dropout_rate
        )
        if part.params != wanted.params or replace(part, mask=None, precision=None, **_DERIVED) != wanted:
            got = brief(repr(part))
            raise OptionError(f"{name} {got} must be plain: torch's layer has no option but num_heads, bias and dropout")


_DERIVED: dict[str, None] = dict.fromkeys(("num_kv_heads", "head_dim", "value_dim", "kdim", "vdim", "out_dim"))
"""Options that follow from the parameters, if present."""
