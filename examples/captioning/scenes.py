"""Example: scenes of handwritten digits told in words, by a model that looks again for every word.

    python -m examples.captioning.scenes

Scores are of scenes whose handwriting was never seen, each word the likeliest after those that the model itself said before:

    exact       captions that are right to the last word
    words       words that are right at their place, END among them
    looks       digits named rightly while the patch that is weighed most shows at least half of that very digit

beside somebody who knows how many objects there are and how they lie, but guesses every digit and looks anywhere; and beside
the commonest word at each place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attention import spec
from attention.parity.training import Recipe
from examples.captioning import describer_jax, describer_torch
from examples.captioning.data import END, LONGEST, NUMBERS, PAD, WORDS, Handwriting, Scenes, patches, scenes, small_digits
from examples.captioning.describer import Describer
from examples.captioning.eye import Eye
from examples.captioning.scenes_figure import draw
from examples.experiment import FOLDER, Experiment, rates, run, run_experiment

MODULES = {"torch": describer_torch, "jax": describer_jax}
LEARNED, HELD, GUESSED = range(3)
"""What a seed begins with, so that no draw is another's."""

Ask = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Logits `(B, T, V)` and weights `(B, T, S)` of patches and captions."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large the example is; scenes and patches in pixels."""

    side: int = 28
    patch: int = 8
    stride: int = 4
    embed_dim: int = 64
    num_heads: int = 4
    depth: int = 1
    word_dim: int = 32
    hidden_dim: int = 128
    batch: int = 64
    steps: int = 1200
    rate: float = 2e-3
    held_out: int = 500
    replicas: int = 2
    watch: int = 50

    @property
    def grid(self) -> int:
        """Patches along each side."""
        return (self.side - self.patch) // self.stride + 1

    def scenes(self, digits: Handwriting, count: int, *seed: int) -> Scenes:
        """Return scenes of this size."""
        return scenes(digits, count, seed, side=self.side, stride=self.stride)

    def patches(self, images: np.ndarray) -> np.ndarray:
        """Return the patches of scenes."""
        return patches(images, self.patch, self.stride)


TINY = Size(side=20, embed_dim=8, num_heads=2, word_dim=4, hidden_dim=8, batch=4, steps=8, held_out=6, watch=4)


def experiment(learn: Handwriting, held: Handwriting, size: Size) -> Experiment:
    """Return the example of digits to learn from and digits to be scored on."""
    test = size.scenes(held, size.held_out, HELD)

    def batch(step: int) -> dict[str, np.ndarray]:
        drawn = size.scenes(learn, size.batch, LEARNED, step)
        return {"patches": size.patches(drawn.images), "captions": drawn.captions}

    def told(backend: str, trained: Any) -> tuple[np.ndarray, np.ndarray]:
        return describe(lambda *given: MODULES[backend].ask(trained, *given), size.patches(test.images))

    eye = Eye(size.grid**2, size.patch**2, size.embed_dim, size.num_heads, size.depth)
    recipe = Recipe(
        architecture=Describer(eye, len(WORDS), size.word_dim, size.hidden_dim),
        models={backend: module.Describer for backend, module in MODULES.items()},
        losses={backend: module.loss for backend, module in MODULES.items()},
        # Both for the sake of two frameworks: see examples/summarisation/train.py.
        optimizer=spec.optimizers.Adam(rates(size.rate, size.steps), b2=0.98, eps=1e-6, clip=spec.optimizers.Clip(1.0)),
        batches=batch,
        steps=size.steps,
    )
    return Experiment(
        name="scenes",
        title=f"Captioning: scenes of {len(learn.names)} handwritten digits, told in words",
        recipe=recipe,
        score=lambda backend, trained: scores(test, *told(backend, trained), size),
        baseline={
            "guessed digits": scores(test, *guessed(test, size.grid**2), size),
            "commonest words": scores(test, *commonest(size.scenes(learn, 1000, GUESSED), test, size.grid**2), size),
        },
        figure=lambda models, folder: draw(
            test, {backend: told(backend, models[backend]) for backend in models}, size, folder / "looks.png"
        ),
        replicas=size.replicas,
        watch=size.watch,
    )


def describe(ask: Ask, given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what a model says of patches, always its likeliest word, and where it looked.

    Returns:
        captions `(N, T)` and the attention's weights `(N, T, S)`.
    """
    captions, weights = np.full((len(given), LONGEST), PAD, np.int64), np.zeros(0)
    # No word changes what was said before it, so the whole caption is asked for each time, in one shape.
    for place in range(LONGEST):
        logits, weights = ask(given, captions)
        captions[:, place] = logits[:, place].argmax(-1)
    ended = np.cumsum(captions == END, 1) - (captions == END) > 0
    return np.where(ended, PAD, captions), weights


def scores(test: Scenes, captions: np.ndarray, weights: np.ndarray, size: Size) -> dict[str, float]:
    """Return how many captions and words are right, and how many digits are looked at while they are named, in per cent."""
    right, there = captions == test.captions, test.captions != PAD
    named = is_digit(test.captions)
    spots = np.take_along_axis(test.places, np.maximum(np.cumsum(named, 1) - 1, 0)[..., None], 1)
    best = weights.argmax(-1)
    peaks = np.stack([best // size.grid, best % size.grid], -1) * size.stride
    shown = np.maximum(size.patch - np.abs(peaks - spots), 0).prod(-1) / size.patch**2
    # Nothing named rightly leaves nothing to look at.
    looks = shown[named & right] >= 0.5 if (named & right).any() else np.zeros(1)
    means = {"exact": right.all(1).mean(), "words": right[there].mean(), "looks": looks.mean()}
    return {name: 100.0 * float(value) for name, value in means.items()}


def is_digit(captions: np.ndarray) -> np.ndarray:
    """Return which words name a digit."""
    return (captions >= NUMBERS["zero"]) & (captions <= NUMBERS["nine"])


def guessed(test: Scenes, places: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the right captions with digits drawn at random, and looks that go anywhere."""
    rng = np.random.default_rng(GUESSED)
    drawn = rng.integers(NUMBERS["zero"], NUMBERS["nine"] + 1, test.captions.shape)
    return np.where(is_digit(test.captions), drawn, test.captions), rng.random((*test.captions.shape, places))


def commonest(learned: Scenes, test: Scenes, places: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the commonest word at each place of captions, for every scene, and looks that go anywhere."""
    said = [np.bincount(column).argmax() for column in learned.captions.T]
    return np.tile(said, (len(test.captions), 1)), guessed(test, places)[1]


def main(folder: Path = FOLDER) -> None:
    """Run the example on scikit-learn's digits."""
    _ = run_experiment(experiment(*small_digits(), Size()), folder)


if __name__ == "__main__":
    run(main)
