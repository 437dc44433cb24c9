"""The figure of an alignment: the sound, and below it where each word was looked for, in both backends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from examples.speech.prompts import Prompt
from examples.speech.word_times import SECONDS, Word, spoken, states


def draw(prompt: Prompt, looks: Mapping[str, np.ndarray], pieces: Sequence[str], words: Sequence[Word], file: Path) -> None:
    """Draw the mean attention of the alignment heads.

    Args:
        prompt: what was heard.
        looks: by backend, `(n, T, S)` weights of the n alignment heads; the last row chose the end.
        pieces: the text of each of the T - 1 tokens.
        words: what was said, and when.
        file: of the picture.
    """
    # matplotlib takes a second to import.
    from matplotlib.figure import Figure  # noqa: PLC0415

    rows = spoken(pieces)
    height = 0.2 * len(rows)
    figure = Figure(figsize=(10, 1.8 + height * len(looks)), layout="constrained")
    wave, *panels = figure.subplots(1 + len(looks), 1, sharex=True, height_ratios=[1.4, *[height] * len(looks)])
    _wave(wave, prompt, words)
    for panel, (backend, look) in zip(panels, looks.items(), strict=True):
        _panel(panel, look[:, rows], prompt.seconds)
        panel.set_yticks(range(len(rows)), [pieces[t].strip() for t in rows], fontsize=8)
        panel.set_ylabel(backend)
        for word in words:
            panel.axvline(word.begin, color="tab:orange", linewidth=0.5)
    panels[-1].set_xlabel("seconds of sound")
    figure.savefig(file, dpi=150)


def _wave(axes: Any, prompt: Prompt, words: Sequence[Word]) -> None:
    axes.plot(np.arange(len(prompt.samples)) / prompt.rate, prompt.samples, color="0.55", linewidth=0.4)
    loud = float(np.abs(prompt.samples).max())
    for i, word in enumerate(words):
        axes.axvspan(word.begin, word.end, color="tab:blue", alpha=0.06 + 0.1 * (i % 2), linewidth=0)
        axes.text((word.begin + word.end) / 2, 1.15 * loud, word.text, ha="center", va="bottom", fontsize=8, rotation=30)
    axes.set(ylim=(-1.1 * loud, 1.1 * loud), yticks=[])
    _ = [axes.spines[side].set_visible(False) for side in ("top", "right", "left")]


def _panel(axes: Any, look: np.ndarray, seconds: float) -> None:
    count = states(seconds, look.shape[-1])
    mean = look[..., :count].mean(axis=0)
    # Each row by its own largest: a token that is sure of its place would outshine the others.
    extent = (0.0, count * SECONDS, len(mean) - 0.5, -0.5)
    axes.imshow(mean / mean.max(axis=-1, keepdims=True), aspect="auto", cmap="Blues", extent=extent, interpolation="nearest")
