"""SmolLM2, whole, through both backends and through transformers: the same text foreseen, the same text written.

python -m examples.language_model.smollm2_run

perplexity = exp(mean surprise of a real sentence)        greedy text with caches        z of every block on real states
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console
from rich.progress import track

from attention.parity.pretrained.layerwise import layerwise
from attention.parity.results.report import Report
from examples.experiment import FOLDER, run
from examples.language_model import model_jax, model_torch, smollm2, smollm2_theirs
from examples.language_model.model import surprise
from examples.language_model.sampling import write

MODULES = {"torch": model_torch, "jax": model_jax}
COUNT, CHECKED = 24, 32
"""Tokens to write after each prompt; tokens of the text on which each block is checked."""


def main(folder: Path = FOLDER) -> dict[str, Any]:
    """Run all of it, write figure, report and numbers, and return the numbers."""
    place, console = folder / "smollm2", Console()
    place.mkdir(parents=True, exist_ok=True)
    path = smollm2.find()
    architecture, weights = smollm2.read(path)
    theirs, tokenizer = smollm2_theirs.load(path)
    tokens = np.array([tokenizer(smollm2.TEXT)["input_ids"]])
    prompts = [tokenizer(prompt)["input_ids"] for prompt in smollm2.PROMPTS]
    perplexity = {"transformers": _perplexity(smollm2_theirs.logits(theirs, tokens), tokens)}
    texts = {"transformers": [smollm2_theirs.greedy(theirs, prompt, COUNT) for prompt in prompts]}
    margins: dict[str, float] = {}
    for backend, module in MODULES.items():
        ours = module.LanguageModel(architecture, seed=None)
        ours.load_weights(weights)
        perplexity[backend] = _perplexity(module.logits(ours, tokens), tokens)
        written = [write(module.reader(ours, len(prompt) + COUNT), prompt, COUNT) for prompt in prompts]
        texts[backend], margins[backend] = [w.tokens for w in written], min(w.margin for w in written)
    seen = smollm2_theirs.seen(theirs, architecture, weights, tokens[:, :CHECKED])
    report = layerwise(track(seen, "each block", total=architecture.decoder.depth + 1, console=console, transient=True))
    numbers = {
        "tokens": tokens.shape[1],
        "perplexity": perplexity,
        "texts": {side: [tokenizer.decode(text) for text in made] for side, made in texts.items()},
        "same text": all(made == texts["transformers"] for made in texts.values()),
        "closest call": margins,
        "z": worst(report),
    }
    report.to_json(place / "layers.json")
    _ = (place / "numbers.json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    draw(report, place / "layers.png")
    console.print_json(data=numbers)
    report.assert_ok()
    return numbers


def _perplexity(logits: np.ndarray, tokens: np.ndarray) -> float:
    return float(np.exp(surprise(logits, tokens).mean()))


def worst(report: Report) -> dict[str, dict[str, float]]:
    """Return the largest root mean square of z and the largest z of each side, over all layers."""
    measures: dict[str, Callable[[Any], float]] = {"rms": lambda v: v.rms, "max": lambda v: v.worst}
    return {
        side: {
            name: max(of(v) for row in report.rows if row.side == side for v in row.verdicts) for name, of in measures.items()
        }
        for side in dict.fromkeys(row.side for row in report.rows)
    }


def draw(report: Report, path: Path) -> None:
    """Draw the root mean square of z of each layer, by side."""
    figure, axis = plt.subplots(figsize=(9, 3.5), layout="constrained")
    for side in dict.fromkeys(row.side for row in report.rows):
        rows = [row for row in report.rows if row.side == side]
        names = [row.subject.removeprefix("layers.").replace("decoder", "all") for row in rows]
        _ = axis.plot(names, [row.verdicts[0].rms for row in rows], "o-", markersize=4, label=side)
    _ = axis.axhline(4.0, color="black", linestyle=":", label="fails above")
    _ = axis.set(xlabel="block", ylabel="root mean square of z", ylim=(0, 4.4))
    _ = axis.set_title("SmolLM2, block by block: error over what rounding explains, on what each block received")
    _ = axis.legend(ncols=4)
    figure.savefig(path, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    run(main)
