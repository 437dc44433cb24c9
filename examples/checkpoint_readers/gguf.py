"""GGUF: the files of llama.cpp, weights quantised, options and all in one.

    token_embd.weight (V, M)    blk.0.*    blk.1.*    output_norm.weight (M,)    output.weight (V, M) if it is not the embedding
    blk.0.attn_q.weight (HD, M)    attn_k (KD, M)    attn_v (KE, M)    attn_output (M, HE)    attn_norm (M,)
    blk.0.ffn_gate.weight (A, M)   ffn_up (A, M)     ffn_down (M, A)   ffn_norm (M,)

llama.cpp turns neighbouring features where transformers turns halves, so its converter permutes the rows of q and k. Here
nothing is permuted back: the contract says `style="interleaved"`, which is the same attention, read without moving a number.

References:
    ggml-org/ggml, docs/gguf.md, version 3; ggml-org/llama.cpp, convert_hf_to_gguf.py (LlamaModel.permute).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from attention.checkpoints import llama
from attention.checkpoints.config import any_count, get
from attention.checkpoints.llama import stacked
from attention.checkpoints.rope import rotary
from attention.checkpoints.weight_map import Row, WeightMap, linear, projections, under
from attention.spec.errors import FileError, OptionError, shown
from attention.spec.layers.stack import Encoder
from attention.spec.storage.disk import brief, opened
from examples.checkpoint_readers.gguf_file import parse

BLOCK = WeightMap(
    "GGUF block",
    (
        *under("self_attn.", "", projections("attn_q", "attn_k", "attn_v", "attn_output")),
        *linear("ffn.gate", "ffn_gate", ("A", "M")),
        *linear("ffn.up", "ffn_up", ("A", "M")),
        *linear("ffn.down", "ffn_down", ("M", "A")),
        Row("norm1.scale", "attn_norm.weight", ("M",)),
        Row("norm2.scale", "ffn_norm.weight", ("M",)),
    ),
)

NAMES = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "intermediate_size": "feed_forward_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
    "rotary_dim": "rope.dimension_count",
    "max_position_embeddings": "context_length",
    "value_dim": "attention.value_length",
    "vocab_size": "vocab_size",
}
"""What a `config.json` calls the options of a file; "rotary_dim" and "value_dim" as GPT-J and we call them."""

NEUTRAL = {"expert_count": 0, "expert_used_count": 0, "attention.causal": True, "rope.scaling.type": "none"}
"""Options that say what is so without them."""


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the options of a file by the names of a `config.json`, and its tensors in float32, dequantised.

    Args:
        path: of a file whose architecture is "llama".

    Raises:
        MissingExtra: the weights are quantised, and `gguf` is not installed.
        FileError: there is no such file, or it is no GGUF, cut short, or damaged.
        OptionError: another architecture, or an option that is not read here.
    """
    wanted = "a GGUF file"
    with opened(path, wanted) as file:
        said = f"path {brief(repr(str(path)))} must be {wanted}"
        if not file.read(1):
            raise FileError(f"{said}: it is empty")
        options, tensors = parse(np.memmap(file, np.uint8, "r"), said)
    return config({name: value for name, value in options.items() if not name.startswith("tokenizer.")}), tensors


def config(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a file's options by the names of a `config.json`.

    Raises:
        OptionError: another architecture than "llama", or an option of it that is not read here, such as scaled rotary
            positions: reading on would drop it silently.

    >>> config({"general.architecture": "llama", "llama.block_count": 30})
    {'model_type': 'llama', 'num_hidden_layers': 30}
    """
    kind = get(options, "general.architecture")
    if not isinstance(kind, str) or kind != "llama":
        raise OptionError(f"general.architecture {brief(repr(kind), 60)} must be 'llama'")
    ours = {theirs: name for name, theirs in NAMES.items()}
    found: dict[str, Any] = {}
    for option, value in options.items():
        if not isinstance(option, str):
            raise OptionError(f"option {brief(repr(option), 60)} must be a text")
        name = option.removeprefix("llama.")
        if name in ours:
            found[ours[name]] = value
        elif name != option and not (name in NEUTRAL and type(value) is type(NEUTRAL[name]) and value == NEUTRAL[name]):
            raise OptionError(f"{brief(option, 60)} {shown(value)} must be absent: it is not read here")
    return {"model_type": kind, **{name: found[name] for name in NAMES if name in found}}


def decoder(config: Mapping[str, Any]) -> Encoder:
    """Return the contract of a file's layers and the norm after them; `config` as `read` returns it."""
    stack = llama.decoder(config)
    attention = stack.block.own_attention
    neighbours = rotary(config, attention.width, style="interleaved")
    turned = any_count(config, "rotary_dim", attention.width)
    if turned != attention.width:
        neighbours = replace(neighbours, rotary_dim=turned)
    width = any_count(config, "value_dim", attention.width)
    attention = replace(attention, positions=neighbours, value_dim=None if width == attention.width else width)
    return replace(stack, block=replace(stack.block, attention=attention))


def decoder_weight_map(depth: int) -> WeightMap:
    """Return the table by which a file stores a decoder."""
    return stacked(BLOCK, depth, "blk.{}.", "output_norm.weight", ignored=("token_embd.weight", "output.weight"))
