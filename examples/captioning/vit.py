"""Example: a vision transformer that names digits of MNIST, and what its token of the whole looks at.

    python -m examples.captioning.vit

It learns from 4,000 images, each moved by a pixel or two whenever it comes, and is scored on 1,000 others:

    right       digits named rightly
    worst       the same of the digit that is hardest to name

beside what scikit-learn makes of the pixels of the same images, as they are: the nearest of ten mean images, a linear map, and
the nearest image of all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from attention import spec
from attention._extras import require
from attention.parity.training import Recipe
from examples.captioning import vision_jax, vision_torch
from examples.captioning.data import DIGITS, Handwriting, mnist, patches
from examples.captioning.eye import Eye
from examples.captioning.vision import VisionTransformer
from examples.experiment import FOLDER, Experiment, rates, run, run_experiment

MODULES = {"torch": vision_torch, "jax": vision_jax}
SHOWN = 5
"""Images that are drawn: the first ones of names that are spread over all ten."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large the example is; patches and moves in pixels."""

    patch: int = 7
    most_moved: int = 2
    embed_dim: int = 64
    num_heads: int = 4
    depth: int = 2
    batch: int = 64
    steps: int = 1800
    rate: float = 2e-3
    replicas: int = 1
    watch: int = 50

    def patches(self, images: np.ndarray) -> np.ndarray:
        """Return the patches of images, which do not overlap."""
        return patches(images, self.patch, self.patch)


TINY = Size(patch=14, embed_dim=8, num_heads=2, depth=1, batch=4, steps=8, watch=4)


def experiment(learn: Handwriting, held: Handwriting, size: Size) -> Experiment:
    """Return the example of digits to learn from and digits to be scored on."""
    side, given = learn.images.shape[-1], size.patches(held.images)

    def batch(step: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(step)
        drawn = rng.integers(0, len(learn.names), size.batch)
        return {"patches": size.patches(moved(learn.images[drawn], size.most_moved, rng)), "names": learn.names[drawn]}

    def score(backend: str, trained: Any) -> Mapping[str, float]:
        return scores(MODULES[backend].ask(trained, given)[0].argmax(-1), held.names)

    eye = Eye((side // size.patch) ** 2, size.patch**2, size.embed_dim, size.num_heads, size.depth)
    recipe = Recipe(
        architecture=VisionTransformer(eye, len(DIGITS)),
        models={backend: module.VisionTransformer for backend, module in MODULES.items()},
        losses={backend: module.loss for backend, module in MODULES.items()},
        optimizer=spec.optimizers.Adam(rates(size.rate, size.steps), eps=1e-6, clip=spec.optimizers.Clip(1.0)),
        batches=batch,
        steps=size.steps,
    )
    return Experiment(
        name="vit",
        title=f"A vision transformer: {len(learn.names)} digits of MNIST by name",
        recipe=recipe,
        score=score,
        baseline=baselines(learn, held),
        figure=lambda models, folder: draw(models, held, size, folder / "looks.png"),
        replicas=size.replicas,
        watch=size.watch,
    )


def moved(images: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Return images, each moved by up to so many pixels along each axis, over paper."""
    side = images.shape[-1]
    paper = np.pad(images, ((0, 0), (most, most), (most, most)))
    begins = rng.integers(0, 2 * most + 1, (len(images), 2))
    return np.stack(
        [sheet[row : row + side, column : column + side] for sheet, (row, column) in zip(paper, begins, strict=True)]
    )


def scores(said: np.ndarray, names: np.ndarray) -> dict[str, float]:
    """Return how many digits are named rightly, of all and of the hardest, in per cent."""
    right = said == names
    worst = min(float(right[names == name].mean()) for name in np.unique(names))
    return {"right": 100.0 * float(right.mean()), "worst": 100.0 * worst}


def baselines(learn: Handwriting, held: Handwriting) -> dict[str, dict[str, float]]:
    """Return the scores of what needs no attention.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    require("sklearn", extra="examples", wanted_by="captioning")
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - asked for above
    from sklearn.neighbors import KNeighborsClassifier  # noqa: PLC0415

    seen, asked = (part.images.reshape(len(part.names), -1) for part in (learn, held))
    names = np.unique(learn.names)
    means = np.stack([seen[learn.names == name].mean(0) for name in names])
    return {
        title: scores(way.predict(asked), held.names)
        for title, way in {
            "nearest mean": KNeighborsClassifier(1).fit(means, names),
            "linear map": LogisticRegression(C=0.1, max_iter=1000).fit(seen, learn.names),
            "nearest image": KNeighborsClassifier(1).fit(seen, learn.names),
        }.items()
    }


def draw(models: Mapping[str, Any], held: Handwriting, size: Size, path: Path) -> None:
    """Draw what the token of the whole looks at in the last block, head by head, with the name that is then given."""
    found = [np.flatnonzero(held.names == name)[0] for name in np.unique(held.names)]
    shown = held.images[found[:: max(1, len(found) // SHOWN)][:SHOWN]]
    grid, side = shown.shape[-1] // size.patch, shown.shape[-1]
    columns = 1 + size.num_heads
    figure, axes = plt.subplots(len(shown), len(models) * columns, figsize=(13, 1.5 * len(shown)), layout="constrained")
    for first, (backend, model) in enumerate(models.items()):
        logits, looks = MODULES[backend].ask(model, size.patches(shown))
        for row, image in enumerate(shown):
            own = axes[row, first * columns :][:columns]
            for axis in own:
                _ = axis.imshow(image, cmap="gray_r", vmin=0.0, vmax=1.0)
                _ = axis.set(xticks=[], yticks=[])
            own[0].set_title(f"{backend}: {DIGITS[int(logits[row].argmax())]}", fontsize=10, fontweight="bold")
            for head, axis in enumerate(own[1:]):
                weights = looks[row, head].reshape(grid, grid)
                heat = axis.imshow(
                    weights, cmap="Oranges", vmin=0.0, vmax=weights.max(), extent=(-0.5, side - 0.5, side - 0.5, -0.5)
                )
                heat.set_alpha(0.8 * weights / weights.max())
                _ = axis.set_title(f"head {head}: {weights.max():.0%}", fontsize=9)
    _ = figure.suptitle("What the token of the whole looks at in the last block (per cent: weight of the darkest patch)")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(folder: Path = FOLDER) -> None:
    """Run the example on MNIST."""
    _ = run_experiment(experiment(*mnist(), Size()), folder)


if __name__ == "__main__":
    run(main)
