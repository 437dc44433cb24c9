"""Example: to write like Jane Austen, character by character, and both backends the same text.

    python -m examples.language_model.train

Five novels are learned from; Persuasion is scored, in bits per character, beside n-gram models. Then the trained model writes
on, with a cache, by random numbers that both backends draw alike: from the same weights they write the same text, and the
text of the backend that was trained on its own is laid beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console

from attention import spec
from attention.parity.training import Recipe
from examples.experiment import BACKENDS, FOLDER, Experiment, rates, run, run_experiment
from examples.language_model import austen, model_jax, model_torch
from examples.language_model.austen import HELD_OUT, Alphabet, n_gram_bits, windows
from examples.language_model.model import LanguageModel, sized, surprise
from examples.language_model.sampling import Written, write

MODULES = {"torch": model_torch, "jax": model_jax}


@dataclass(frozen=True)
class Size:
    """How large the example is."""

    width: int = 96
    depth: int = 3
    heads: int = 4
    kv_heads: int = 2
    hidden: int = 256
    window: int = 64
    batch: int = 8
    length: int = 128
    steps: int = 600
    rate: float = 4e-3
    scored: int = 64
    """Windows of the novel held out, each of which is scored on its second half."""
    orders: tuple[int, ...] = (1, 3, 5)
    """Of the n-gram models beside it."""
    written: int = 400
    """Characters to write."""
    prompt: str = "Anne was"
    temperature: float = 0.7

    def architecture(self, vocabulary: int) -> LanguageModel:
        """Return the model for an alphabet."""
        return sized(
            vocabulary,
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            kv_heads=self.kv_heads,
            hidden=self.hidden,
            window=self.window,
        )


TINY = Size(
    width=16, depth=1, hidden=24, window=6, batch=2, length=12, steps=12, scored=3, orders=(1,), written=12, prompt="an"
)


def experiment(learn: str, held: str, size: Size) -> Experiment:
    """Return the example of a text to learn from and a text to be scored on."""
    letters = Alphabet.of(learn)
    known, asked = letters.numbers(learn), letters.numbers(held)
    recipe = Recipe(
        architecture=size.architecture(len(letters)),
        models={backend: module.LanguageModel for backend, module in MODULES.items()},
        losses={backend: module.loss for backend, module in MODULES.items()},
        optimizer=spec.optimizers.Adam(rates(size.rate, size.steps), b2=0.95, clip=spec.optimizers.Clip(1.0)),
        batches=lambda step: {"tokens": windows(known, size.batch, size.length + 1, step)},
        steps=size.steps,
    )
    tokens = scored(asked, size)
    return Experiment(
        name="language_model",
        title=f"A language model: {len(learn):,} characters of Jane Austen, and {len(held):,} held out",
        recipe=recipe,
        score=lambda backend, trained: {"bits per character": second_half(bits(backend, trained, tokens))},
        baseline={f"{n}-gram": {"bits per character": trivial(known, asked, n, len(letters), size)} for n in size.orders},
        figure=lambda models, folder: show(models, letters, held, size, folder),
    )


def scored(asked: np.ndarray, size: Size) -> np.ndarray:
    """Return windows `(scored, length + 1)` of the text held out, one after another with equal gaps."""
    starts = np.linspace(0, len(asked) - size.length - 1, size.scored).astype(int)
    return asked[starts[:, None] + np.arange(size.length + 1)]


def bits(backend: str, trained: Any, tokens: np.ndarray) -> np.ndarray:
    """Return what each character but the first costs a trained model, in bits: `(B, T - 1)`."""
    return surprise(MODULES[backend].logits(trained, tokens), tokens) / np.log(2)


def second_half(costs: np.ndarray) -> float:
    """Return the mean over the second half of each window, whose characters have a past to be foreseen from."""
    return float(costs[:, costs.shape[1] // 2 :].mean())


def trivial(known: np.ndarray, asked: np.ndarray, order: int, size_of_alphabet: int, size: Size) -> float:
    """Return what the same characters cost an n-gram model, in bits per character."""
    every = n_gram_bits(known, asked, order, size_of_alphabet)
    return second_half(scored(every, size)[:, 1:])


def show(models: Mapping[str, Any], letters: Alphabet, held: str, size: Size, folder: Path) -> dict[str, Any]:
    """Let the models write, draw where they look, and return what was written, which `texts.json` keeps."""
    prompt = [int(number) for number in letters.numbers(size.prompt)]
    # torch's weights in JAX: exchange is exact, and so the text must be the same.
    replica = model_jax.LanguageModel(models["jax"].contract, seed=None)
    replica.load_weights(models["torch"].weights())
    writers = {"torch": ("torch", models["torch"]), "torch's weights in JAX": ("jax", replica), "jax": ("jax", models["jax"])}
    made = {name: written(backend, trained, prompt, size) for name, (backend, trained) in writers.items()}
    first = made["torch"].tokens
    texts = {
        name: {
            "text": size.prompt + letters.read(one.tokens),
            "same characters as torch": _shared(first, one.tokens),
            "closest call": one.margin,
        }
        for name, one in made.items()
    }
    _ = (folder / "texts.json").write_text(json.dumps(texts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    sentence = next(line for line in held.splitlines() if len(line) > size.window)
    draw(models, letters, sentence[: size.window], folder / "looks.png")
    return texts


def written(backend: str, trained: Any, prompt: list[int], size: Size) -> Written:
    """Return how a model goes on from a prompt."""
    read = MODULES[backend].reader(trained, len(prompt) + size.written)
    return write(read, prompt, size.written, temperature=size.temperature)


def _shared(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Return how many tokens two texts begin alike with."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), len(one))


def draw(models: Mapping[str, Any], letters: Alphabet, text: str, path: Path) -> None:
    """Draw where a head of each backend's model looks: the one that looks most surely at what is not beside it."""
    tokens = letters.numbers(text)[None]
    looks = {backend: MODULES[backend].looks(models[backend], tokens)[:, 0] for backend in BACKENDS}
    block, head = farthest(looks["torch"])
    figure, axes = plt.subplots(1, len(BACKENDS), figsize=(14, 7), layout="constrained")
    for axis, (backend, weights) in zip(axes, looks.items(), strict=True):
        _ = axis.imshow(weights[block, head], cmap="Blues", vmin=0.0, vmax=1.0)
        axis.set_xticks(range(len(text)), text, fontsize=8)
        axis.set_yticks(range(len(text)), text, fontsize=8)
        axis.set_title(backend)
    _ = figure.colorbar(axes[0].images[0], ax=axes, label="weight", shrink=0.8)
    _ = figure.suptitle(f"Where each character (rows) looks, block {block}, head {head}")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def farthest(looks: np.ndarray) -> tuple[int, int]:
    """Return the block and the head of `looks` `(depth, H, T, T)` with the largest weights on keys two places back or more."""
    before = np.tril(np.ones(looks.shape[-2:], bool), -2)
    sure = np.where(before, looks, 0.0).max(axis=-1).mean(axis=-1)
    block, head = np.unravel_index(int(np.argmax(sure)), sure.shape)
    return int(block), int(head)


def main(folder: Path = FOLDER) -> None:
    """Run the example on the novels."""
    texts = austen.novels()
    held = texts.pop(HELD_OUT)
    _ = run_experiment(experiment("".join(texts.values()), held, Size()), folder)
    Console().print_json((folder / "language_model" / "texts.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    run(main)
