"""Models that others trained, run whole through both backends beside their own implementation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tools.results.figures import Figure, Measurement, Results, measured, table


def collect_smollm2(text: str) -> dict[str, Any]:
    """Return perplexities, whether the texts are the same, and the worst z of the blocks."""
    found = json.loads(text)
    return {
        "tokens": found["tokens"],
        "perplexity": {side: round(x, 4) for side, x in found["perplexity"].items()},
        "same text": found["same text"],
        "z": {name: round(max(side[name] for side in found["z"].values()), 2) for name in ("rms", "max")},
    }


def _smollm2(data: Mapping[str, Any]) -> tuple[str, str, str]:
    sides = ", ".join(f"{x} in {side}" for side, x in data["perplexity"].items())
    texts = "the same greedy text" if data["same text"] else "different greedy texts"
    blocks = f"worst RMS z {data['z']['rms']:.1f}, max {data['z']['max']:.0f}"
    return "SmolLM2, read from llama.cpp's 4-bit file", f"perplexity {sides}; {texts}", blocks


def collect_whisper(text: str) -> dict[str, Any]:
    """Return how often the words and tokens agree, and how many layers are outside their budget."""
    found = json.loads(text)
    words = found["words"]
    kept = ("prompts", "same tokens in both backends", "same tokens as transformers")
    rates = {side: round(words[side]["word error rate"], 5) for side in ("torch", "jax")}
    return {**{name: words[name] for name in kept}, "word error rate": rates, "layers": found["layers"]}


def _whisper(data: Mapping[str, Any]) -> tuple[str, str, str]:
    rates = ", ".join(f"{100 * rate:.1f} % in {side}" for side, rate in data["word error rate"].items())
    same, theirs = data["same tokens in both backends"], data["same tokens as transformers"]
    agreement = (
        f"{data['prompts']} recordings: the same tokens in both in {same}, as transformers in {theirs}; word error rate {rates}"
    )
    return "Whisper tiny.en", agreement, f"{data['layers']['rows']} compared, {data['layers']['outside their budget']} outside"


def collect_marian(text: str) -> dict[str, Any]:
    """Return how often the programs said the same, and the worst z of the layers."""
    found = json.loads(text)
    agreement = {name: x for name, x in found["agreement"].items() if name != "seconds"}
    return {"agreement": agreement, "layers": found["layers"], "translation": found["sentence"]["translations"]["torch"]}


def _marian(data: Mapping[str, Any]) -> tuple[str, str, str]:
    said, layers = data["agreement"], data["layers"]
    same, engine = said["torch and jax, same tokens"], said["torch and the package's own, same text"]
    agreement = (
        f"{said['sentences']} sentences, {said['tokens']} tokens: the same tokens in both in {same},"
        f" the text of the package's own engine in {engine}"
    )
    blocks = f"worst RMS z {layers['worst RMS z']:.1f}, max {layers['worst z']:.0f}; {layers['outside their budget']} outside"
    return "Marian, English to Portuguese", agreement, blocks


KNOWN = {
    "smollm2": ("language_model.smollm2_run", collect_smollm2, _smollm2),
    "whisper": ("speech.whisper_run", collect_whisper, _whisper),
    "marian": ("translation.marian_run", collect_marian, _marian),
}

PICTURES = {"marian": {"docs/figures/european_economic_area.png": "build/examples/marian/alignment.png"}}


def render(results: Results) -> str:
    """Return a row for each model that is recorded, and the names of those that are not."""
    found = {name: results(f"example-{name}") for name in KNOWN}
    recorded = {name: one for name, one in found.items() if one is not None}
    if not recorded:
        return ""
    rows = [(f"`{name}`", *KNOWN[name][2](one.data)) for name, one in recorded.items()]
    parts = [table(("`make example-`", "model", "agreement", "blocks"), rows), measured(*recorded.values())]
    absent = [f"`make example-{name}`" for name in found if name not in recorded]
    if absent:
        parts.append(f"Not recorded; each prints its own numbers: {', '.join(absent)}.")
    return "\n\n".join(parts)


MEASUREMENTS = tuple(
    Measurement(
        name=f"example-{name}",
        command=(f"examples.{module}",),
        wrote=f"build/examples/{name}/numbers.json",
        collect=collect,
        pictures=PICTURES.get(name, {}),
    )
    for name, (module, collect, _) in KNOWN.items()
)
FIGURES = (Figure("trained", render),)
