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
from attention.parity.adapters.user_errors import attributed_to
from attention.parity.training.model_io import Model
from attention.parity.training.recipe import Batch, Recipe
from attention.spec.errors import OptionError, SideFailed
from attention.spec.optimizers.optimizer import Step
from attention.spec.params import Weights

StepResult = tuple[Any, Any, Any, jax.Array]
"""Parameters, the model's other state, the optimiser's state, and the loss."""


class JaxTrainer:
    """A model that is being trained.

    Args:
        recipe: of the run.
        kind: how the model is built, loaded and read.
        weights: the initial ones.
        like: another run of the recipe, whose compiled step is reused.

    Attributes:
        model: the trained model, updated by `weights` and `finished`.
        change: the `optax.GradientTransformation`.
        compiled_step: a step as one compiled program.
    """

    def __init__(self, recipe: Recipe, kind: Model, weights: Weights, like: JaxTrainer | None = None) -> None:
        self._kind = kind
        self.model: Any = kind.build()
        kind.load(self.model, weights)
        graph, self._params, self._rest = nnx.split(self.model, nnx.Param, ...)
        if like is None:
            self.change = _change(recipe, self.model)
            self.compiled_step = _compiled(graph, recipe.losses["jax"], self.change)
        else:
            self.change, self.compiled_step = like.change, like.compiled_step
        with attributed_to("JAX's optimizer"):
            self._state = self.change.init(self._params)

    @staticmethod
    def arrays(batch: Batch) -> dict[str, jax.Array]:
        """Return a batch as JAX arrays."""
        return {name: jnp.asarray(array) for name, array in batch.items()}

    def step(self, arrays: Mapping[str, jax.Array], seed: int) -> jax.Array:
        """Take one step, and return the loss before it, which JAX may still be computing.

        Raises:
            SideFailed: the loss or the optimiser raised, or the loss is no scalar.
        """
        with attributed_to("JAX's step"):
            self._params, self._rest, self._state, loss = self.compiled_step(
                self._params, self._rest, self._state, arrays, jnp.uint32(seed)
            )
        return loss

    def weights(self) -> Weights:
        """Return the current weights."""
        nnx.update(self.model, self._params, self._rest)
        return self._kind.read(self.model)

    def finished(self) -> Any:
        """Return the model in evaluation mode."""
        nnx.update(self.model, self._params, self._rest)
        return nnx.view(self.model, deterministic=True, use_running_average=True, raise_if_not_found=False)


def _change(recipe: Recipe, model: Any) -> Any:
    """Return the optax transformation of the recipe."""
    given = recipe.optimizers.get("jax", recipe.optimizer)
    if isinstance(given, Step):
        return optimizer(given, model)
    if not (hasattr(given, "init") and hasattr(given, "update")):
        wanted = "a step or an optax.GradientTransformation"
        raise OptionError(f"Recipe optimizers['jax'] {type(given).__name__} must be {wanted}")
    return given


def _compiled(graph: Any, loss: Callable[..., Any], change: Any) -> Callable[..., StepResult]:
    """Return one step as one program."""

    def value(params: Any, rest: Any, batch: Any, seed: jax.Array) -> tuple[jax.Array, Any]:
        # NNX variables may be written only in the trace that made them, so they are copied.
        model = nnx.merge(graph, params, jax.tree.map(lambda x: x, rest))
        found = loss(model, batch, seed)
        if jnp.shape(found) != ():
            raise SideFailed(f"JAX's loss returned {jnp.shape(found)}, must be a scalar")
        return found, nnx.state(model, nnx.Not(nnx.Param))

    @jax.jit
    def step(params: Any, rest: Any, state: Any, batch: Any, seed: jax.Array) -> StepResult:
        (found, rest), gradients = jax.value_and_grad(value, has_aux=True)(params, rest, batch, seed)
        updates, state = change.update(gradients, state, params)
        return optax.apply_updates(params, updates), rest, state, found

    return step
