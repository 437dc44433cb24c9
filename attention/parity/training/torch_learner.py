"""A run in PyTorch: one step of a recipe after the other.

loss, gradients = autograd(loss(model, batch, seed))        weights <- torch.optim(weights, gradients)
"""

from __future__ import annotations

from typing import Any

import torch

from attention.parity.training.recipe import Batch, Recipe
from attention.spec.params import Weights
from attention.torch_impl.optimizers import optimizer
from attention.torch_impl.params import to_tensor


class TorchLearner:
    """A model that is being trained.

    Args:
        recipe: what it follows.
        weights: where it starts.
    """

    def __init__(self, recipe: Recipe, weights: Weights) -> None:
        self.model: Any = recipe.models["torch"](recipe.architecture)
        self.model.load_weights(weights)
        self._loss = recipe.losses["torch"]
        self._optimizer = optimizer(recipe.optimizer, self.model)

    def step(self, batch: Batch, seed: int) -> torch.Tensor:
        """Take one step, and return the loss before it."""
        _ = self.model.train()
        self._optimizer.zero_grad()
        loss = self._loss(self.model, {name: to_tensor(array) for name, array in batch.items()}, seed)
        loss.backward()
        self._optimizer.step()
        return loss.detach()

    def weights(self) -> Weights:
        """Return the weights of this moment, canonical."""
        return self.model.weights()

    def finished(self) -> Any:
        """Return the model, ready to be asked."""
        return self.model.eval()
