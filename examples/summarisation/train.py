"""Example: a package's description to one line, where attention is the probability of copying a word.

    python -m examples.summarisation.train

Scores are ROUGE F1 on descriptions held out, beside the first words of the source. Maintainers write from templates, so that
near-duplicates of what is held out were learned from; see data.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rouge_score.rouge_scorer import RougeScorer

from attention import spec
from attention.parity.training import Recipe
from examples import heatmap
from examples.debian import translations
from examples.experiment import BACKENDS, FOLDER, Experiment, epoch, rates, run, run_experiment
from examples.heatmap import HeatMap, apart
from examples.summarisation import model, model_jax, model_torch
from examples.summarisation.data import TARGET_WORDS, Pair, Vocabulary, batch, pairs

MODULES = {"torch": model_torch, "jax": model_jax}


@dataclass(frozen=True)
class Size:
    """How large the example is."""

    vocabulary: int = 4000
    embed_dim: int = 96
    hidden_dim: int = 192
    batch: int = 64
    steps: int = 500
    rate: float = 3e-3
    scored: int = 512
    """How many of those held out are scored."""


TINY = Size(vocabulary=60, embed_dim=8, hidden_dim=12, batch=4, steps=12, scored=6)


def experiment(learn: Sequence[Pair], held: Sequence[Pair], size: Size) -> Experiment:
    """Return the example of pairs to learn from and pairs to be scored on."""
    # They stand in the order of the alphabet, in which templates are neighbours.
    held = held[:: max(1, len(held) // size.scored)][: size.scored]
    vocabulary = Vocabulary.of(learn, size.vocabulary)
    recipe = Recipe(
        architecture=model.PointerGenerator(len(vocabulary), size.embed_dim, size.hidden_dim),
        models={backend: module.PointerGenerator for backend, module in MODULES.items()},
        losses={backend: module.loss for backend, module in MODULES.items()},
        # With the usual eps of 1e-8, a gradient of rounding's own size would move a rare word's embedding by a whole step; and
        # optax holds 1 - b2^t in float32, which is off by 3e-5 in the first steps of the usual b2 of 0.999.
        optimizer=spec.optimizers.Adam(rates(size.rate, size.steps), b2=0.98, eps=1e-6, clip=spec.optimizers.Clip(1.0)),
        batches=lambda step: batch([learn[i] for i in epoch(len(learn), size.batch, step)], vocabulary),
        steps=size.steps,
    )
    return Experiment(
        name="summarisation",
        title=f"Summarisation: {len(learn)} Debian descriptions to one line each, by a pointer-generator",
        recipe=recipe,
        score=lambda backend, trained: rouge(held, written(backend, trained, held, vocabulary, size.batch)),
        baseline={f"first {k} words": rouge(held, [p.source[:k] for p in held]) for k in [best(learn)]},
        figure=lambda models, folder: draw(models, held, vocabulary, size.batch, folder / "copying.png"),
        replicas=2,
    )


def written(backend: str, trained: Any, examples: Sequence[Pair], vocabulary: Vocabulary, count: int) -> list[tuple[str, ...]]:
    """Return what a trained model writes of each example."""
    made: list[tuple[str, ...]] = []
    for at in range(0, len(examples), count):
        some = list(examples[at : at + count])
        # One shape for all batches: the last one is filled up, and what it is filled with is left out.
        full = some + [examples[0]] * (count - len(some))
        numbers, _, _ = MODULES[backend].summarise(trained, batch(full, vocabulary), TARGET_WORDS[1])
        made += [vocabulary.read(row, p.source) for row, p in zip(numbers, some, strict=False)]
    return made


def rouge(examples: Sequence[Pair], summaries: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return the mean F1 of single words and of the longest common subsequence, in per cent."""
    scorer = RougeScorer(["rouge1", "rougeL"])
    found = [scorer.score(" ".join(p.target), " ".join(s)) for p, s in zip(examples, summaries, strict=True)]
    return {f"ROUGE-{name[5:]}": 100.0 * float(np.mean([f[name].fmeasure for f in found])) for name in ("rouge1", "rougeL")}


def best(examples: Sequence[Pair]) -> int:
    """Return how many first words of a source score best, asked of some that are learned from."""
    some = examples[:: max(1, len(examples) // 500)]
    scores: Callable[[int], float] = lambda k: rouge(some, [p.source[:k] for p in some])["ROUGE-L"]  # noqa: E731
    return max(range(3, TARGET_WORDS[1] + 1), key=scores)


def draw(models: Mapping[str, Any], examples: Sequence[Pair], vocabulary: Vocabulary, count: int, path: Path) -> None:
    """Draw where each backend's model copies from, on the one of some examples of which torch's copies most unknown words."""
    some = list(examples[:count])
    numbers, _, _ = MODULES["torch"].summarise(models["torch"], batch(some, vocabulary), TARGET_WORDS[1])
    shown = some[int((numbers >= len(vocabulary)).sum(1).argmax())]
    maps = [copying(backend, models[backend], shown, vocabulary) for backend in BACKENDS]
    caption = (
        f"Rows: what is written, and how surely it is copied; shade: from where. {apart(maps[:1], maps[1:])}.\n"
        f"Of {len(some)} examples, the one with most words that the model has no number for. "
        f"The maintainer wrote: {' '.join(shown.target)}"
    )
    heatmap.draw([maps], path, caption)


def copying(backend: str, trained: Any, shown: Pair, vocabulary: Vocabulary) -> HeatMap:
    """Return the probability of copying each written word from each place of the source."""
    found = MODULES[backend].summarise(trained, batch([shown], vocabulary), TARGET_WORDS[1])
    numbers, own, weights = (part[0] for part in found)
    said = vocabulary.read(numbers, shown.source)
    copied = (1.0 - own[: len(said), None]) * weights[: len(said), : len(shown.source)]
    rows = [f"{word}  {1.0 - share:.0%}" for word, share in zip(said, own, strict=False)]
    return HeatMap(copied, shown.source, rows, backend)


def main(folder: Path = FOLDER) -> None:
    """Run the example on Debian's descriptions."""
    learn, held = pairs(text for _, text in translations("en"))
    _ = run_experiment(experiment(learn, held, Size()), folder)


if __name__ == "__main__":
    run(main)
