"""Plots of a run: time and memory over length, and the roofline.

attainable(intensity) = min(peak, bandwidth * intensity)        intensity = flops / bytes that must be moved
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from attention._extras import require
from benchmarks.results import TIME, Results, Row, writable
from benchmarks.tables import conditions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colour is the framework, the line whether it is ours, the mark the implementation: no meaning rests on colour alone.
COLOURS = {"torch": "#c8501e", "jax": "#2a6fb0"}
MARKS = "osD^vP*X<>hdp"
NAMES = ("speed", "memory", "roofline")


def check_plots() -> None:
    """Raise MissingExtra unless plots can be drawn."""
    require("matplotlib", extra="report", wanted_by="benchmarks --plots")


def draw(results: Results, folder: str | os.PathLike[str]) -> list[Path]:
    """Write the plots for which a run has numbers, as PNG, and return their paths.

    Args:
        results: of a run.
        folder: where they go: speed.png, memory.png, roofline.png.

    Raises:
        MissingExtra: matplotlib is not installed.
        FileError: a path cannot be written.
    """
    check_plots()
    rows = [row for row in results.rows if row.quantity == TIME and row.samples and "S" in row.case]
    figures = {
        "speed": _over_length(results, rows, "ms per call", lambda row: row.time),
        "memory": _over_length(results, rows, "MB beyond the inputs", _megabytes),
        "roofline": _rooflines(results, rows),
    }
    paths: list[Path] = []
    for name, figure in figures.items():
        if figure is not None:
            path = Path(folder) / f"{name}.png"
            _save(figure, path)
            paths.append(path)
    return paths


def _megabytes(row: Row) -> float | None:
    return None if row.memory_bytes is None else row.memory_bytes / 1e6


def _save(figure: Figure, path: Path) -> None:
    # The canvas itself and not pyplot: no display is asked for, and no state outlives the figure.
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - `check_plots` gives the clear line

    writable(path)
    FigureCanvasAgg(figure).print_png(str(path))


def _panels(titles: list[str]) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure  # noqa: PLC0415

    across = min(3, len(titles))
    down = -(-len(titles) // across)
    figure = Figure(figsize=(4.6 * across, 3.6 * down + 1.4), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False)
    flat = [axes for line in grid for axes in line]
    for axes, title in zip(flat, titles, strict=False):
        _ = axes.set_title(title, fontsize=10)
        axes.grid(visible=True, which="both", alpha=0.25)
    for axes in flat[len(titles) :]:
        axes.set_visible(False)
    return figure, flat[: len(titles)]


def _finish(figure: Figure, panels: list[Axes], results: Results) -> Figure:
    named = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if named:
        _ = figure.legend(
            named.values(), named.keys(), loc="outside lower center", ncols=min(5, len(named)), frameon=False, fontsize=8
        )
    _ = figure.suptitle(conditions(results).splitlines()[0], fontsize=9)
    return figure


def _styles(rows: list[Row]) -> dict[str, dict[str, object]]:
    marks = cycle(MARKS)
    return {
        row.implementation: {
            "color": COLOURS.get(row.side),
            "marker": next(marks),
            "linestyle": "-" if row.ours else ":",
            "linewidth": 2.0 if row.implementation.endswith(" auto") else 1.0,
            "markersize": 5,
            "alpha": 0.85,
        }
        for row in {row.implementation: row for row in rows}.values()
    }


def _title(row: Row) -> str:
    return f"{row.case['mask']}, D {row.case['D']}, {row.case['dtype']}\n{row.case['program']}"


def _over_length(results: Results, rows: list[Row], label: str, value: Callable[[Row], float | None]) -> Figure | None:
    """Return a panel for each mask, width, dtype and program, with the length across and a value upwards."""
    lines: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for row in rows:
        if (found := value(row)) is not None:
            lines.setdefault(_title(row), {}).setdefault(row.implementation, []).append((row.case["S"], found))
    if not lines:
        return None
    figure, panels = _panels(list(lines))
    styles = _styles(rows)
    for axes, by_implementation in zip(panels, lines.values(), strict=True):
        for implementation, points in by_implementation.items():
            _ = axes.loglog(*zip(*sorted(points), strict=True), label=implementation, **styles[implementation])  # type: ignore[arg-type]
        axes.xaxis.set_minor_formatter("")
        sizes = sorted({s for points in by_implementation.values() for s, _ in points})
        _ = axes.set_xticks(sizes, [str(s) for s in sizes])
        _ = axes.set_xlabel("S")
        _ = axes.set_ylabel(label)
    return _finish(figure, panels, results)


def _rooflines(results: Results, rows: list[Row]) -> Figure | None:
    """Return a panel for each framework and dtype whose peaks are known: what is attainable, and what was attained."""
    peaks = [peak for peak in results.peaks if any(_under(row, peak.side, peak.dtype) for row in rows)]
    if not peaks:
        return None
    figure, panels = _panels([f"{peak.side}, {peak.dtype}" for peak in peaks])
    styles = _styles(rows)
    for axes, peak in zip(panels, peaks, strict=True):
        points = list(_points([row for row in rows if _under(row, peak.side, peak.dtype)]))
        ridge = peak.flops / peak.bytes
        ends = (min([ridge / 30, *(x for _, x, _ in points)]), max([ridge * 30, *(x for _, x, _ in points)]))
        span = [ends[0], ridge, ends[1]]
        _ = axes.loglog(span, [min(peak.flops, peak.bytes * x) / 1e9 for x in span], color="black", linewidth=1)
        for implementation, intensity, rate in points:
            _ = axes.loglog([intensity], [rate], label=implementation, **{**styles[implementation], "linestyle": ""})  # type: ignore[arg-type]
        _ = axes.set_xlabel("FLOP per byte that must be moved")
        _ = axes.set_ylabel("GFLOP/s")
    return _finish(figure, panels, results)


def _under(row: Row, side: str, dtype: str) -> bool:
    return row.side == side and row.case["dtype"] == dtype and row.flops > 0


def _points(rows: list[Row]) -> Iterator[tuple[str, float, float]]:
    for row in rows:
        if row.time:
            yield row.implementation, row.flops / row.bytes, row.flops / row.time / 1e6
