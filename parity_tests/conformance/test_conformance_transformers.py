"""The attention modules of `transformers`, with tiny random configs, beside ours: outputs and every gradient."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from attention import spec
from attention.checkpoints import bert, deepseek, gpt2, llama, rope, t5, vit, whisper
from attention.parity.contracts import backends

pytest.importorskip(
    "transformers", reason="the extra 'conformance' brings transformers: pip install attention-parity[conformance]"
)

from conformance import transformers_modules as modules
from conformance.peers import LIMIT, apart, compare, widened

NAMES = (
    "Llama",
    "Llama 3",
    "Mistral",
    "Gemma2 window",
    "Gemma2",
    "Qwen2",
    "Qwen3",
    "GPT-OSS window",
    "GPT-OSS",
    "DeepSeek-V3",
    "DeepSeek-V3 half",
    "GPT-2",
    "GPT-2 cross",
    "T5 encoder",
    "T5 decoder",
    "T5 cross",
    "Whisper encoder",
    "Whisper decoder",
    "Whisper cross",
    "BERT",
    "ViT",
)
ALIKE = {
    "Llama",
    "Gemma2",
    "Qwen2",
    "GPT-OSS",
    "DeepSeek-V3 half",
    "GPT-2 cross",
    "T5 cross",
    "Whisper encoder",
    "Whisper decoder",
}
"""Those that differ from a neighbour in an option alone: `python -m conformance transformers` asks JAX of them too."""
each_module = pytest.mark.parametrize("name", NAMES)
Subjects = dict[str, modules.Subject]


@pytest.fixture(scope="module")
def subjects() -> Subjects:
    # transformers is imported once, here, and not while tests are collected.
    return {subject.name: subject for subject in modules.subjects()}


class TestLaws:
    @each_module
    def test_outputs_and_gradients_agree_in_float64_and_float32(self, subjects: Subjects, name: str) -> None:
        backends = ("torch",) if name in ALIKE else ("torch", "jax")
        lines = compare(subjects[name].probe(), subjects[name].run, backends)
        wanted = [(backend, dtype) for backend in backends for dtype in ("float64", "float32")]
        assert [(line.backend, line.dtype) for line in lines] == [*wanted, ("theirs", "float32")]
        assert not [line for line in lines if not line.passed]

    def test_every_module_is_asked(self, subjects: Subjects) -> None:
        assert tuple(subjects) == NAMES

    @each_module
    def test_inputs_and_parameters_are_all_compared(self, subjects: Subjects, name: str) -> None:
        subject = subjects[name]
        probe = subject.probe()
        wanted = {"output", *(f"d {n}" for n in (*probe.arrays, *subject.contract.params))}
        assert set(subject.run(probe)) == wanted

    @each_module
    def test_modules_that_narrow_have_no_float64_of_their_own(self, subjects: Subjects, name: str) -> None:
        subject = subjects[name]
        probe = widened(subject.probe())
        lost = apart(subject.run(probe, narrow=True), subject.run(probe))
        assert lost == 0 if name.startswith(modules.WIDE) else 1e-9 < lost < 1e-5


HALVES = spec.Rotary(100.0, scaling=spec.YarnScaling(4.0, 64, beta_fast=4.0, mscale=1.0, mscale_all_dim=0.8))
MUTANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "window of one key more": ("Mistral", {"mask": spec.Causal() & spec.Window(before=3, after=0)}),
    "no window": ("GPT-OSS window", {"mask": spec.Causal()}),
    "default scale": ("Gemma2", {"score": spec.ScaledDot()}),
    "no soft cap": ("Gemma2", {"softcap": None}),
    "another eps": ("Qwen3", {"qk_norm": spec.RMSNorm(eps=1e-5)}),
    "scaled scores": ("T5 encoder", {"score": spec.ScaledDot()}),
    "neighbours for halves": ("Llama", {"positions": spec.Rotary(style="interleaved")}),
    "halves for neighbours": ("DeepSeek-V3", {"positions": HALVES}),
    "unscaled rotary": ("Llama 3", {"positions": spec.Rotary()}),
    "unsharpened scores": ("DeepSeek-V3", {"score": spec.ScaledDot()}),
    "truncated ramp": ("GPT-OSS", {"positions": spec.Rotary(100.0, scaling=spec.YarnScaling(4.0, 64, beta_fast=4.0))}),
    "buckets of one direction": ("T5 encoder", {"positions": spec.RelativeBias(6, 7, bidirectional=False)}),
    "no causal mask": ("Whisper decoder", {"mask": None}),
}


def strayed(subject: modules.Subject, contract: Any) -> float:
    """Return how far our layer of `contract` is from their module, as a share of the largest element."""
    probe = widened(subject.probe())
    return apart(backends.find("torch").run(replace(probe, contract=contract), "auto").results, subject.run(probe))


class TestMutants:
    @pytest.mark.parametrize("mistake", MUTANTS)
    def test_a_wrong_contract_is_seen(self, subjects: Subjects, mistake: str) -> None:
        name, options = MUTANTS[mistake]
        contract: Any = subjects[name].contract
        assert replace(contract, **options) != contract
        assert strayed(subjects[name], replace(contract, **options)) > 1e4 * LIMIT

    def test_exchanged_rows_are_seen(self, subjects: Subjects) -> None:
        subject = subjects["GPT-2"]
        # Keys, values, queries: the matrix fits in this order too.
        wrong = replace(gpt2.GPT2, rows=gpt2.GPT2.rows[2:] + gpt2.GPT2.rows[:2])
        assert strayed(replace(subject, weight_map=wrong), subject.contract) > 1e4 * LIMIT


class TestDifferences:
    def test_their_row_without_a_key_is_the_mean_of_all_values_and_ours_is_zero(
        self, subjects: Subjects, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        subject = subjects["Mistral"]
        probe = widened(replace(subject.probe(), mask=spec.Lengths(kv=modules.EMPTY)))
        monkeypatch.setattr(modules, "LENGTHS", modules.EMPTY)
        theirs = subject.run(probe)["output"]
        ours = backends.find("torch").run(probe, "auto").results["output"]
        # Row 2 has two tokens, and a window of three keys: from query 4 on there is nothing to see.
        np.testing.assert_allclose(theirs[2, :4], ours[2, :4], rtol=0, atol=1e-12)
        np.testing.assert_array_equal(ours[2, 4:], 0.0)
        values = np.einsum("bsm,mke->bske", probe.arrays["query"], probe.weights["v_proj.kernel"])
        mean = np.repeat(values[2].mean(axis=0), 2, axis=0)
        expected = np.einsum("he,hem->m", mean, probe.weights["out_proj.kernel"])
        np.testing.assert_allclose(theirs[2, 4:], np.broadcast_to(expected, theirs[2, 4:].shape), rtol=0, atol=1e-12)


ROPES: dict[str, dict[str, Any]] = {
    "linear": {"factor": 3.0},
    "dynamic": {"factor": 3.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 8.0},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16},
    "longrope": {"short_factor": [1.0, 1.1, 1.3], "long_factor": [2.0, 3.0, 4.0], "original_max_position_embeddings": 16},
}
SIZES = {"hidden_size": 20, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "num_hidden_layers": 2}


class TestConfigs:
    @pytest.mark.parametrize("kind", ROPES)
    def test_frequencies_are_theirs(self, kind: str) -> None:
        functions = importlib.import_module("transformers.modeling_rope_utils").ROPE_INIT_FUNCTIONS
        given = {"rope_type": kind, "rope_theta": 1e4, **ROPES[kind]}
        config = modules._config("llama", **SIZES, max_position_embeddings=64, rope_parameters=given)  # noqa: SLF001
        rotary = rope.rotary(config.to_dict(), 6)
        for length in (9, 64, 100):
            with modules.Widened():
                wanted, amplitude = functions[kind](config, torch.device("cpu"), seq_len=length)
            np.testing.assert_allclose(rotary.frequencies(6, length), wanted.numpy(), rtol=1e-14)
            assert (rotary.scaling.amplitude if rotary.scaling else 1.0) == pytest.approx(amplitude, rel=1e-15)

    @pytest.mark.parametrize("kind", llama.FAMILIES)
    @pytest.mark.parametrize("layer", [0, 1])
    def test_what_a_config_leaves_out_means_what_it_means_to_them(self, kind: str, layer: int) -> None:
        whole = modules._config(kind, **SIZES).to_dict()  # noqa: SLF001
        assert repr(llama.contract({**SIZES, "model_type": kind}, layer)) == repr(llama.contract(whole, layer))

    @pytest.mark.parametrize(
        ("kind", "made", "sizes"),
        [
            ("bert", bert.contract, {"hidden_size": 20, "num_attention_heads": 4}),
            ("gpt2", gpt2.contract, {"n_embd": 20, "n_head": 4}),
            ("t5", t5.contract, {"d_model": 20, "num_heads": 4, "d_kv": 6}),
            ("vit", vit.contract, {"hidden_size": 20, "num_attention_heads": 4}),
            ("whisper", whisper.contract, {"d_model": 20, "encoder_attention_heads": 4}),
            (
                "deepseek_v3",
                deepseek.contract,
                {
                    "hidden_size": 20,
                    "num_attention_heads": 4,
                    "kv_lora_rank": 7,
                    "q_lora_rank": 6,
                    "qk_nope_head_dim": 3,
                    "qk_rope_head_dim": 4,
                    "v_head_dim": 5,
                },
            ),
        ],
    )
    def test_the_other_families_too(self, kind: str, made: Any, sizes: dict[str, int]) -> None:
        assert repr(made(sizes)) == repr(made(modules._config(kind, **sizes).to_dict()))  # noqa: SLF001
