"""The figure of the scenes: what each backend says of a scene, and where it looks for each of its words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from examples.captioning.data import END, LONGEST, PAD, WORDS, Scenes

MOST, FEWER = 2, 1
"""How many scenes with most objects are drawn, and with fewer: the first ones of each kind that are held out."""


class Grid(Protocol):
    """How a scene is cut into patches, in pixels."""

    @property
    def patch(self) -> int: ...
    @property
    def stride(self) -> int: ...
    @property
    def grid(self) -> int: ...


def draw(test: Scenes, told: Mapping[str, tuple[np.ndarray, np.ndarray]], size: Grid, path: Path) -> None:
    """Draw some scenes, told by each backend.

    Args:
        test: scenes.
        told: by backend, captions `(N, T)` and weights `(N, T, S)`.
        size: how scenes were cut into patches.
        path: where to.
    """
    many = (test.places >= 0).all((1, 2))
    shown = [*np.flatnonzero(many)[:MOST], *np.flatnonzero(~many)[:FEWER]]
    rows, columns = len(shown) * len(told), 1 + LONGEST
    figure, axes = plt.subplots(rows, columns, figsize=(1.35 * columns, 1.6 * rows), squeeze=False, layout="constrained")
    for row, (scene, backend) in enumerate((scene, backend) for scene in shown for backend in told):
        captions, weights = told[backend]
        for axis in axes[row]:
            axis.set_axis_off()
        _scene(axes[row, 0], test.images[scene], backend)
        for place, word in enumerate(captions[scene]):
            if word != PAD:
                _word(axes[row, 1 + place], test.images[scene], weights[scene, place].reshape(size.grid, size.grid), size)
                right = word == test.captions[scene, place]
                title = WORDS[word] if word != END else "(end)"
                axes[row, 1 + place].set_title(title, fontsize=11, color="black" if right else "firebrick")
    _ = figure.suptitle("Where each word was looked for, in scenes whose handwriting was never seen (red: a wrong word)")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _scene(axis: Axes, image: np.ndarray, title: str) -> None:
    _ = axis.imshow(image, cmap="gray_r", vmin=0.0, vmax=1.0)
    _ = axis.set_title(title, fontsize=11, fontweight="bold")
    _framed(axis)


def _word(axis: Axes, image: np.ndarray, weights: np.ndarray, size: Grid) -> None:
    """Draw a scene under the weights of its patches, each about the middle of its patch."""
    _ = axis.imshow(image, cmap="gray_r", vmin=0.0, vmax=1.4)
    begin = (size.patch - size.stride) / 2.0 - 0.5
    end = begin + size.stride * size.grid
    heat = axis.imshow(weights, cmap="Oranges", vmin=0.0, vmax=1.0, extent=(begin, end, end, begin), interpolation="nearest")
    heat.set_alpha(0.75 * np.sqrt(weights / weights.max()))
    row, column = np.unravel_index(weights.argmax(), weights.shape)
    corner = (float(column) * size.stride - 0.5, float(row) * size.stride - 0.5)
    _ = axis.add_patch(Rectangle(corner, size.patch, size.patch, fill=False, edgecolor="darkorange", linewidth=1.5))
    _ = axis.set_xlim(-0.5, image.shape[1] - 0.5)
    _ = axis.set_ylim(image.shape[0] - 0.5, -0.5)
    _framed(axis)


def _framed(axis: Axes) -> None:
    axis.set_axis_on()
    _ = axis.set(xticks=[], yticks=[])
    axis.spines[:].set_color("lightgray")
