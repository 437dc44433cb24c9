"""Heat maps of alignments: what was written down the side, what was read along the top, the weights between.

shade[t, s] = weights[t, s]        white is 0, the darkest 1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class HeatMap:
    """One alignment.

    Attributes:
        weights: `(T, S)`; rows sum to 1.
        read: S symbols, the columns.
        written: T symbols, the rows.
        title: one line.
    """

    weights: np.ndarray
    read: Sequence[str]
    written: Sequence[str]
    title: str


def apart(some: Sequence[HeatMap], others: Sequence[HeatMap]) -> str:
    """Return what two programs' maps of the same texts differ by, in words."""
    pairs = list(zip(some, others, strict=True))
    if any(list(a.written) != list(b.written) for a, b in pairs):
        return "the two backends wrote different texts"
    most = max((float(np.abs(a.weights - b.weights).max(initial=0.0)) for a, b in pairs), default=0.0)
    return f"largest difference of a weight between the two backends: {most:.1e}"


CELL = 0.3
"""Inches of a column and of a row."""
MARGIN = (1.3, 1.5)
"""Inches beside a map and above it, for the symbols and the title."""


def draw(maps: Sequence[Sequence[HeatMap]], path: Path, caption: str = "") -> None:
    """Draw rows of heat maps, with a caption below.

    Args:
        maps: by row; all rows are of one length.
        path: of the picture.
        caption: any number of lines.
    """
    widths = [max(len(row[i].read) for row in maps) * CELL + MARGIN[0] for i in range(len(maps[0]))]
    heights = [max(len(one.written) for one in row) * CELL + MARGIN[1] for row in maps]
    figure = Figure(figsize=(sum(widths), sum(heights) + 0.3), layout="constrained")
    grid = figure.subplots(len(heights), len(widths), squeeze=False, width_ratios=widths, height_ratios=heights)
    for axes, one in zip(grid.flat, (one for row in maps for one in row), strict=True):
        _draw_one(axes, one)
    _ = figure.supxlabel(caption, fontsize="small")
    figure.savefig(path, dpi=120)


def _draw_one(axes: Axes, one: HeatMap) -> None:
    _ = axes.set_xlabel(one.title)
    if not one.weights.size:
        # A model that knows nothing yet may end before it begins.
        return
    _ = axes.imshow(one.weights, cmap="Blues", vmin=0.0, vmax=1.0, aspect="equal")
    _ = axes.set_xticks(range(len(one.read)), one.read, rotation=60, ha="left", rotation_mode="anchor")
    _ = axes.set_yticks(range(len(one.written)), one.written)
    axes.tick_params(top=True, bottom=False, labeltop=True, labelbottom=False, length=0)
    # Lines between the cells, so that a faint weight can be traced to its symbols.
    _ = axes.set_xticks(np.arange(len(one.read) + 1) - 0.5, minor=True)
    _ = axes.set_yticks(np.arange(len(one.written) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="0.9", linewidth=0.6)
    axes.tick_params(which="minor", length=0)
