"""Recipe: all that decides a training run, so that two frameworks can follow it to the bit.

weights[0] = architecture.init(seed)        batch[n] = batches(n)        dropout seed[n] = bits(key(seed), n)
weights[n + 1] = optimizer(weights[n], gradient of loss(model, batch[n], dropout seed[n]))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from attention.spec import random
from attention.spec.architecture import Architecture
from attention.spec.optimizer import Step
from attention.spec.params import Weights

Batch = Mapping[str, np.ndarray]
"""What one step sees: NumPy arrays by name; each side is given them as arrays of its framework."""

Loss = Callable[[Any, Mapping[str, Any], Any], Any]
"""`loss(model, batch, seed)`: a scalar of the framework; `seed` is the step's dropout seed, an integer or a traced one."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training run that both frameworks can follow.

    Args:
        architecture: what is trained; it gives the first weights.
        models: by backend, what builds the model of the architecture: called with it alone.
        losses: by backend, `loss(model, batch, seed)`.
        optimizer: the step, with its schedule and clipping.
        batches: gives the batch of step n, counted from 0; the same whenever it is asked.
        steps: how many.
        seed: of the first weights and of every dropout mask.
    """

    architecture: Architecture
    models: Mapping[str, Callable[[Any], Any]]
    losses: Mapping[str, Loss]
    optimizer: Step
    batches: Callable[[int], Batch]
    steps: int
    seed: int = 0

    def weights(self) -> Weights:
        """Return the first weights, the same bits in every framework."""
        return self.architecture.init(self.seed)

    def dropout_seed(self, step: int) -> int:
        """Return the seed of every dropout mask of a step, a 32-bit word."""
        return int(random.bits(random.key(self.seed), np.int64(step)))
