"""A run in JAX: one step of a recipe after the other, compiled once for all runs of the recipe.

loss, gradients = value_and_grad(loss(model, batch, seed))        weights <- optax(weights, gradients)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from attention.jax_impl.optimizers import optimizer
from attention.parity.training.recipe import Batch, Recipe
from attention.spec.params import Weights

Taken = tuple[Any, Any, Any, jax.Array]
"""Parameters, everything else that the model holds, the optimiser's state, and the loss."""


class JaxLearner:
    """A model that is being trained.

    Args:
        recipe: what it follows.
        weights: where it starts.
        like: another run of the recipe, whose compiled step serves this one.
    """

    def __init__(self, recipe: Recipe, weights: Weights, like: JaxLearner | None = None) -> None:
        self.model: Any = recipe.models["jax"](recipe.architecture)
        self.model.load_weights(weights)
        graph, self._params, self._rest = nnx.split(self.model, nnx.Param, ...)
        change = optimizer(recipe.optimizer, self.model)
        self._state = change.init(self._params)
        self._step = like._step if like is not None else _compiled(graph, recipe.losses["jax"], change)

    def step(self, batch: Batch, seed: int) -> jax.Array:
        """Take one step, and return the loss before it, which JAX may still be computing."""
        arrays = {name: jnp.asarray(array) for name, array in batch.items()}
        self._params, self._rest, self._state, loss = self._step(
            self._params, self._rest, self._state, arrays, jnp.uint32(seed)
        )
        return loss

    def weights(self) -> Weights:
        """Return the weights of this moment, canonical."""
        nnx.update(self.model, self._params, self._rest)
        return self.model.weights()

    def finished(self) -> Any:
        """Return the model, ready to be asked."""
        nnx.update(self.model, self._params, self._rest)
        return nnx.view(self.model, deterministic=True)


def _compiled(graph: Any, loss: Callable[..., Any], change: optax.GradientTransformation) -> Callable[..., Taken]:
    """Return one step as one program."""

    def value(params: Any, rest: Any, batch: Any, seed: jax.Array) -> tuple[jax.Array, Any]:
        model = nnx.merge(graph, params, rest)
        found = loss(model, batch, seed)
        return found, nnx.state(model, nnx.Not(nnx.Param))

    @jax.jit
    def step(params: Any, rest: Any, state: Any, batch: Any, seed: jax.Array) -> Taken:
        (found, rest), gradients = jax.value_and_grad(value, has_aux=True)(params, rest, batch, seed)
        updates, state = change.update(gradients, state, params)
        return optax.apply_updates(params, updates), rest, state, found

    return step
