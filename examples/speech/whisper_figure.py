"""The figure of an alignment: the sound, and below it where each word was looked for, in both backends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from examples.speech.prompts import Prompt
from examples.speech.word_times import SECONDS, Word, states


def draw(prompt: Prompt, looks: Mapping[str, np.ndarray], pieces: Sequence[str], spoken: Sequence[Word], file: Path) -> None:
    """Draw the mean attention of the alignment heads.

    Args:
        prompt: what was heard.
        looks: by backend, `(n, T, S)` weights of the n alignment heads; the last row chose the end.
        pieces: the text of each of the T - 1 tokens.
        spoken: the words and their times.
        file: of the picture.
    """
    # matplotlib takes a second to import.
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(10, 2.2 + 0.22 * len(looks) * len(pieces)), layout="constrained")
    ratios = [1.2, *[0.22 * len(pieces)] * len(looks)]
    wave, *panels = figure.subplots(1 + len(looks), 1, sharex=True, height_ratios=ratios)
    _wave(wave, prompt, spoken)
    for panel, (backend, look) in zip(panels, looks.items(), strict=True):
        _panel(panel, look, pieces, prompt.seconds)
        panel.set_title(f"{backend}: mean of {len(look)} alignment heads", loc="left", fontsize=9)
    panels[-1].set_xlabel("seconds of sound")
    figure.savefig(file, dpi=150)


def _wave(axes: Any, prompt: Prompt, spoken: Sequence[Word]) -> None:
    axes.plot(np.arange(len(prompt.samples)) / prompt.rate, prompt.samples, color="0.6", linewidth=0.4)
    loud = float(np.abs(prompt.samples).max())
    for i, word in enumerate(spoken):
        axes.axvspan(word.begin, word.end, color="tab:blue", alpha=0.08 + 0.1 * (i % 2), linewidth=0)
        axes.text((word.begin + word.end) / 2, 1.15 * loud, word.text, ha="center", va="bottom", fontsize=7, rotation=30)
    axes.set(ylim=(-1.1 * loud, 1.1 * loud), yticks=[])
    _ = [axes.spines[side].set_visible(False) for side in ("top", "right", "left")]


def _panel(axes: Any, look: np.ndarray, pieces: Sequence[str], seconds: float) -> None:
    count = states(seconds, look.shape[-1])
    mean = look[:, :-1, :count].mean(axis=0)
    # Rows of equal height, or a token that is sure of its place would outshine the others.
    shown = mean / mean.max(axis=-1, keepdims=True)
    axes.imshow(shown, aspect="auto", cmap="Blues", extent=(0, count * SECONDS, len(pieces) - 0.5, -0.5), interpolation="nearest")
    axes.set_yticks(range(len(pieces)), [piece.strip() for piece in pieces], fontsize=7)
