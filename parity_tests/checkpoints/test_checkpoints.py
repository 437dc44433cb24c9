"""Weight maps of checkpoints: tables that rename, reshape, transpose and cut, exact in both directions."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from attention import spec
from attention.checkpoints import bert, deepseek, flax_mha, gpt2, keras_mha, llama, rope, t5, torch_mha, vit, whisper
from attention.checkpoints.weight_map import Row, WeightMap, read, write
from attention.spec.errors import OptionError, ParamError
from attention.spec.layers.contract import Contract

# Unequal primes, so that a swapped axis cannot pass.
M, H, K, D, E = 11, 6, 3, 5, 7
GROUPED = spec.MultiHeadAttention(M, H, K, D, E, positions=None)
CONFIG = {"hidden_size": 30, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 4}
ROPE = {"rope_type": "default", "rope_theta": 1e6}
LATENT = {
    "hidden_size": 11,
    "num_attention_heads": 3,
    "kv_lora_rank": 7,
    "qk_nope_head_dim": 5,
    "qk_rope_head_dim": 2,
    "v_head_dim": 13,
}
TORCH = {"embed_dim": 6, "num_heads": 2, "add_bias_kv": True}
CASES: dict[str, tuple[WeightMap, Contract]] = {
    "BERT": (bert.BERT, spec.MultiHeadAttention(35, 5)),
    "Llama": (llama.LLAMA, llama.contract({**CONFIG, "model_type": "llama", "attention_bias": True})),
    "Mistral": (llama.MISTRAL, llama.contract({**CONFIG, "model_type": "mistral"})),
    "Gemma2": (llama.GEMMA2, llama.contract({**CONFIG, "model_type": "gemma2"})),
    "Qwen3": (llama.QWEN3, llama.contract({**CONFIG, "model_type": "qwen3"})),
    "GPT-OSS": (llama.GPT_OSS, llama.contract({**CONFIG, "model_type": "gpt_oss"})),
    "DeepSeek-V3": (deepseek.DEEPSEEK, deepseek.contract({**LATENT, "q_lora_rank": 5, "attention_bias": True})),
    "DeepSeek-V3 lite": (deepseek.DEEPSEEK, deepseek.contract(LATENT)),
    "GPT-2": (gpt2.GPT2, gpt2.contract({"n_embd": 35, "n_head": 5})),
    "GPT-2 cross": (gpt2.GPT2_CROSS, gpt2.contract({"n_embd": 35, "n_head": 5}, cross=True)),
    "T5": (t5.T5, t5.contract({"d_model": 11, "num_heads": 3, "d_kv": 5})),
    "T5 cross": (t5.T5, t5.contract({"d_model": 11, "num_heads": 3, "d_kv": 5}, cross=True)),
    "ViT": (vit.VIT, vit.contract({"hidden_size": 35, "num_attention_heads": 5, "qkv_bias": False})),
    "ViT file": (vit.VIT_FILE, vit.contract({"hidden_size": 35, "num_attention_heads": 5})),
    "Whisper": (whisper.WHISPER, whisper.contract({"d_model": 35, "encoder_attention_heads": 5})),
    "torch packed": (torch_mha.PACKED, torch_mha.contract(TORCH)),
    "torch separate": (torch_mha.SEPARATE, torch_mha.contract({**TORCH, "kdim": 5, "bias": False})),
    "torch of ours": (torch_mha.PACKED, GROUPED),
    "flax": (flax_mha.FLAX, flax_mha.contract({"num_heads": 6, "in_features": 12, "num_kv_heads": 3, "normalize_qk": True})),
    "keras": (keras_mha.KERAS, keras_mha.contract({"num_heads": 3, "key_dim": 5, "value_dim": 7}, 11, 13, 17)),
}


def random(contract: Contract, dtype: str = "float32") -> spec.Weights:
    rng = np.random.default_rng(1)
    return {name: rng.standard_normal(param.shape).astype(dtype) for name, param in contract.params.items()}


class TestLaws:
    @pytest.mark.parametrize("dtype", ["float16", "float64"])
    @pytest.mark.parametrize("name", CASES)
    def test_round_trip_is_exact(self, name: str, dtype: str) -> None:
        weight_map, contract = CASES[name]
        weights = random(contract, dtype)
        stored = write(weights, weight_map, contract, at="at.")
        back = read({**stored, "elsewhere.weight": np.zeros(3)}, weight_map, contract, at="at.")
        assert list(back) == list(weights)
        for part, value in weights.items():
            assert back[part].dtype == value.dtype
            np.testing.assert_array_equal(back[part], value)
        assert not any(np.shares_memory(x, y) for x in weights.values() for y in stored.values())

    @pytest.mark.parametrize("name", CASES)
    def test_no_number_is_lost_or_doubled(self, name: str) -> None:
        weight_map, contract = CASES[name]
        stored = write(random(contract), weight_map, contract)
        assert sum(x.size for x in stored.values()) == sum(math.prod(p.shape) for p in contract.params.values())

    @pytest.mark.parametrize("name", CASES)
    def test_every_row_with_a_bar_has_company(self, name: str) -> None:
        weight_map, contract = CASES[name]
        for rows in weight_map.tensors(contract.params).values():
            assert (len(rows) > 1) == (rows[0].cut is not None)
            assert len({row.cut for row in rows}) == 1


class TestValues:
    def test_packed_rows_are_q_then_k_then_v(self) -> None:
        weights = random(GROUPED)
        stored = write(weights, torch_mha.PACKED, GROUPED)
        packed = stored["in_proj_weight"]
        assert packed.shape == (H * D + K * D + K * E, M)
        np.testing.assert_array_equal(packed[: H * D], weights["q_proj.kernel"].reshape(M, -1).T)
        np.testing.assert_array_equal(packed[H * D : (H + K) * D], weights["k_proj.kernel"].reshape(M, -1).T)
        np.testing.assert_array_equal(packed[(H + K) * D :], weights["v_proj.kernel"].reshape(M, -1).T)
        np.testing.assert_array_equal(stored["in_proj_bias"][H * D :][: K * D], weights["k_proj.bias"].reshape(-1))

    def test_gpt2_stores_inputs_first(self) -> None:
        weight_map, contract = CASES["GPT-2"]
        weights = random(contract)
        stored = write(weights, weight_map, contract)
        np.testing.assert_array_equal(stored["c_attn.weight"][:, 35:70], weights["k_proj.kernel"].reshape(35, 35))
        np.testing.assert_array_equal(stored["c_proj.weight"], weights["out_proj.kernel"].reshape(35, 35))

    def test_a_bar_within_an_axis_cuts_every_head(self) -> None:
        # Each head's keys lie before its values, as in DeepSeek's kv_b_proj, were it read as two.
        weight_map = WeightMap("", (Row("k_proj.kernel", "w", ("K|D", "M")), Row("v_proj.kernel", "w", ("K|E", "M"))))
        params = {name: GROUPED.params[name] for name in ("k_proj.kernel", "v_proj.kernel")}
        weights = random(GROUPED)
        # Only its parameters are looked at.
        two = cast("Contract", SimpleNamespace(params=params))
        stored = write({name: weights[name] for name in params}, weight_map, two)["w"]
        np.testing.assert_array_equal(stored[:D], weights["k_proj.kernel"][:, 0].T)
        np.testing.assert_array_equal(stored[D : D + E], weights["v_proj.kernel"][:, 0].T)
        np.testing.assert_array_equal(read({"w": stored}, weight_map, two)["v_proj.kernel"], weights["v_proj.kernel"])

    def test_learned_keys_have_axes_of_one(self) -> None:
        weight_map, contract = CASES["torch packed"]
        weights = random(contract)
        stored = write(weights, weight_map, contract)
        assert stored["bias_k"].shape == (1, 1, 6)
        np.testing.assert_array_equal(stored["bias_k"][0, 0, 3:], weights["bias_k"][1])

    def test_flax_and_keras_hold_our_layout(self) -> None:
        for name, out in (("flax", "out"), ("keras", "attention_output")):
            weight_map, contract = CASES[name]
            weights = random(contract)
            stored = write(weights, weight_map, contract)
            np.testing.assert_array_equal(stored["key.kernel"], weights["k_proj.kernel"])
            np.testing.assert_array_equal(stored[f"{out}.kernel"], weights["out_proj.kernel"])

    def test_a_window_of_theirs_counts_the_query_itself(self) -> None:
        window = spec.Causal() & spec.Window(before=2, after=0)
        made = llama.contract({**CONFIG, "model_type": "mistral", "sliding_window": 3})
        assert repr(made.mask) == repr(window)
        assert repr(llama.contract({**CONFIG, "model_type": "mistral", "sliding_window": None}).mask) == repr(spec.Causal())

    @pytest.mark.parametrize(
        ("kind", "windowed"), [("gemma2", (True, False)), ("gpt_oss", (True, False)), ("qwen3", (False,) * 2)]
    )
    def test_layers_without_layer_types_follow_the_familys_rule(self, kind: str, windowed: tuple[bool, ...]) -> None:
        made = [llama.contract({**CONFIG, "model_type": kind}, layer) for layer in (0, 1)]
        assert tuple("Window" in repr(c.mask) for c in made) == windowed
        kinds = {"layer_types": ["full_attention", "sliding_attention"], "use_sliding_window": True}
        made = [llama.contract({**CONFIG, "model_type": kind, **kinds}, layer) for layer in (0, 1)]
        assert [("Window" in repr(c.mask)) for c in made] == [False, True]

    def test_gpt2_may_scale_by_the_layer(self) -> None:
        config = {"n_embd": 36, "n_head": 4, "scale_attn_by_inverse_layer_idx": True}
        assert gpt2.contract(config, 2).score == spec.ScaledDot(1 / 9)
        assert gpt2.contract({**config, "scale_attn_weights": False}, 2).score == spec.ScaledDot(1 / 3)

    def test_torchs_vdim_is_embed_dim_unless_given(self) -> None:
        config = {"embed_dim": 6, "num_heads": 2, "kdim": 5}
        assert torch_mha.contract(config).inputs == {"query": 6, "key": 5, "value": 6}
        assert [torch_mha.weight_map(c) for c in (config, TORCH)] == [torch_mha.SEPARATE, torch_mha.PACKED]


SCALED: dict[str, tuple[dict[str, Any], spec.Rotary]] = {
    "none": ({}, spec.Rotary()),
    "theta": ({"rope_theta": 5e5}, spec.Rotary(5e5)),
    "present": ({"rope_parameters": ROPE}, spec.Rotary(1e6)),
    "partial": ({"partial_rotary_factor": 0.5}, spec.Rotary(rotary_dim=4)),
    "linear": ({"rope_scaling": {"type": "linear", "factor": 2}}, spec.Rotary(scaling=spec.LinearScaling(2.0))),
    "dynamic": (
        {"rope_scaling": {"rope_type": "dynamic", "factor": 2}, "max_position_embeddings": 64},
        spec.Rotary(scaling=spec.DynamicNTKScaling(2.0, 64)),
    ),
    "yarn": (
        {"rope_parameters": {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 16, "mscale": 0}},
        spec.Rotary(scaling=spec.YarnScaling(4.0, 16)),
    ),
    "yarn by lengths": (
        {"rope_parameters": {"rope_type": "yarn", "original_max_position_embeddings": 16}, "max_position_embeddings": 64},
        spec.Rotary(scaling=spec.YarnScaling(4.0, 16)),
    ),
    "llama3": (
        {
            "rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4},
            "max_position_embeddings": 64,
        },
        spec.Rotary(scaling=spec.Llama3Scaling(8.0, 1.0, 4.0, 64)),
    ),
    "longrope": (
        {
            "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4},
            "max_position_embeddings": 64,
            "original_max_position_embeddings": 16,
        },
        spec.Rotary(scaling=spec.LongRopeScaling((1.0,) * 4, (2.0,) * 4, 16, factor=4.0)),
    ),
}


class TestRope:
    @pytest.mark.parametrize("name", SCALED)
    def test_a_config_says_which_rotary(self, name: str) -> None:
        config, wanted = SCALED[name]
        assert rope.rotary(config, 8) == wanted

    def test_gpt_oss_and_deepseek_have_their_own(self) -> None:
        made = llama.contract({**CONFIG, "model_type": "gpt_oss"})
        assert made.positions == spec.Rotary(150_000.0, scaling=spec.YarnScaling(32.0, 4096, truncate=False))
        assert deepseek.contract(LATENT).positions == spec.Rotary(style="interleaved")
        assert deepseek.contract({**LATENT, "rope_interleave": False}).positions == spec.Rotary()

    def test_deepseek_sharpens_its_scores_where_yarn_does(self) -> None:
        yarn = {"rope_type": "yarn", "factor": 40, "original_max_position_embeddings": 16, "mscale_all_dim": 1.0}
        score = deepseek.contract({**LATENT, "rope_parameters": yarn}).score
        assert score == spec.ScaledDot((0.1 * math.log(40) + 1) ** 2 / math.sqrt(7))
        assert deepseek.contract(LATENT).score == spec.ScaledDot(1 / math.sqrt(7))


class TestRefusals:
    def test_every_fault_of_a_packed_tensor_is_named(self) -> None:
        weight_map, contract = CASES["torch packed"]
        stored = write(random(contract), weight_map, contract)
        stored["in_proj_weight"] = np.zeros((17, 6), np.float32)
        del stored["bias_v"]
        with pytest.raises(ParamError) as caught:
            _ = read(stored, weight_map, contract)
        assert str(caught.value) == (
            "torch.nn.MultiheadAttention tensors under '' do not fit: missing bias_v (1, 1, 6); "
            "in_proj_weight (17, 6) must be (18, 6)"
        )

    def test_a_parameter_without_a_row_is_refused_both_ways(self) -> None:
        contract = spec.MultiHeadAttention(35, 5, sinks=True)
        for call in (lambda: write(random(contract), bert.BERT, contract), lambda: read({}, bert.BERT, contract)):
            with pytest.raises(ParamError) as caught:
                _ = call()
            assert str(caught.value) == "BERT has no tensor for sinks"

    def test_biases_that_the_contract_lacks_are_not_dropped(self) -> None:
        with_bias = llama.contract({**CONFIG, "model_type": "llama", "attention_bias": True})
        without = llama.contract({**CONFIG, "model_type": "llama"})
        with pytest.raises(ParamError, match=r"unexpected q_proj\.bias \(24,\)"):
            _ = read(write(random(with_bias), llama.LLAMA, with_bias), llama.LLAMA, without)

    @pytest.mark.parametrize(
        ("call", "text"),
        [
            (
                lambda: llama.contract({"model_type": "phi"}),
                (
                    "model_type 'phi' must be one of 'llama', 'mistral', 'gemma', 'gemma2', 'gemma3_text', 'qwen2', 'qwen3',"
                    " 'gpt_oss'"
                ),
            ),
            (
                lambda: llama.contract({"model_type": "gemma2", "use_bidirectional_attention": True}),
                "use_bidirectional_attention True must be False: the family's attention is causal",
            ),
            (lambda: llama.contract({"model_type": "llama"}), "config hidden_size None must be given"),
            (
                lambda: rope.rotary({"rope_parameters": {"rope_type": "proportional"}}, 8),
                "rope_type 'proportional' must be one of 'default', 'linear', 'dynamic', 'yarn', 'llama3', 'longrope'",
            ),
            (
                lambda: flax_mha.contract({"num_heads": 5, "in_features": 12}),
                "num_heads 5 must divide qkv_features = 12",
            ),
            (
                lambda: keras_mha.contract({"num_heads": 3, "key_dim": 5, "attention_axes": (1, 2)}, 11),
                "attention_axes (1, 2) must be None: one axis is attended over",
            ),
            (
                lambda: keras_mha.contract({"num_heads": 3, "key_dim": 5, "output_shape": (2, 3)}, 11),
                "output_shape (2, 3) must be an int or None: outputs have one axis of features",
            ),
        ],
    )
    def test_what_cannot_be_read_is_refused(self, call: Any, text: str) -> None:
        with pytest.raises(OptionError) as caught:
            _ = call()
        assert str(caught.value) == text
