"""Plot of a training run: both loss curves, their difference and its envelope, and the worst parameter.

A difference is drawn as a line on a logarithmic axis, and its envelope as a shade: a run that stays together never leaves it.
"""

# matplotlib leaves many of its types unknown.
# pyright: standard

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from attention._extras import require
from attention.parity.training.result import Training
from attention.spec.errors import FileError, shown

TORCH, JAX, SHADE, LINE = "#d1495b", "#1b4965", "#cfe3ee", "#3c3c3c"


def draw(training: Training, path: str | os.PathLike[str]) -> None:
    """Draw a run to a file, whose ending says the format.

    Raises:
        FileError: the path cannot be written.
        MissingExtra: matplotlib is not installed.
    """
    require("matplotlib", extra="report", wanted_by="Training.plot")
    from matplotlib.figure import Figure  # noqa: PLC0415 - needs the extra `report`

    figure = Figure(figsize=(7.2, 7.6), layout="constrained", dpi=150)
    curves, losses, worst = figure.subplots(3, 1, sharex=True, height_ratios=(1.25, 1.0, 1.0))
    _curves(curves, training)
    _difference(losses, training, "loss")
    # Of what is outside, the first; else the nearest.
    seen = [found for found in (*training.outside, *training.worst) if found.what != "loss"]
    _difference(worst, training, seen[0].what)
    worst.set_xlabel("step")
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise FileError(f"path {shown(str(path))} must be writable, and end as a picture does: {error}") from error


def _curves(axes: Any, training: Training) -> None:
    steps = np.arange(1, len(training.losses["torch"]) + 1)
    # The one lies on the other if all is well, so the lower one is wider.
    _ = axes.plot(steps, training.losses["torch"], color=TORCH, linewidth=3.0, alpha=0.6, label="torch")
    _ = axes.plot(steps, training.losses["jax"], color=JAX, linewidth=1.0, label="JAX")
    axes.set_ylabel("loss")
    verdict = "together" if training.ok else training.failure or f"{training.outside[0].what} apart"
    at = f" from step {training.outside[0].step}" if training.outside and not training.failure else ""
    axes.set_title(f"{verdict}{at}", fontsize=9, loc="left")
    _finish(axes)


def _difference(axes: Any, training: Training, what: str) -> None:
    far, most = training.apart[what], training.envelope[what]
    steps = (np.arange(far.size) if what == "loss" else training.watched) + 1
    shown = np.where(np.isfinite(far) & (far > 0), far, np.nan)
    known = np.isfinite(most) & (most > 0)
    positive = np.concatenate([shown[np.isfinite(shown)], most[known]])
    low = float(positive.min()) / 3 if positive.size else 1e-12
    _ = axes.fill_between(steps, low, np.where(known, most, np.nan), color=SHADE, linewidth=0, label="envelope of the replicas")
    # Equal to the bit has no logarithm: it is a mark on the floor.
    equal = far == 0
    _ = axes.plot(
        steps, shown, color=LINE, linewidth=1.2, marker="." if far.size < 100 else None, markersize=4, label="|torch - JAX|"
    )
    if equal.any():
        _ = axes.plot(steps[equal], np.full(int(equal.sum()), low * 1.3), ".", color=JAX, markersize=3, label="equal bits")
    left = [found for found in training.outside if found.what == what]
    if left:
        axes.axvline(left[0].step, color=TORCH, linewidth=1.0, linestyle="--", label=f"outside from step {left[0].step}")
    axes.set_yscale("log")
    axes.set_ylim(bottom=low)
    axes.set_ylabel("difference of losses" if what == "loss" else "difference, RMS")
    axes.set_title("loss" if what == "loss" else what, fontsize=9, loc="left")
    _finish(axes)


def _finish(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, axis="y", alpha=0.25, linewidth=0.5)
    # Above, where it hides nothing and its shade is not on the shade.
    axes.legend(frameon=False, fontsize=8, ncols=4, loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)
