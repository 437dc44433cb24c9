"""The PyTorch trainer: runs the steps of a recipe.

loss, gradients = autograd(loss(model, batch, seed))        weights <- torch.optim(weights, gradients)
"""

# torch leaves many of its types unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attention.parity.adapters.user_errors import attributed_to
from attention.parity.training.model_io import Model
from attention.parity.training.recipe import Batch, Recipe
from attention.spec.errors import OptionError, SideFailed
from attention.spec.optimizers.optimizer import Step
from attention.spec.params import Weights
from attention.torch_impl.optimizers import optimizer
from attention.torch_impl.params import to_tensor


class TorchTrainer:
    """A model that is being trained.

    Args:
        recipe: of the run.
        kind: how the model is built, loaded and read.
        weights: the initial ones.
        narrow: whether the optimiser's numbers are rounded to float32, as XLA does.
    """

    def __init__(self, recipe: Recipe, kind: Model, weights: Weights, *, narrow: bool = False) -> None:
        self._kind = kind
        self.model: Any = kind.build()
        kind.load(self.model, weights)
        _ = self.model.train()
        self._loss = recipe.losses["torch"]
        self._parts = _parts(recipe, self.model, narrow=narrow)

    @staticmethod
    def arrays(batch: Batch) -> dict[str, Tensor]:
        """Return a batch as torch tensors."""
        return {name: to_tensor(array) for name, array in batch.items()}

    def step(self, arrays: Mapping[str, Tensor], seed: int) -> Tensor:
        """Take one step, and return the loss before it.

        Raises:
            SideFailed: the loss or the optimiser raised, or the loss is no scalar.
        """
        with attributed_to("torch's loss"):
            self.model.zero_grad()
            loss = self._loss(self.model, arrays, seed)
            if not isinstance(loss, Tensor) or loss.ndim:
                got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
                raise SideFailed(f"torch's loss returned {got}, must be a scalar tensor")
            loss.backward()
        with attributed_to("torch's optimizer"):
            for part in self._parts:
                # An optimiser and a schedule step; clipping is a function.
                part.step() if hasattr(part, "step") else part()
        return loss.detach()

    def weights(self) -> Weights:
        """Return the current weights."""
        return self._kind.read(self.model)

    def finished(self) -> Any:
        """Return the model in evaluation mode."""
        return self.model.eval()


def _parts(recipe: Recipe, model: torch.nn.Module, *, narrow: bool) -> tuple[Any, ...]:
    """Return the optimisers, schedules and functions that run after each gradient."""
    given = recipe.optimizers.get("torch", recipe.optimizer)
    if isinstance(given, Step):
        numbers = {f.name: narrowed(getattr(given, f.name)) for f in fields(given) if f.init}
        return (optimizer(replace(given, **numbers) if narrow else given, model),)
    if not callable(given):
        raise OptionError(f"Recipe optimizers['torch'] {type(given).__name__} must be a step or a function of parameters")
    with attributed_to("torch's optimizer"):
        made = given([p for p in model.parameters() if p.requires_grad])
    parts = made if isinstance(made, tuple) else (made,)
    wrong = [type(part).__name__ for part in parts if not (hasattr(part, "step") or callable(part))]
    if wrong:
        raise OptionError(f"Recipe optimizers['torch'] returned {wrong[0]}, must be an optimiser or a tuple of what is stepped")
    for group in (group for part in parts for group in getattr(part, "param_groups", ()) if narrow):
        group.update({name: narrowed(value) for name, value in group.items() if name != "params"})
    return parts


def narrowed(option: Any) -> Any:
    """Return an option of an optimiser, its numbers rounded to float32; other values unchanged."""
    if isinstance(option, tuple):
        return tuple(map(narrowed, option))
    return float(np.float32(option)) if isinstance(option, float) else option
