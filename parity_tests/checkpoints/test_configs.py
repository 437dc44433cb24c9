"""Foreign configs and checkpoints: every option is read or refused with our own error; none is ignored silently.

contract({**config, name: odd})        a contract, or an AttentionError of less than 500 characters
llama.rope.dimension_count of GGUF     a rotary of that width, and an unknown option is refused
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from attention import spec
from attention.checkpoints import (
    bert,
    deepseek,
    flax_mha,
    gpt2,
    keras_mha,
    llama,
    t5,
    torch_mha,
    torch_transformer,
    vit,
    weight_map,
    whisper,
)
from attention.spec.errors import AttentionError, FileError, OptionError, ParamError
from examples.checkpoint_readers import ctranslate2, gguf, marian
from parity_tests.support.hostile_formats import CONFIG, gguf_arrays, gguf_bytes, gguf_options, gguf_read

LLAMA = {
    "hidden_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "intermediate_size": 8,
    "num_hidden_layers": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e4,
    "max_position_embeddings": 64,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "sliding_window": 8,
    "layer_types": ["full_attention"] * 2,
    "use_bidirectional_attention": False,
    "query_pre_attn_scalar": 16,
    "attn_logit_softcapping": 50.0,
    "use_sliding_window": True,
    "max_window_layers": 1,
    "partial_rotary_factor": 1.0,
    "rope_parameters": None,
    "rope_scaling": None,
}
ROPE = {
    "rope_theta": 1e4,
    "factor": 2.0,
    "original_max_position_embeddings": 32,
    "beta_fast": 32,
    "beta_slow": 1,
    "attention_factor": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "truncate": True,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "short_factor": [1.0] * 8,
    "long_factor": [1.0] * 8,
    "partial_rotary_factor": 1.0,
}
LATENT = {
    "hidden_size": 12,
    "num_attention_heads": 3,
    "kv_lora_rank": 7,
    "qk_nope_head_dim": 5,
    "qk_rope_head_dim": 2,
    "v_head_dim": 13,
    "q_lora_rank": 5,
    "attention_bias": True,
    "rope_interleave": True,
    "rope_parameters": {"rope_type": "yarn", "factor": 2.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 8},
}
BLOCK = {
    "d_model": 8,
    "nhead": 2,
    "dim_feedforward": 8,
    "dropout": 0.1,
    "activation": "relu",
    "layer_norm_eps": 1e-5,
    "norm_first": True,
    "bias": True,
}
SPEECH = {
    "d_model": 8,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 8,
    "decoder_ffn_dim": 8,
    "activation_function": "gelu",
}
FLAX = {"in_features": 8, "num_heads": 2, "qkv_features": 8, "use_bias": True, "num_kv_heads": 1, "in_kv_features": 8}
KERAS = {"num_heads": 2, "key_dim": 4, "value_dim": 4, "use_bias": True, "use_gate": False, "sliding_window": 3}
TORCH = {"embed_dim": 8, "num_heads": 2, "kdim": 4, "vdim": 4, "bias": True, "add_bias_kv": True, "add_zero_attn": True}
MARIAN = {"dim-emb": "8", "transformer-heads": "2", "transformer-dim-ffn": "8", "enc-depth": "2", "type": "transformer"}

Read = Callable[[Any], object]


def scaled(rope: Any) -> object:
    return llama.contract({**LLAMA, "model_type": "llama", "rope_parameters": rope})


READERS: dict[str, tuple[Read, Mapping[str, Any]]] = {
    **{f"{kind} contract": (llama.contract, {**LLAMA, "model_type": kind}) for kind in llama.FAMILIES},
    **{f"{kind} decoder": (llama.decoder, {**LLAMA, "model_type": kind}) for kind in llama.BLOCKS},
    **{
        f"rope {kind}": (scaled, {**ROPE, "rope_type": kind})
        for kind in ("default", "linear", "dynamic", "yarn", "llama3", "longrope")
    },
    "gguf decoder": (gguf.decoder, {**LLAMA, "model_type": "llama", "rotary_dim": 8, "value_dim": 16}),
    "gguf config": (gguf.config, {"general.architecture": "llama", "llama.block_count": 2, "llama.expert_count": 0}),
    "deepseek": (deepseek.contract, LATENT),
    "bert": (bert.contract, {"hidden_size": 8, "num_attention_heads": 2, "position_embedding_type": "absolute"}),
    "gpt2": (gpt2.contract, {"n_embd": 8, "n_head": 2, "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": True}),
    "flax": (flax_mha.contract, {**FLAX, "out_features": 8, "normalize_qk": True}),
    "keras": (lambda c: keras_mha.contract(c, 8), {**KERAS, "attention_axes": None, "output_shape": 4}),
    "t5": (t5.contract, {"d_model": 8, "num_heads": 2, "d_kv": 4, "relative_attention_num_buckets": 8}),
    "torch": (torch_mha.contract, TORCH),
    "torch table": (torch_mha.weight_map, TORCH),
    "torch encoder": (torch_transformer.encoder_block, BLOCK),
    "torch decoder": (torch_transformer.decoder_block, BLOCK),
    "vit": (vit.contract, {"hidden_size": 8, "num_attention_heads": 2, "head_dim": 4, "qkv_bias": True}),
    "whisper encoder": (whisper.encoder, SPEECH),
    "whisper decoder": (whisper.decoder, SPEECH),
    "marian": (marian.encoder, MARIAN),
}

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 2.5, -2.5, math.nan, math.inf, 10**400, 10**18, "", "16", "x" * 5000, "two\nlines", b"16",
    [], [1], [[1]], (), {}, {"a": 1}, {"a": {"b": 1}}, set[int](), object(), len, 1j, Fraction(1, 2), range(3), Ellipsis,
    np.float32(3), np.int64(3), np.zeros(0), np.zeros((2, 2)), np.array(["a"]), spec.Causal(),
)  # fmt: skip


def fault(read: Read, config: object) -> str:
    """Return what is wrong with what a reader makes of a config; "" for nothing."""
    try:
        _ = read(config)
    except AttentionError as error:
        return "" if len(str(error)) < 500 and "\n" not in str(error) else f"{len(str(error))} characters: {str(error)[:99]}"
    # Whatever else it raises is what is looked for.
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {error}"
    return ""


TABLES: dict[str, Read] = {
    "llama": llama.decoder_weight_map,
    "gguf": gguf.decoder_weight_map,
    "marian": lambda n: marian.weight_map(n, 1),
}


class TestLaws:
    @pytest.mark.parametrize("name", READERS)
    def test_an_odd_value_is_read_or_refused_in_our_words(self, name: str) -> None:
        read, config = READERS[name]
        _ = read(config)
        found = {("all", repr(odd)[:40]): fault(read, odd) for odd in ODD}
        found |= {(key, repr(odd)[:40]): fault(read, {**config, key: odd}) for key in config for odd in ODD}
        found |= {(key, "absent"): fault(read, {k: v for k, v in config.items() if k != key}) for key in config}
        assert {place: said for place, said in found.items() if said} == {}

    @pytest.mark.parametrize("tables", TABLES.values(), ids=TABLES)
    def test_a_table_of_any_depth_is_made_or_refused_at_once(self, tables: Read) -> None:
        assert {repr(odd)[:40]: said for odd in ODD if (said := fault(tables, odd))} == {}


def written(folder: Path, dtype: Any = np.float32, **more: Any) -> Path:
    options = gguf_options(CONFIG, **{f"llama.{name}": value for name, value in more.items()})
    arrays = {name: x.astype(dtype) for name, x in gguf_arrays().items()}
    _ = (folder / "file.gguf").write_bytes(gguf_bytes(options, arrays, {}))
    return folder / "file.gguf"


class TestValues:
    @pytest.mark.parametrize("dtype", [np.float32, np.float16])
    def test_a_gguf_file_is_read_bit_for_bit(self, dtype: Any, tmp_path: Path) -> None:
        config, tensors = gguf.read(written(tmp_path, dtype))
        assert {name: config[name] for name in CONFIG} == CONFIG
        for name, wanted in gguf_arrays().items():
            np.testing.assert_array_equal(tensors[name], wanted.astype(dtype).astype(np.float32))

    @pytest.mark.parametrize(("turned", "wanted"), [(8, 8), (16, None), (2, 2)])
    def test_as_many_features_are_turned_as_the_file_says(self, turned: int, wanted: int | None, tmp_path: Path) -> None:
        config, _ = gguf.read(written(tmp_path, **{"rope.dimension_count": turned}))
        positions = gguf.decoder(config).block.own_attention.positions
        assert positions == spec.Rotary(10_000.0, "interleaved", wanted)

    def test_a_torch_tensor_is_an_array(self) -> None:
        torch: Any = pytest.importorskip("torch")
        contract = spec.MultiHeadAttention(8, 2)
        stored = weight_map.write(contract.init(0), bert.BERT, contract)
        tensors: dict[str, Any] = {name: torch.nn.Parameter(torch.from_numpy(x)) for name, x in stored.items()}
        for name, x in weight_map.read(tensors, bert.BERT, contract).items():
            np.testing.assert_array_equal(x, contract.init(0)[name])
        low: dict[str, Any] = {name: torch.from_numpy(x).bfloat16() for name, x in stored.items()}
        for name, x in weight_map.read(low, bert.BERT, contract).items():
            assert x.dtype == ml_dtypes.bfloat16
            np.testing.assert_array_equal(x, contract.init(0)[name].astype(ml_dtypes.bfloat16))


class TestRefusals:
    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("rope.scaling.type", "linear"),
            ("rope.scaling.factor", 4.0),
            ("expert_count", 8),
            ("attention.sliding_window", 64),
            ("attention.scale", 0.5),
            ("logit_scale", 0.5),
            ("unheard.of", 1),
        ],
    )
    def test_an_option_of_a_gguf_file_that_is_not_read_is_refused(self, option: str, value: Any, tmp_path: Path) -> None:
        with pytest.raises(OptionError, match=rf"llama\.{option} .* must be absent: it is not read here"):
            _ = gguf_read(written(tmp_path, **{option: value}))

    @pytest.mark.parametrize("turned", [3, 32, 0, -2])
    def test_a_rotary_that_no_head_has(self, turned: int, tmp_path: Path) -> None:
        with pytest.raises(OptionError, match="rotary_dim"):
            _ = gguf_read(written(tmp_path, **{"rope.dimension_count": turned}))

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"hidden_size": "16"}, "config hidden_size '16' must be an int from 1 to"),
            ({"hidden_size": 33, "head_dim": None}, "num_attention_heads 2 must divide hidden_size = 33"),
            ({"num_key_value_heads": 3}, "num_kv_heads 3 must divide num_heads = 2"),
            ({"num_hidden_layers": 10**9}, "config num_hidden_layers 1000000000 must be an int from 1 to 4096"),
            ({"layer_types": ["chunked_attention"] * 2}, "layer_types 'chunked_attention' must be one of"),
            ({"layer_types": ["full_attention"]}, "must be a list with a type for layer 1"),
            ({"rope_theta": math.nan}, "config rope_theta nan must be a finite number"),
            ({"rms_norm_eps": "1e-6"}, "config rms_norm_eps '1e-6' must be a finite number"),
            ({"attention_bias": "false"}, "config attention_bias 'false' must be true or false"),
            ({"partial_rotary_factor": 1.5}, "partial_rotary_factor 1.5 must be above 0 and at most 1"),
            ({"rope_scaling": {"rope_type": "su"}}, "rope_type 'su' must be one of"),
            ({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}, "rope_parameters full_attention must be a number"),
        ],
    )
    def test_a_config_that_does_not_stand(self, change: dict[str, Any], text: str) -> None:
        with pytest.raises(OptionError, match=text):
            _ = llama.decoder({**LLAMA, "model_type": "qwen3", **change})

    @pytest.mark.parametrize("odd", [None, "x", 3, [1], object(), np.array(["a"])])
    def test_a_tensor_that_is_no_array_of_numbers(self, odd: Any) -> None:
        contract = spec.MultiHeadAttention(8, 2)
        stored = {**weight_map.write(contract.init(0), bert.BERT, contract), "self.query.weight": odd}
        with pytest.raises(ParamError, match=r"self\.query\.weight"):
            _ = weight_map.read(stored, bert.BERT, contract)

    def test_a_tensor_without_numbers(self) -> None:
        torch: Any = pytest.importorskip("torch")
        self.test_a_tensor_that_is_no_array_of_numbers(torch.zeros(8, 8, device="meta"))

    def test_what_a_format_cannot_hold_is_not_written(self) -> None:
        for model in (
            None,
            ctranslate2.Model("é", 1, {}),
            ctranslate2.Model("x", 2**40, {}),
            ctranslate2.Model("x" * 2**16, 1, {}),
        ):
            with pytest.raises(FileError):
                _ = ctranslate2.write(model)  # pyright: ignore[reportArgumentType]
