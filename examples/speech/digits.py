"""Example: digits and letters spoken in a row, written down by a model that looks back at the sound of each.

    python -m examples.speech.digits

Scores are on utterances held out: other words in a row, at other speeds, but of the same recordings; see connected.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jiwer
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

from attention import spec
from attention.parity.training import Recipe
from examples.experiment import BACKENDS, FOLDER, Experiment, rates, run, run_experiment
from examples.speech import connected, digits_model, digits_model_jax, digits_model_torch
from examples.speech.connected import END, FRAME, MOST_WORDS, Utterance, batch, utterance
from examples.speech.prompts import prompts

MODULES = {"torch": digits_model_torch, "jax": digits_model_jax}
LEARN, HELD_OUT = 0, 1
"""Where the seeds of utterances begin."""


@dataclass(frozen=True)
class Size:
    """How large the example is."""

    hidden_dim: int = 128
    batch: int = 32
    steps: int = 400
    rate: float = 3e-3
    scored: int = 256
    """How many utterances are held out."""


TINY = Size(hidden_dim=8, batch=3, steps=12, scored=4)


def experiment(said: Mapping[str, np.ndarray], size: Size) -> Experiment:
    """Return the example of one recording for each word."""
    names = connected.vocabulary(said)
    held = [utterance(said, (HELD_OUT, i)) for i in range(size.scored)]
    guess = {"word error rate": error_rate(held, guessed(held, names)), "peak in the word": evenly(held)}
    recipe = Recipe(
        architecture=digits_model.Listener(len(names), connected.STACKED * connected.BANDS, size.hidden_dim),
        models={backend: module.Listener for backend, module in MODULES.items()},
        losses={backend: module.loss for backend, module in MODULES.items()},
        # Both for the sake of two frameworks: see examples/summarisation/train.py.
        optimizer=spec.optimizers.Adam(rates(size.rate, size.steps), b2=0.98, eps=1e-6, clip=spec.optimizers.Clip(1.0)),
        batches=lambda step: batch([utterance(said, (LEARN, step, i)) for i in range(size.batch)], names),
        steps=size.steps,
    )
    return Experiment(
        name="digits",
        title=f"Speech: {len(said)} spoken digits and letters, two to {MOST_WORDS} in a row",
        recipe=recipe,
        score=lambda backend, trained: scores(held, *heard(backend, trained, held, names, size.batch)),
        baseline={"random words, evenly spaced": guess},
        figure=lambda models, folder: draw(models, held[0], names, folder / "alignment.png"),
    )


def heard(
    backend: str, trained: Any, spoken: Sequence[Utterance], names: Sequence[str], count: int
) -> tuple[list[list[str]], list[np.ndarray]]:
    """Return the words that a trained model writes of each utterance, and where it looked for each `(words, S)`."""
    made, looks = list[list[str]](), list[np.ndarray]()
    for at in range(0, len(spoken), count):
        some = list(spoken[at : at + count])
        # One shape for all batches: the last one is filled up, and what it is filled with is left out.
        full = some + [spoken[0]] * (count - len(some))
        numbers, weights = MODULES[backend].listen(trained, batch(full, names), MOST_WORDS + 1)
        for row, look in list(zip(numbers, weights, strict=True))[: len(some)]:
            ended = np.flatnonzero(row == END)
            words = row[: ended[0]] if len(ended) else row
            made.append([str(names[i]) for i in words])
            looks.append(look[: len(words)])
    return made, looks


def scores(spoken: Sequence[Utterance], made: Sequence[Sequence[str]], looks: Sequence[np.ndarray]) -> dict[str, float]:
    """Return the word error rate, and the share of words whose attention is highest while they are spoken, in per cent.

    A word's place is known where as many words were written as said.
    """
    inside = [
        begin <= (look.argmax() + 0.5) * FRAME <= end
        for one, words, rows in zip(spoken, made, looks, strict=True)
        if len(words) == len(one.words)
        for (begin, end), look in zip(one.spans, rows, strict=True)
    ]
    return {"word error rate": error_rate(spoken, made), "peak in the word": 100.0 * float(np.mean(inside)) if inside else 0.0}


def error_rate(spoken: Sequence[Utterance], made: Sequence[Sequence[str]]) -> float:
    """Return insertions, deletions and substitutions for each word that was said, in per cent."""
    return 100.0 * jiwer.wer([" ".join(one.words) for one in spoken], [" ".join(words) for words in made])


def guessed(spoken: Sequence[Utterance], names: Sequence[str]) -> list[list[str]]:
    """Return as many words as were said, at random."""
    rng = np.random.default_rng(0)
    return [list(rng.choice(names[len(connected.SPECIAL) :], len(one.words))) for one in spoken]


def evenly(spoken: Sequence[Utterance]) -> float:
    """Return how often a word is spoken where it would be if all were equally long, in per cent."""
    inside = [
        begin <= (place + 0.5) / len(one.spans) * len(one.samples) / connected.RATE <= end
        for one in spoken
        for place, (begin, end) in enumerate(one.spans)
    ]
    return 100.0 * float(np.mean(inside))


def draw(models: Mapping[str, Any], shown: Utterance, names: Sequence[str], path: Path) -> None:
    """Draw the sound, what each backend's model wrote, and where it looked."""
    figure, axes = plt.subplots(1 + len(BACKENDS), 1, figsize=(10, 6), sharex=True, layout="constrained")
    seconds = len(shown.samples) / connected.RATE
    bands = connected.features(shown.samples).reshape(-1, connected.BANDS)
    axes[0].imshow(bands.T, origin="lower", aspect="auto", cmap="magma", extent=(0, seconds, 0, connected.BANDS))
    axes[0].set_ylabel("mel band")
    axes[0].set_title("said: " + " ".join(shown.words))
    for axis, backend in zip(axes[1:], BACKENDS, strict=True):
        (words,), (look,) = heard(backend, models[backend], [shown], names, 1)
        steps = len(bands) // connected.STACKED
        axis.imshow(look[:, :steps], aspect="auto", cmap="Blues", extent=(0, seconds, len(words), 0), vmin=0)
        axis.set_yticks(np.arange(len(words)) + 0.5, words)
        axis.set_ylabel(backend)
        for row, (begin, end) in enumerate(shown.spans):
            axis.add_patch(Rectangle((begin, row), end - begin, 1, fill=False, edgecolor="tab:orange", linewidth=2))
    axes[-1].set_xlabel("seconds; each word is spoken in its orange frame, and the model looks where it is blue")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main(folder: Path = FOLDER) -> None:
    """Run the example on the recorded prompts."""
    _ = run_experiment(experiment(connected.takes(prompts()), Size()), folder)


if __name__ == "__main__":
    run(main)
