"""Train one recipe in both frameworks, and in perturbed replicas that measure how fast rounding alone makes runs diverge.

torch[0] = jax[0] = weights        replica[i][0] = weights moved by one rounding unit, up or down at random

The replicas are runs in JAX. Losses are compared at every step, weights after each of the first ten and then after every
`watch`-th.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from attention.parity.training import optimizer_rounding
from attention.parity.training.distance import Distances, distances, furthest, perturbed, sizes, unit
from attention.parity.training.envelope import Runs
from attention.parity.training.jax_trainer import JaxTrainer
from attention.parity.training.model_io import models
from attention.parity.training.recipe import Recipe
from attention.parity.training.result import Training
from attention.parity.training.torch_trainer import TorchTrainer
from attention.spec.options import checked, function_of, instance, whole
from attention.spec.params import Weights

DENSE = 10
"""Weights are compared after each of the first steps: most mistakes show in one of them."""
MOST_REPLICAS = 64
"""More runs add nothing, and each holds the model and its optimiser again."""


@checked(recipe=instance(Recipe), replicas=whole(1, MOST_REPLICAS), watch=whole(), progress=function_of(2) | ", or None")
def train(
    recipe: Recipe, *, replicas: int = 2, watch: int = 1, progress: Callable[[int, float], object] | None = None
) -> Training:
    """Train a recipe in both frameworks, from the same bits, and compare the runs within the divergence bound.

    Args:
        recipe: model, data, optimiser and number of steps.
        replicas: how many JAX runs start one rounding unit away, to measure the divergence by rounding alone.
        watch: weights are compared every `watch` steps, after the first ten; losses at every step.
        progress: called with each step, counted from 1, and its loss.

    Returns:
        The trained models, the losses and the verdict.

    Raises:
        OptionError: an argument, or a batch, is not what it must be.
        ParamError: a pair's parameters do not belong together.
        SideFailed: a loss or an optimiser raised, or a loss is no scalar.
    """
    start, kinds = models(recipe)
    torch = TorchTrainer(recipe, kinds["torch"], start)
    ours = JaxTrainer(recipe, kinds["jax"], start)
    begun = [perturbed(start, replica) for replica in range(replicas)]
    others = [JaxTrainer(recipe, kinds["jax"], weights, like=ours) for weights in begun]
    names = ("jax", *(f"replica {i}" for i in range(replicas)))
    losses: dict[str, list[float]] = {name: [] for name in ("torch", *names)}
    watcher = _Watcher(start)
    for step in range(recipe.steps):
        batch, seed = recipe.batch(step), recipe.dropout_seed(step)
        arrays = JaxTrainer.arrays(batch)
        # JAX computes while torch does.
        pending = [trainer.step(arrays, seed) for trainer in (ours, *others)]
        losses["torch"].append(float(torch.step(TorchTrainer.arrays(batch), seed)))
        for name, value in zip(names, pending, strict=True):
            losses[name].append(float(value))
        if step < DENSE or step % watch == 0 or step == recipe.steps - 1:
            watcher.look(step, torch.weights(), ours.weights(), [other.weights() for other in others])
        if progress is not None:
            _ = progress(step + 1, losses["torch"][-1])
    return Training(
        recipe=recipe,
        models={"torch": torch.finished(), "jax": ours.finished()},
        losses={name: np.array(values) for name, values in losses.items()},
        runs=watcher.seen(recipe, furthest([distances(weights, start) for weights in begun])),
    )


class _Watcher:
    """Records the distances between the runs."""

    def __init__(self, start: Weights) -> None:
        self._start, self._last = start, start
        self._steps: list[int] = []
        self._seen: dict[str, list[Distances]] = {name: [] for name in ("apart", "spread", "size", "gone")}

    def look(self, step: int, torch: Weights, ours: Weights, others: Sequence[Weights]) -> None:
        """Compare the weights after a step."""
        self._steps.append(step)
        self._seen["apart"].append(distances(torch, ours))
        self._seen["spread"].append(furthest([distances(other, ours) for other in others]))
        self._seen["size"].append(sizes(ours))
        self._seen["gone"].append(distances(ours, self._last))
        # `weights` may return views that the next step overwrites.
        self._last = {name: w.copy() for name, w in ours.items()}

    def seen(self, recipe: Recipe, first: Distances) -> Runs:
        """Return the recorded distances."""
        curves: dict[str, Any] = {
            what: {name: np.array([distance[name] for distance in found]) for name in self._start}
            for what, found in self._seen.items()
        }
        return Runs(
            counts={name: w.size for name, w in self._start.items()},
            watched=np.array(self._steps),
            first=first,
            share=np.array([optimizer_rounding.share(recipe.optimizer, step) for step in range(recipe.steps)]),
            leak=np.array([optimizer_rounding.leak(recipe.optimizer, step) for step in range(recipe.steps)]),
            unit=unit(self._start),
            **curves,
        )
