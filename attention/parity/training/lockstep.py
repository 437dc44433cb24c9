"""Lockstep: both frameworks and the twins take each step of a recipe together.

torch[0] = jax[0] = weights        twin[i][0] = weights moved by one rounding unit, up or down at random
distance(a, b)[n] = root mean square of a[n] - b[n], for each parameter        spread[n] = max over i of distance(twin[i], jax)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from attention.parity.training.jax_learner import JaxLearner
from attention.parity.training.recipe import Recipe
from attention.parity.training.result import Training
from attention.parity.training.torch_learner import TorchLearner
from attention.spec.params import Weights


def train(
    recipe: Recipe, *, twins: int = 2, watch: int = 1, progress: Callable[[int, float], object] | None = None
) -> Training:
    """Train a recipe in both frameworks, from the same bits, and judge whether they stay together.

    Args:
        recipe: what is trained, on what, and how.
        twins: how many runs of JAX's side begin one rounding unit away, and so show how far rounding alone drives a run.
        watch: every how many steps weights are compared; losses are at every step.
        progress: told of each step, counted from 1, and of its loss.

    Returns:
        The trained models, the losses and the verdict.
    """
    start = recipe.weights()
    ours = JaxLearner(recipe, start)
    torch = TorchLearner(recipe, start)
    others = [JaxLearner(recipe, moved(start, twin), like=ours) for twin in range(twins)]
    losses: dict[str, list[float]] = {"torch": [], "jax": [], **{f"twin {i}": [] for i in range(twins)}}
    steps: list[int] = []
    apart: list[dict[str, float]] = []
    spread: list[dict[str, float]] = []
    for step in range(recipe.steps):
        batch, seed = recipe.batches(step), recipe.dropout_seed(step)
        # JAX computes while torch does.
        pending = [learner.step(batch, seed) for learner in (ours, *others)]
        losses["torch"].append(float(torch.step(batch, seed)))
        for name, value in zip(("jax", *(f"twin {i}" for i in range(twins))), pending, strict=True):
            losses[name].append(float(value))
        if step % watch == 0 or step == recipe.steps - 1:
            base = ours.weights()
            steps.append(step)
            apart.append(distances(torch.weights(), base))
            spread.append(_most([distances(other.weights(), base) for other in others]))
        if progress is not None:
            _ = progress(step + 1, losses["torch"][-1])
    return Training(
        models={"torch": torch.finished(), "jax": ours.finished()},
        losses={name: np.array(values) for name, values in losses.items()},
        watched=np.array(steps),
        apart={name: np.array([d[name] for d in apart]) for name in start},
        spread={name: np.array([d[name] for d in spread]) for name in start},
    )


def moved(weights: Weights, twin: int) -> Weights:
    """Return weights, each moved by one rounding unit of its own, up or down."""
    rng = np.random.default_rng(twin)
    return {
        name: np.nextafter(w, rng.choice(np.array([-np.inf, np.inf], w.dtype), w.shape)) * (w != 0)
        for name, w in weights.items()
    }


def distances(a: Weights, b: Weights) -> dict[str, float]:
    """Return the root mean square of the difference of each parameter."""
    return {name: float(np.sqrt(np.mean(np.square(a[name].astype(np.float64) - b[name])))) for name in a}


def _most(found: list[dict[str, float]]) -> dict[str, float]:
    return {name: max(d[name] for d in found) for name in found[0]} if found else {}
