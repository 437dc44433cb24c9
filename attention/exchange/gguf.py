"""GGUF: the files of llama.cpp, weights quantised, options and all in one.

    token_embd.weight (V, M)    blk.0.*    blk.1.*    output_norm.weight (M,)    output.weight (V, M) if it is not the embedding
    blk.0.attn_q.weight (HD, M)    attn_k (KD, M)    attn_v (KE, M)    attn_output (M, HE)    attn_norm (M,)
    blk.0.ffn_gate.weight (A, M)   ffn_up (A, M)     ffn_down (M, A)   ffn_norm (M,)

llama.cpp turns neighbouring features where transformers turns halves, so its converter permutes the rows of q and k. Here
nothing is permuted back: the contract says `style="interleaved"`, which is the same attention, read without moving a number.

References:
    ggml-org/ggml, docs/gguf.md, version 3; ggml-org/llama.cpp, convert_hf_to_gguf.py (LlamaModel.permute).
"""

# The library that reads the format has no types.
# pyright: standard

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from attention._extras import require
from attention.exchange import llama
from attention.exchange.dialect import Dialect, Row, linear, projections, under
from attention.exchange.llama import stacked
from attention.exchange.rope import rotary
from attention.spec.errors import FileError, OptionError
from attention.spec.layers.stack import Encoder

BLOCK = Dialect(
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
    "max_position_embeddings": "context_length",
}
"""What a `config.json` calls the options of a file."""


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the options of a file by the names of a `config.json`, and its tensors in float32, dequantised.

    Args:
        path: of a file whose architecture is "llama".

    Raises:
        MissingExtra: `gguf` is not installed.
        FileError: there is no such file, or it is no GGUF.
        OptionError: another architecture.
    """
    require("gguf", extra="examples", wanted_by="exchange.gguf")
    from gguf import GGUFReader, dequantize  # noqa: PLC0415 - an extra

    try:
        file = GGUFReader(path)
    except (OSError, ValueError, IndexError) as error:
        raise FileError(f"path {str(path)!r} must be a GGUF file: {error}") from error
    options = {name: field.contents() for name, field in file.fields.items() if not name.startswith("tokenizer.")}
    tensors = {tensor.name: np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32) for tensor in file.tensors}
    return config(options), tensors


def config(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a file's options by the names of a `config.json`.

    Raises:
        OptionError: another architecture than "llama", or scaled rotary positions.

    >>> config({"general.architecture": "llama", "llama.block_count": 30})
    {'model_type': 'llama', 'num_hidden_layers': 30}
    """
    kind = options.get("general.architecture")
    if kind != "llama":
        raise OptionError(f"general.architecture {kind!r} must be 'llama'")
    if scaled := [name for name in options if name.startswith("llama.rope.scaling.")]:
        raise OptionError(f"{scaled[0]} {options[scaled[0]]!r} must be absent: scaled rotary positions are not read here")
    given = {ours: options.get(f"llama.{theirs}") for ours, theirs in NAMES.items()}
    return {"model_type": kind, **{name: value for name, value in given.items() if value is not None}}


def decoder(config: Mapping[str, Any]) -> Encoder:
    """Return the contract of a file's layers and the norm after them; `config` as `read` returns it."""
    stack = llama.decoder(config)
    attention = stack.block.own_attention
    neighbours = rotary(config, attention.width, style="interleaved")
    return replace(stack, block=replace(stack.block, attention=replace(attention, positions=neighbours)))


def decoder_dialect(depth: int) -> Dialect:
    """Return the table by which a file stores a decoder."""
    return stacked(BLOCK, depth, "blk.{}.", "output_norm.weight", beside=("token_embd.weight", "output.weight"))
