"""The trained translator through both backends: the same words, and where it looked for each of them.

    python -m examples.translation.marian_run "The quick brown fox jumps over the lazy dog."
    python -m examples.translation.marian_run

With a sentence: its translation by each backend and by the package's own program, and the alignment. Without one: the crossing
alignment of "European Economic Area" as a figure, every layer beside transformers', and all sentences of the example.

    build/examples/marian/numbers.json    alignment.png
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from attention.parity.results.report import Report
from examples.experiment import run
from examples.translation import alignment_figure, marian, marian_jax, marian_package, marian_torch
from examples.translation.marian_sentences import SENTENCES

FOLDER = Path("build/examples/marian")
MODULES = {"torch": marian_torch, "jax": marian_jax}
ENGINE = "the package's own"


@dataclass(frozen=True)
class Said:
    """What one program made of some sentences."""

    texts: list[str]
    seconds: float
    tokens: list[list[int]] = field(default_factory=list[list[int]], repr=False)
    weights: list[np.ndarray] = field(default_factory=list[np.ndarray], repr=False)


def translate(trained: marian_package.Pretrained, sentences: Sequence[str]) -> dict[str, Said]:
    """Return what each backend and the package's own program say, all sentences at once, and in what time once compiled."""
    sources = [trained.tokenizer.encode(text) for text in sentences]
    made: dict[str, Said] = {}
    for name, module in MODULES.items():
        built = module.Marian(trained.model, seed=None)
        built.load_weights(trained.weights)
        translator = module.translator(built)
        # The first run compiles, at least in JAX.
        _ = marian.greedy(translator, sources)
        started = time.perf_counter()
        found = marian.greedy(translator, sources)
        seconds = time.perf_counter() - started
        tokens, weights = [ids for ids, _ in found], [looks for _, looks in found]
        made[name] = Said([trained.tokenizer.decode(ids) for ids in tokens], seconds, tokens, weights)
    engine = marian_package.engine(trained.folder)
    _ = engine(sentences[0])
    started = time.perf_counter()
    texts = [engine(text) for text in sentences]
    made[ENGINE] = Said(texts, time.perf_counter() - started)
    return made


def align(trained: marian_package.Pretrained, text: str, said: Said) -> tuple[np.ndarray, list[str], list[str]]:
    """Return the weights `(target words, source words)` of one sentence, and the words."""
    source = [*trained.tokenizer.encode(text), marian.END]
    return alignment_figure.by_word(said.weights[0], trained.pieces(said.tokens[0]), trained.pieces(source))


def agreement(made: Mapping[str, Said]) -> dict[str, Any]:
    """Return how often the programs said the same."""
    torch, jax, engine = made["torch"], made["jax"], made[ENGINE]
    apart = [float(np.abs(x - y).max()) for x, y in zip(torch.weights, jax.weights, strict=True) if x.shape == y.shape]
    return {
        "sentences": len(torch.texts),
        "torch and jax, same tokens": _same(torch.tokens, jax.tokens),
        "torch and the package's own, same text": _same(torch.texts, engine.texts),
        "jax and the package's own, same text": _same(jax.texts, engine.texts),
        "tokens": sum(map(len, torch.tokens)),
        "weights apart, at most": max(apart),
        "seconds": {name: round(said.seconds, 2) for name, said in made.items()},
    }


def _same(one: Sequence[Any], other: Sequence[Any]) -> int:
    return sum(x == y for x, y in zip(one, other, strict=True))


def show(console: Console, trained: marian_package.Pretrained, text: str) -> dict[str, Any]:
    """Print one translation and its alignment; draw it; return what is known of it."""
    made = translate(trained, [text])
    for name, said in made.items():
        console.print(
            f"{name:>{len(ENGINE)}}  {said.texts[0]}  [dim]{1e3 * said.seconds:.0f} ms", highlight=False, soft_wrap=True
        )
    weights, target, source = align(trained, text, made["torch"])
    console.print("\n" + alignment_figure.text(weights, target, source) + "\n", highlight=False, markup=False, soft_wrap=True)
    console.print(f"figure: {alignment_figure.draw(weights, target, source, FOLDER / 'alignment.png')}")
    looks = {word: [source[int(row.argmax())], round(float(row.max()), 3)] for word, row in zip(target, weights, strict=True)}
    return {"source": text, "translations": {name: said.texts[0] for name, said in made.items()}, "alignment": looks}


def layers(console: Console, trained: marian_package.Pretrained, text: str, said: list[int]) -> Report:
    """Print every layer of one translation beside transformers' own, and return the report."""
    # Seconds of imports, which one sentence does not need.
    from examples.translation import marian_layers  # noqa: PLC0415

    with console.status("layers") as status:
        source = trained.tokenizer.encode(text)
        report = marian_layers.report(trained.checkpoint, source, said, lambda name: status.update(f"layers: {name}"))
    report.show(console)
    return report


def agreeing(report: Report) -> dict[str, Any]:
    """Return how the layers agree, in numbers."""
    verdicts = [verdict for row in report.rows for verdict in row.verdicts]
    return {
        "arrays": len(verdicts),
        "outside their budget": sum(not verdict.agrees for verdict in verdicts),
        "worst RMS z": round(max(verdict.rms for verdict in verdicts), 2),
        "worst z": round(max(verdict.worst for verdict in verdicts), 1),
    }


def main(arguments: Sequence[str]) -> None:
    """Run the example."""
    console, trained = Console(), marian_package.load()
    if arguments:
        _ = show(console, trained, " ".join(arguments))
        return
    made = translate(trained, SENTENCES)
    report = layers(console, trained, SENTENCES[0], made["torch"].tokens[0])
    numbers = {
        "sentence": show(console, trained, SENTENCES[0]),
        "agreement": agreement(made),
        "layers": agreeing(report),
    }
    for name, found in numbers["agreement"].items():
        console.print(f"{name:>40}  {found}")
    _ = (FOLDER / "numbers.json").write_text(json.dumps(numbers, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    console.print(f"numbers: {FOLDER / 'numbers.json'}")
    report.assert_ok()


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
