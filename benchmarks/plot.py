"""The plot: a dot for every kernel on every case, time in milliseconds on a logarithmic axis.

Dots, because a bar on a logarithmic axis has no honest beginning. A kernel without a time has no dot.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from attention._extras import require
from benchmarks.programs import BACKWARD, FORWARD
from benchmarks.results import TIMED, Results, writable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colour is the room, shape the kernel's rank in it: neither meaning rests on colour alone.
COLOURS = {"torch": "#c8501e", "jax": "#2a6fb0"}
SHAPES = "osD^vP"


def check_plot() -> None:
    """Raise MissingExtra unless plots can be drawn."""
    require("matplotlib", extra="report", wanted_by="benchmarks --plot")


def draw(results: Results, path: str | os.PathLike[str]) -> None:
    """Write the plot as PNG.

    Args:
        results: of a run.
        path: of the file.

    Raises:
        MissingExtra: matplotlib is not installed.
        FileError: the path cannot be written.
    """
    check_plot()
    writable(path)
    # The canvas itself and not pyplot: no display is asked for, and no state outlives the figure.
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - the check above gives the clear line
    from matplotlib.figure import Figure  # noqa: PLC0415

    names = list(dict.fromkeys(row.case for row in results.rows))
    figure = Figure(figsize=(11, 2.2 + 0.45 * len(names)), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, program in zip(panels, (FORWARD, BACKWARD), strict=True):
        _panel(axes, results, names, program)
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        _ = figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    _ = figure.suptitle(f"Median time per call, lower is faster\n{results.conditions()}", fontsize=10)
    canvas.print_png(str(path))


def _panel(axes: Axes, results: Results, names: list[str], program: str) -> None:
    ranks: dict[str, list[str]] = {}
    for side, kernel in dict.fromkeys((row.side, row.kernel) for row in results.rows):
        ranks.setdefault(side, []).append(kernel)
        rows = [row for row in results.rows if (row.side, row.kernel) == (side, kernel) and row.status == TIMED]
        _ = axes.plot(
            [row.times[program] for row in rows],
            [names.index(row.case) for row in rows],
            SHAPES[(len(ranks[side]) - 1) % len(SHAPES)],
            color=COLOURS.get(side),
            label=f"{side} {kernel}",
            alpha=0.85,
        )
    axes.set_xscale("log")
    for which in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        which("{x:g}")
    _ = axes.set_yticks(range(len(names)), names)
    _ = axes.set_ylim(len(names) - 0.5, -0.5)
    _ = axes.set_xlabel("ms")
    _ = axes.set_title(program, fontsize=10)
    axes.grid(visible=True, which="both", axis="x", alpha=0.25)
    axes.grid(visible=True, axis="y", alpha=0.25)
