"""The JAX trainer: runs the steps of a recipe, compiled once for all runs of the recipe.

loss, gradients = value_and_grad(loss(model, batch, seed))        weights <- optax(weights, gradients)

State beside the parameters, such as running means, is carried from step to step.
"""

# JAX leaves many of its types unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from attention.jax_impl.optimizers import optimizer
from attention.parity.adapters.user_errors import blamed
from attention.parity.training.model_io import Model
from attention.parity.training.recipe import Batch, Recipe
from attention.spec.errors import OptionError, SideFailed
from attention.spec.optimizers.optimizer import Step
from attention.spec.params import Weights

Taken = tuple[Any, Any, Any, jax.Array]
"""Parameters, everything else that the model holds, the optimiser's state, and the loss."""


class JaxLearner:
    """A model that is being trained.

    Args:
        recipe: what it follows.
        kind: how the model is built, loaded and read.
        weights: where it starts.
        like: another run of the recipe, whose compiled step serves this one.

    Attributes:
        model: what is trained, as of the last time that it was asked for.
        change: the `optax.GradientTransformation`.
        taken: a step as one compiled program.
    """

    def __init__(self, recipe: Recipe, kind: Model, weights: Weights, like: JaxLearner | None = None) -> None:
        self._kind = kind
        self.model: Any = kind.build()
        kind.load(self.model, weights)
        graph, self._params, self._rest = nnx.split(self.model, nnx.Param, ...)
        if like is None:
            self.change = _change(recipe, self.model)
            self.taken = _compiled(graph, recipe.losses["jax"], self.change)
        else:
            self.change, self.taken = like.change, like.taken
        with blamed("JAX's optimizer"):
            self._state = self.change.init(self._params)

    @staticmethod
    def arrays(batch: Batch) -> dict[str, jax.Array]:
        """Return a batch as this framework takes it."""
        return {name: jnp.asarray(array) for name, array in batch.items()}

    def step(self, arrays: Mapping[str, jax.Array], seed: int) -> jax.Array:
        """Take one step, and return the loss before it, which JAX may still be computing.

        Raises:
            SideFailed: the loss or the optimiser raised, or the loss is no scalar.
        """
        with blamed("JAX's step"):
            self._params, self._rest, self._state, loss = self.taken(
                self._params, self._rest, self._state, arrays, jnp.uint32(seed)
            )
        return loss

    def weights(self) -> Weights:
        """Return the weights of this moment."""
        nnx.update(self.model, self._params, self._rest)
        return self._kind.read(self.model)

    def finished(self) -> Any:
        """Return the model, ready to be asked."""
        nnx.update(self.model, self._params, self._rest)
        return nnx.view(self.model, deterministic=True, use_running_average=True, raise_if_not_found=False)


def _change(recipe: Recipe, model: Any) -> Any:
    """Return what makes a step of a gradient."""
    given = recipe.optimizers.get("jax", recipe.optimizer)
    if isinstance(given, Step):
        return optimizer(given, model)
    if not (hasattr(given, "init") and hasattr(given, "update")):
        wanted = "a step or an optax.GradientTransformation"
        raise OptionError(f"Recipe optimizers['jax'] {type(given).__name__} must be {wanted}")
    return given


def _compiled(graph: Any, loss: Callable[..., Any], change: Any) -> Callable[..., Taken]:
    """Return one step as one program."""

    def value(params: Any, rest: Any, batch: Any, seed: jax.Array) -> tuple[jax.Array, Any]:
        # Variables may be written only where they were made, so those of outside are made anew.
        model = nnx.merge(graph, params, jax.tree.map(lambda x: x, rest))
        found = loss(model, batch, seed)
        if jnp.shape(found) != ():
            raise SideFailed(f"JAX's loss returned {jnp.shape(found)}, must be a scalar")
        return found, nnx.state(model, nnx.Not(nnx.Param))

    @jax.jit
    def step(params: Any, rest: Any, state: Any, batch: Any, seed: jax.Array) -> Taken:
        (found, rest), gradients = jax.value_and_grad(value, has_aux=True)(params, rest, batch, seed)
        updates, state = change.update(gradients, state, params)
        return optax.apply_updates(params, updates), rest, state, found

    return step
