"""The example on summarisation: words, what may be copied, and that both backends learn it alike.

sum over every word that can be said or copied of P[t, w] = 1        loss = -mean log P[t, target[t]]
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

pytest.importorskip("rouge_score", reason="the example is scored by rouge-score: pip install '.[examples]'")

from examples.experiment import epoch, run_experiment
from examples.summarisation import data, model, model_jax, model_torch
from examples.summarisation.data import END, PAD, START, UNKNOWN, Pair, Vocabulary
from examples.summarisation.train import TINY, best, experiment, rouge

THINGS = ("editor", "player", "viewer", "compiler", "parser", "server", "client", "reader")
KINDS = ("text", "music", "image", "pascal", "xml", "mail", "chat", "news")
PAIRS = [
    Pair(("this", "is", "a", "simple", kind, thing, "for", "the", "desktop"), (kind, thing, f"v{i}"[: 1 + i % 3]))
    for i, (kind, thing) in enumerate((kind, thing) for kind in KINDS for thing in THINGS)
]
VOCABULARY = Vocabulary.of(PAIRS[:9], 12)
ARCHITECTURE = model.PointerGenerator(len(VOCABULARY), 6, 8)


def asked(backend: str, batch: dict[str, np.ndarray], given: np.ndarray) -> list[np.ndarray]:
    """What a fresh model says: log said, own, weights."""
    arrays = [batch["source"], batch["lengths"], given]
    if backend == "torch":
        made = model_torch.PointerGenerator(ARCHITECTURE).eval()(*map(torch.from_numpy, arrays))
        return [part.detach().numpy() for part in made]
    built = nnx.view(model_jax.PointerGenerator(ARCHITECTURE), deterministic=True)
    return [np.asarray(part) for part in built(*map(jnp.asarray, arrays))]


def losses(batch: dict[str, np.ndarray]) -> dict[str, float]:
    built = nnx.view(model_jax.PointerGenerator(ARCHITECTURE), deterministic=True)
    in_torch = model_torch.PointerGenerator(ARCHITECTURE).eval()
    return {
        "torch": model_torch.loss(in_torch, {k: torch.from_numpy(v) for k, v in batch.items()}, None).item(),
        "jax": float(model_jax.loss(built, {k: jnp.asarray(v) for k, v in batch.items()}, None)),
    }


class TestData:
    def test_a_word_without_a_number_is_numbered_by_its_first_place(self) -> None:
        words = Vocabulary.of([Pair(("a", "b"), ("a",))], 6)
        assert words.names[4:] == ("a", "b")
        assert words.source(["a", "x", "y", "x"]) == [4, 6 + 1, 6 + 2, 6 + 1]
        assert words.target(["y", "b", "z"], ["a", "x", "y"]) == [6 + 2, 5, UNKNOWN]

    def test_what_is_copied_is_read_from_the_source(self) -> None:
        words = Vocabulary.of([Pair(("a", "b"), ("a",))], 6)
        assert words.read([7, 4, END, 5], ["a", "x"]) == ("x", "a")

    def test_a_source_is_either_learned_from_or_held_out(self) -> None:
        text = "a line of words\nThe first of {} sentences has enough words to be one. The second is not read."
        learn, held = data.pairs([text.format(i) for i in range(60)] * 2)
        assert len(learn) + len(held) == 60
        assert held
        assert not {p.source for p in learn} & {p.source for p in held}

    @pytest.mark.parametrize(
        "text", ["one line alone", "line of words\nToo short.", "line\n" + "word " * 20, "a b\n" + "word " * 29]
    )
    def test_what_is_too_short_or_too_long_is_no_pair(self, text: str) -> None:
        assert data.pair(text) is None

    def test_every_example_is_drawn_once_before_any_comes_again(self) -> None:
        seen = [i for step in range(8) for i in epoch(len(PAIRS), 8, step)]
        assert sorted(seen) == list(range(len(PAIRS)))
        assert epoch(len(PAIRS), 8, 8).tolist() != epoch(len(PAIRS), 8, 0).tolist()


@pytest.mark.parametrize("backend", ["torch", "jax"])
class TestProbability:
    def test_all_words_together_have_probability_1(self, backend: str) -> None:
        batch = data.batch(PAIRS[-3:], VOCABULARY)
        given = np.full((3, 2), START)
        said, own, weights = asked(backend, batch, given)
        total = (own[..., 0] * np.exp(said).sum(-1)) + (1 - own[..., 0]) * weights.sum(-1)
        np.testing.assert_allclose(total, np.ones_like(total), atol=8 * float(np.finfo(np.float32).eps))
        assert (weights[:, :, 9:] == 0).all(), "padding is copied from"

    def test_the_loss_is_that_of_words_that_are_said_and_copied(self, backend: str) -> None:
        batch = data.batch(PAIRS[-3:], VOCABULARY)
        given = np.concatenate([np.full((3, 1), START), batch["target"][:, :-1]], 1)
        said, own, weights = asked(backend, batch, given)
        logs = []
        for b, t in zip(*np.nonzero(batch["target"] != PAD), strict=True):
            word = batch["target"][b, t]
            spoken = np.exp(said[b, t, word]) if word < len(VOCABULARY) else 0.0
            logs.append(np.log(own[b, t, 0] * spoken + (1 - own[b, t, 0]) * weights[b, t][batch["source"][b] == word].sum()))
        assert (batch["target"] >= len(VOCABULARY)).any(), "nothing can only be copied"
        assert losses(batch)[backend] == pytest.approx(-np.mean(logs), rel=64 * float(np.finfo(np.float32).eps))


class TestScores:
    def test_rouge_by_hand(self) -> None:
        # 2 of 3 words of the summary are among the 4 of the reference: F1 = 2 * 2 / (3 + 4); in order, 2 as well.
        found = rouge([Pair((), ("fast", "xml", "parser", "library"))], [("xml", "parser", "tool")])
        assert found == pytest.approx({"ROUGE-1": 400 / 7, "ROUGE-L": 400 / 7})

    def test_the_baseline_takes_the_number_of_words_that_scores_best(self) -> None:
        assert best([Pair(("a", "b", "c", "d", "e", "f"), ("a", "b", "c", "d"))]) == 4


class TestExperiment:
    def test_both_backends_learn_alike_and_write_their_numbers(self, tmp_path: Path) -> None:
        numbers: dict[str, Any] = run_experiment(experiment(PAIRS[:-6], PAIRS[-6:], TINY), tmp_path)
        assert numbers["scores"]["torch"] == numbers["scores"]["jax"]
        assert json.loads((tmp_path / "summarisation/numbers.json").read_text())["scores"] == numbers["scores"]
        assert (tmp_path / "summarisation/copying.png").stat().st_size > 10_000
        assert (tmp_path / "summarisation/losses.png").exists()
