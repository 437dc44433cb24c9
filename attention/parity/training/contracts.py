"""Recipes of contracts: any layer trained to do as a target says, so that every part of it learns.

loss = loudness mean (y - target)^2        y = layer(inputs)        inputs, target drawn anew for each step

The loudness brings gradients near the epsilon of an optimiser, where alone the two can be told apart; an optimiser without
one, and a clip, do not see it.

Biases, scales and tables begin at drawn values, because a decay of what is 0 moves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from attention.parity.probes import B, Drawer, N
from attention.parity.training.recipe import BACKENDS, Recipe
from attention.spec.errors import OptionError
from attention.spec.layers.contract import Contract
from attention.spec.optimizer import Step
from attention.spec.optimizer_steps import Adam

STEPS = 50


def of_contract(
    contract: Contract,
    *,
    optimizer: Step | None = None,
    steps: int = STEPS,
    seed: int = 0,
    loudness: float = 1.0,
    **options: Any,
) -> Recipe:
    """Return the recipe that trains a layer.

    Args:
        contract: the layer.
        optimizer: AdamW as torch has it if None.
        steps: how many.
        seed: of everything.
        loudness: what the loss is multiplied by.
        options: further fields of the recipe.

    Raises:
        OptionError: `contract` is none.
    """
    if not isinstance(contract, Contract):  # pyright: ignore[reportUnnecessaryIsInstance] - users pass what they like
        raise OptionError(f"contract {type(contract).__name__} must be a contract such as spec.MultiHeadAttention")
    drawer = Drawer(contract, "float32", seed)
    pinned = contract.pinned()
    call = _placed(drawer)
    names = tuple(drawer.draw("", **_lengths(drawer)).arrays)

    def loss(model: Any, batch: Mapping[str, Any], dropout_seed: Any) -> Any:
        drops = {"dropout_seed": dropout_seed} if contract.drops else {}
        made = model(**{name: batch[name] for name in names}, **call, **drops)
        y = made[0] if isinstance(made, tuple) else made
        return loudness * ((y - batch["target"]) ** 2).mean()

    given: dict[str, Any] = {
        "models": {backend: _builder(backend) for backend in BACKENDS},
        "losses": {"torch": loss, "jax": loss},
        "optimizer": optimizer or Adam(1e-3, weight_decay=1e-2, decoupled=True),
        "batches": _batches(drawer),
        "start": drawer.weights(),
        **options,
    }
    return Recipe(architecture=pinned, steps=steps, seed=seed, **given)


def _builder(backend: str) -> Callable[[Any], Any]:
    return lambda contract: contract.build(backend, seed=None)


def _lengths(drawer: Drawer) -> dict[str, int]:
    # A contract whose mask is aligned by T = S alone is drawn so; all others are too.
    return {"t": N, "s": N}


def _placed(drawer: Drawer) -> dict[str, Any]:
    return {"query_positions": drawer.places(N), "key_positions": drawer.places(N)} if drawer.axial else {}


def _batches(drawer: Drawer) -> Callable[[int], dict[str, np.ndarray]]:
    """Return what draws the batch of a step."""

    def batch(step: int) -> dict[str, np.ndarray]:
        # A drawer's own seed stands for the first weights.
        drawn = replace(drawer, seed=(drawer.seed + 1) * 100_003 + step).draw("", **_lengths(drawer))
        return {**drawn.arrays, "target": drawn.cotangents[drawer.contract.outputs[0]]}

    return batch
