"""One valid call of each public function that reads or writes foreign checkpoints.

CHECKPOINTS["vit.contract"]() = {"config": {...}}
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attention import spec
from attention.checkpoints import bert

SMALL: dict[str, Any] = {"hidden_size": 8, "num_attention_heads": 2, "hidden_act": "gelu"}
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 6,
    "num_hidden_layers": 1,
    "vocab_size": 5,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 8,
    "rope_theta": 10_000.0,
}
MHA = bert.contract(SMALL)
BLOCK = spec.EncoderBlock(spec.MultiHeadAttention(8, 2), spec.FeedForward(8, 4))

FILES = "a reader or a writer of files, which `test_hostile_files.py` sweeps with 2,000 damaged ones"
TABLE = "a part of a table of a weight map, written in this package"
READ = "a part of `contract`, which is swept; odd values of every option are in `test_configs.py`"
UNSWEPT: dict[str, str] = {
    **dict.fromkeys(("gguf.read", "gguf_file.parse", "marian.load", "ctranslate2.load", "ctranslate2.read"), FILES),
    **dict.fromkeys(("ctranslate2.write", "ctranslate2.weights", "ctranslate2.variables"), FILES),
    **dict.fromkeys(("weight_map.linear", "weight_map.projections", "weight_map.under", "llama.stacked"), TABLE),
    **dict.fromkeys(("marian.block", "marian.encoder", "gguf.decoder", "whisper.encoder", "whisper.decoder"), READ),
    **dict.fromkeys(("whisper.stack", "deepseek.contract", "torch_transformer.decoder_block"), READ),
}
"""Functions that are not swept, and why; nor are those of `config` and `rope`, of which every `contract` is made."""

CHECKPOINTS: dict[str, Callable[[], dict[str, Any]]] = {
    "bert.contract": lambda: {"config": SMALL},
    "bert.read": lambda: {
        "tensors": bert.write(MHA.init(0), bert.BERT, MHA),
        "weight_map": bert.BERT,
        "contract": MHA,
        "at": "",
    },
    "bert.write": lambda: {"weights": MHA.init(0), "weight_map": bert.BERT, "contract": MHA, "at": ""},
    "vit.contract": lambda: {"config": SMALL | {"qkv_bias": True}},
    "gpt2.contract": lambda: {"config": {"n_embd": 8, "n_head": 2}, "layer": 0, "cross": False},
    "llama.contract": lambda: {"config": LLAMA, "layer": 0},
    "llama.block": lambda: {"config": LLAMA, "layer": 0},
    "llama.decoder": lambda: {"config": LLAMA},
    "llama.decoder_weight_map": lambda: {"depth": 1},
    "t5.contract": lambda: {
        "config": {"d_model": 8, "d_kv": 4, "num_heads": 2, "relative_attention_num_buckets": 8},
        "decoder": False,
        "cross": False,
    },
    "whisper.contract": lambda: {
        "config": {"d_model": 8, "encoder_attention_heads": 2, "decoder_attention_heads": 2},
        "decoder": False,
        "cross": False,
    },
    "torch_mha.contract": lambda: {"config": {"embed_dim": 8, "num_heads": 2}},
    "torch_mha.weight_map": lambda: {"config": {"embed_dim": 8, "num_heads": 2}},
    "torch_transformer.encoder_block": lambda: {
        "config": {"d_model": 8, "nhead": 2, "dim_feedforward": 4},
        "mask": None,
    },
    "torch_transformer.weight_map": lambda: {"contract": BLOCK},
    "keras_mha.contract": lambda: {"config": {"num_heads": 2, "key_dim": 4}, "width": 8, "kdim": None, "vdim": None},
    "flax_mha.contract": lambda: {"config": {"num_heads": 2, "in_features": 8}},
    "gguf.config": lambda: {"options": {"general.architecture": "llama"}},
    "gguf.decoder_weight_map": lambda: {"depth": 1},
    "marian.weight_map": lambda: {"encoder_depth": 1, "decoder_depth": 1},
    "ctranslate2.stack": lambda: {"contract": spec.Encoder(BLOCK, 1)},
}
