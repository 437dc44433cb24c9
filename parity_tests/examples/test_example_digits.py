"""The example on connected words: what is heard, where it is, and that both backends learn it alike.

features[t] covers [t, t + 1) * FRAME seconds        word error rate = (insertions + deletions + substitutions) / words said
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("jiwer", reason="the example is scored by jiwer: pip install '.[examples]'")

from examples.experiment import run_experiment
from examples.speech import connected
from examples.speech.connected import BANDS, FRAME, FRAMES, MOST_WORDS, PAD, RATE, STACKED, Utterance, utterance
from examples.speech.digits import TINY, error_rate, evenly, experiment, scores
from examples.speech.prompts import Prompt


def tone(hertz: float, seconds: float = 0.4) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE).astype(np.float32)


SAID = {name: tone(hertz) for name, hertz in (("low", 300.0), ("mid", 900.0), ("high", 2700.0))}


class TestSound:
    def test_each_digit_and_letter_is_taken_without_the_silence_around_it(self) -> None:
        silence = np.zeros(RATE)
        files = {"digits/7": "seven", "letters/q": "q", "digits/70": "seventy", "letters/at": "at", "vm-and": "and"}
        found = connected.takes(
            [Prompt(name, text, np.concatenate([silence, tone(500.0), silence])) for name, text in files.items()]
        )
        assert sorted(found) == ["q", "seven"]
        assert all(abs(len(take) - len(tone(500.0))) < 20 for take in found.values())

    def test_a_tone_is_loudest_in_the_band_of_its_frequency(self) -> None:
        loudest = [connected.features(SAID[name]).reshape(-1, BANDS)[8].argmax() for name in ("low", "mid", "high")]
        assert loudest == sorted(loudest)
        assert len(set(loudest)) == 3

    def test_every_frequency_is_heard_in_bands_whose_shares_make_one(self) -> None:
        inner = connected.bands()[10:-20]
        np.testing.assert_allclose(inner.sum(1), 1.0, atol=1e-12)

    def test_a_step_of_the_model_is_its_share_of_the_sound(self) -> None:
        sound = np.concatenate([np.zeros(RATE), tone(900.0, 1.0), np.zeros(RATE)])
        loud = np.flatnonzero(connected.features(sound).max(1) > 0)
        assert abs(loud[0] * FRAME - 1.0) <= FRAME
        assert abs((loud[-1] + 1) * FRAME - 2.0) <= 2 * FRAME

    def test_a_stretched_recording_lasts_longer_and_is_lower(self) -> None:
        slow = connected.stretched(SAID["mid"], 1.1)
        assert len(slow) == pytest.approx(1.1 * len(SAID["mid"]), rel=0.01)
        peak = np.abs(np.fft.rfft(slow)).argmax() * RATE / len(slow)
        assert peak == pytest.approx(900.0 / 1.1, rel=0.01)


class TestUtterances:
    def test_words_lie_where_their_spans_say(self) -> None:
        one = utterance(SAID, (3,))
        assert 2 <= len(one.words) <= MOST_WORDS
        for word, (begin, end) in zip(one.words, one.spans, strict=True):
            piece = one.samples[round(begin * RATE) : round(end * RATE)]
            peak = np.abs(np.fft.rfft(piece)).argmax() * RATE / len(piece)
            assert peak == pytest.approx({"low": 300.0, "mid": 900.0, "high": 2700.0}[word], rel=0.12)

    def test_a_seed_says_it_all(self) -> None:
        assert np.array_equal(utterance(SAID, (1, 2)).samples, utterance(SAID, (1, 2)).samples)
        assert not np.array_equal(utterance(SAID, (1, 2)).samples, utterance(SAID, (1, 3)).samples)

    def test_the_longest_utterance_fits_in_the_frames(self) -> None:
        said = {f"word {i}": tone(500.0, 0.62) for i in range(4)}
        assert max(len(utterance(said, (i,)).samples) for i in range(200)) / RATE <= FRAMES * FRAME

    def test_a_batch_ends_each_row(self) -> None:
        made = connected.batch([utterance(SAID, (i,)) for i in range(4)], names := connected.vocabulary(SAID))
        assert made["sound"].shape == (4, FRAMES, STACKED * BANDS)
        for row in made["target"]:
            said = row[row != PAD]
            assert said[-1] == connected.END
            assert all(names[i] in SAID for i in said[:-1])


class TestScores:
    ONE = Utterance(("low", "mid"), ((0.1, 0.3), (0.5, 0.9)), np.zeros(RATE))

    def test_a_word_error_rate_by_hand(self) -> None:
        assert error_rate([self.ONE, self.ONE], [["low", "mid"], ["low", "high", "high"]]) == pytest.approx(50.0)

    def test_a_peak_counts_while_its_word_is_spoken(self) -> None:
        look = np.zeros((2, 20))
        look[0, 4], look[1, 2] = 1.0, 1.0
        assert scores([self.ONE], [["low", "mid"]], [look])["peak in the word"] == 50.0

    def test_evenly_spaced_words_are_found_where_they_are(self) -> None:
        # Two words of one second would be at 0.25 and 0.75; 0.1 to 0.2 is not there.
        assert evenly([self.ONE]) == 100.0
        assert evenly([Utterance(("low", "mid"), ((0.1, 0.2), (0.5, 0.9)), np.zeros(RATE))]) == 50.0


class TestExperiment:
    def test_both_backends_learn_alike_and_draw_where_they_listen(self, tmp_path: Path) -> None:
        numbers = run_experiment(experiment(SAID, TINY), tmp_path)
        assert numbers["scores"]["torch"] == numbers["scores"]["jax"]
        assert (tmp_path / "digits/alignment.png").stat().st_size > 10_000
