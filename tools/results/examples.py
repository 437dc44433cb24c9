"""The examples of `examples/`: one model trained in both backends, and what it scores on data held out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tools.results.figures import Figure, Measurement, Results, measured, table
from tools.results.recorded import Recorded

MODULES = {
    "dates": "translation.dates",
    "descriptions": "translation.descriptions",
    "summarisation": "summarisation.train",
    "scenes": "captioning.scenes",
    "vit": "captioning.vit",
    "digits": "speech.digits",
    "austen": "language_model.train",
}
FOLDERS = {"austen": "language_model"}
"""Where an example writes, unless into a folder of its own name."""
HEADINGS = ("`make example-`", "learned from", "score", "torch", "JAX", "trivial", "envelope")


def collect(text: str) -> dict[str, Any]:
    """Return the scores, and how near the two trainings stayed."""
    found = json.loads(text)
    training = found["training"]
    kept = ("ok", "steps", "optimizer", "first outside", "nearest to the envelope")
    return {
        "experiment": found["experiment"],
        "scores": {backend: _round(scores) for backend, scores in found["scores"].items()},
        "baseline": {name: _round(scores) for name, scores in found["baseline"].items()},
        "training": {name: training[name] for name in kept},
        "seconds": found["seconds"],
    }


def _round(scores: Mapping[str, float]) -> dict[str, float]:
    return {name: float(f"{score:.4g}") for name, score in scores.items()}


def _row(name: str, found: Recorded) -> tuple[str, ...]:
    data, training = found.data, found.data["training"]
    scores = list(data["scores"]["torch"])
    sides = (_cell(data["scores"][backend], scores) for backend in ("torch", "jax"))
    trivial = "; ".join(f"{_cell(of, scores)} {label}" for label, of in data["baseline"].items())
    near, left = training["nearest to the envelope"], training["first outside"]
    kept = f"left at step {left['step']} ({near['ratio']:.2f})" if left else f"inside ({near['ratio']:.2f})"
    return (f"`{name}`", data["experiment"], " / ".join(scores), *sides, trivial, kept)


def _cell(scores: Mapping[str, float], names: list[str]) -> str:
    return " / ".join(f"{scores[name]:.4g}" if name in scores else "-" for name in names)


def render(results: Results) -> str:
    """Return a row for each example that is recorded, and the names of those that are not."""
    found = {name: results(f"example-{name}") for name in MODULES}
    recorded = {name: one for name, one in found.items() if one is not None}
    if not recorded:
        return ""
    parts = [table(HEADINGS, [_row(name, one) for name, one in recorded.items()]), measured(*recorded.values())]
    absent = [f"`make example-{name}`" for name in found if name not in recorded]
    if absent:
        parts.append(f"No full run of the others is recorded; each prints its own scores: {', '.join(absent)}.")
    return "\n\n".join(parts)


MEASUREMENTS = tuple(
    Measurement(
        name=f"example-{name}",
        command=(f"examples.{module}",),
        wrote=f"build/examples/{FOLDERS.get(name, name)}/numbers.json",
        collect=collect,
    )
    for name, module in MODULES.items()
)
FIGURES = (Figure("examples", render),)
