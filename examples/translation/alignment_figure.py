"""Pictures of an alignment: which source word each target word was translated from, as a figure and as text.

shade[t, s] = sum over the pieces of source word s, mean over the pieces of target word t, of weights[piece, piece]
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from attention._extras import require

SHADES = " ░▒▓█"
BEGIN, CLOSE = "\N{LOWER ONE EIGHTH BLOCK}", "</s>"
"""How sentencepiece marks the beginning of a word, and the end of a sentence."""
# One ink and one text that stand out from a white page and from a black one; what has no weight is the page itself.
INK, TEXT = "#e0702a", "#7d8590"


def words(pieces: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Return the words that pieces spell, and which pieces are whose, `(words, pieces)` of 0 and 1.

    A mark of punctuation is a word of its own; the end of the sentence is none.
    """
    found: list[str] = []
    owner: list[int] = []
    for piece in pieces:
        if piece == CLOSE:
            owner.append(-1)
            continue
        if piece.startswith(BEGIN) or not found or not any(map(str.isalnum, piece)):
            found.append("")
        found[-1] += piece.removeprefix(BEGIN)
        owner.append(len(found) - 1)
    return found, (np.arange(len(found))[:, None] == np.array(owner)).astype(float)


def by_word(weights: np.ndarray, target: Sequence[str], source: Sequence[str]) -> tuple[np.ndarray, list[str], list[str]]:
    """Return the weights `(target words, source words)` and the words, of `(T, S)` weights and the pieces' spelling."""
    (said, rows), (read, columns) = words(target), words(source)
    return rows / rows.sum(-1, keepdims=True) @ weights @ columns.T, said, read


def text(weights: np.ndarray, target: Sequence[str], source: Sequence[str]) -> str:
    """Return weights as text: the source sentence, and under it a line for each target word.

    >>> print(text(np.array([[0.1, 0.9], [0.7, 0.3]]), ["gato", "preto"], ["black", "cat"]))
          black cat
    gato        ███
    preto ▓▓▓▓▓ ░░░
    """
    wide = max(map(len, target))
    lines = [" " * (wide + 1) + " ".join(source)]
    for word, row in zip(target, weights, strict=True):
        cells = (SHADES[min(int(5 * weight), 4)] * len(name) for weight, name in zip(row, source, strict=True))
        lines.append(f"{word:{wide}} {' '.join(cells)}".rstrip())
    return "\n".join(lines)


def draw(weights: np.ndarray, target: Sequence[str], source: Sequence[str], path: str | os.PathLike[str]) -> Path:
    """Write weights as a PNG without a background, so that it is at home on a light page and on a dark one.

    Args:
        weights: `(target words, source words)`, of 0..1.
        target: the words of the rows.
        source: the words of the columns.
        path: where it goes; its folder is made.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    require("matplotlib", extra="report", wanted_by="the figure of an alignment")
    from matplotlib.colors import to_rgb  # noqa: PLC0415 - a second that only the figure needs
    from matplotlib.figure import Figure  # noqa: PLC0415

    rows, columns = weights.shape
    figure = Figure(figsize=(0.42 * columns + 1.5, 0.34 * rows + 1.1), layout="constrained")
    axes = figure.subplots()
    colours = np.dstack([np.broadcast_to(to_rgb(INK), (rows, columns, 3)), weights.clip(0.0, 1.0)])
    _ = axes.imshow(colours, aspect="auto")
    _ = axes.set_xticks(range(columns), source, rotation=45, ha="left", rotation_mode="anchor")
    _ = axes.set_yticks(range(rows), target)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, colors=TEXT, labelsize=11)
    # Thin lines between the cells, so that a row can be followed to its word.
    for set_ticks, count in ((axes.set_xticks, columns), (axes.set_yticks, rows)):
        _ = set_ticks(np.arange(count + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=TEXT, alpha=0.25, linewidth=0.6)
    axes.tick_params(which="minor", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, transparent=True, bbox_inches="tight", pad_inches=0.1, metadata={"Software": None})
    return Path(path)
