"""Training recipes of single layers: the layer of a contract learns random targets, so that each of its parameters moves.

    loss = loudness mean (y - target)^2        y = layer(inputs)        inputs and target drawn anew for each step

Biases, scales and tables begin at drawn values, since weight decay does not move a 0. A small `loudness` gives gradients near
the optimiser's epsilon, where a wrong epsilon shows most.
"""

# What a layer returns is an array of either framework.
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from attention.parity.contracts.probes import Drawer, N
from attention.parity.training.optimizer_names import OPTIMIZERS
from attention.parity.training.recipe import BACKENDS, Recipe
from attention.spec.errors import OptionError, shown
from attention.spec.layers.contract import Contract
from attention.spec.numbers import is_count, is_finite
from attention.spec.optimizers.optimizer import Step

STEPS = 50
APART = 100_003
"""The distance of two recipes' batch seeds: more than any number of steps."""


def recipe_for(
    contract: Contract,
    *,
    optimizer: Step = OPTIMIZERS["adamw"],
    steps: int = STEPS,
    seed: int = 0,
    loudness: float = 1.0,
    **options: Any,
) -> Recipe:
    """Return the recipe that trains a layer.

    Args:
        contract: the layer.
        optimizer: the step that is meant; AdamW as torch has it unless another is given.
        steps: how many.
        seed: of weights, inputs, targets and dropout.
        loudness: what the loss is multiplied by.
        options: further fields of the recipe, such as `optimizers`.

    Raises:
        OptionError: `contract` is none, or a number is not what it must be.
    """
    if not isinstance(contract, Contract):  # pyright: ignore[reportUnnecessaryIsInstance] - users pass what they like
        raise OptionError(f"contract {type(contract).__name__} must be a contract such as spec.MultiHeadAttention")
    if not is_count(seed, 0):
        raise OptionError(f"seed {shown(seed)} must be an int >= 0")
    if not is_finite(loudness):
        raise OptionError(f"loudness {shown(loudness)} must be a finite number")
    drawer = Drawer(contract, "float32", seed)
    loss = _loss(drawer, loudness)
    described: dict[str, Any] = {
        "models": {backend: _builder(backend) for backend in BACKENDS},
        "losses": dict.fromkeys(BACKENDS, loss),
        "batches": _batches(drawer),
        "start": drawer.weights(),
    }
    return Recipe(architecture=contract.pinned(), optimizer=optimizer, steps=steps, seed=seed, **{**described, **options})


def _builder(backend: str) -> Callable[[Any], Any]:
    return lambda contract: contract.build(backend, seed=None)


def _loss(drawer: Drawer, loudness: float) -> Callable[[Any, Mapping[str, Any], Any], Any]:
    """Return the loss, which is written once: operators and `mean` are the same in both frameworks."""
    names = tuple(drawer.draw("").arrays)
    call = {f"{side}_positions": drawer.places(N) for side in ("query", "key")} if drawer.axial else {}

    def loss(model: Any, batch: Mapping[str, Any], seed: Any) -> Any:
        drops = {"dropout_seed": seed} if drawer.contract.drops else {}
        made = model(**{name: batch[name] for name in names}, **call, **drops)
        y = made[0] if isinstance(made, tuple) else made
        return loudness * ((y - batch["target"]) ** 2).mean()

    return loss


def _batches(drawer: Drawer) -> Callable[[int], dict[str, np.ndarray]]:
    """Return the function that draws the batch of a step."""
    output = drawer.contract.outputs[0]

    def batch(step: int) -> dict[str, np.ndarray]:
        drawn = replace(drawer, seed=(drawer.seed + 1) * APART + step).draw("")
        return {**drawn.arrays, "target": drawn.cotangents[output]}

    return batch
