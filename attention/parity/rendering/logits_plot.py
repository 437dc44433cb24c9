"""Plot of a comparison of logits: error and KL divergence along the positions, beside what rounding explains."""

# matplotlib leaves many of its types unknown.
# pyright: standard

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from attention._extras import require
from attention.parity.language_models.logits_result import LogitsComparison
from attention.parity.numerics.comparison import MOST_RMS
from attention.spec.errors import FileError, shown

ERROR, SHADE, FLIP = "#1b4965", "#cfe3ee", "#d1495b"


def draw(found: LogitsComparison, path: str | os.PathLike[str]) -> None:
    """Draw a comparison to a file, whose ending says the format.

    Raises:
        FileError: the path cannot be written.
        MissingExtra: matplotlib is not installed.
    """
    require("matplotlib", extra="report", wanted_by="LogitsComparison.plot")
    from matplotlib.figure import Figure  # noqa: PLC0415 - needs the extra `report`

    figure = Figure(figsize=(7.2, 5.0), layout="constrained", dpi=150)
    errors, kl = figure.subplots(2, 1, sharex=True, height_ratios=(1.4, 1.0))
    _errors(errors, found)
    _divergence(kl, found)
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise FileError(f"path {shown(str(path))} must be writable, and end as a picture does: {error}") from error


def _errors(axes: Any, found: LogitsComparison) -> None:
    steps, error, explained = found.steps, found.numbers["error"], found.numbers["explained"]
    positive = np.concatenate([each[np.isfinite(each) & (each > 0)] for each in (error, explained)])
    low = float(positive.min()) / 3 if positive.size else 1e-12
    order = np.argsort(steps, kind="stable")
    label = f"up to {MOST_RMS:g} times what rounding explains"
    _ = axes.fill_between(steps[order], low, np.maximum(MOST_RMS * explained, low)[order], color=SHADE, label=label, step="mid")
    # Equal to the bit has no logarithm: it is a mark on the floor.
    _ = axes.plot(steps, np.maximum(error, low), ".", color=ERROR, markersize=4, label="RMS error")
    flips = np.flatnonzero(found.numbers["flip"])
    if flips.size:
        _ = axes.plot(steps[flips], np.maximum(error, low)[flips], "x", color=FLIP, markersize=6, label="argmax flips")
    axes.set_ylabel("error of the logits")
    axes.set_title(f"{found.name}: {found.verdict}", fontsize=9, loc="left")
    _finish(axes, low)


def _divergence(axes: Any, found: LogitsComparison) -> None:
    kl = found.numbers["kl"]
    positive = kl[np.isfinite(kl) & (kl > 0)]
    low = float(positive.min()) / 3 if positive.size else 1e-16
    _ = axes.plot(found.steps, np.maximum(kl, low), ".", color=ERROR, markersize=4, label="KL(expected || actual)")
    axes.set_ylabel("nats")
    axes.set_xlabel("position")
    _finish(axes, low)


def _finish(axes: Any, low: float) -> None:
    axes.set_yscale("log")
    axes.set_ylim(bottom=low)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, axis="y", alpha=0.25, linewidth=0.5)
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)
