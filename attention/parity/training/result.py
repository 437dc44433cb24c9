"""What a training run left: the models, the losses, and how far the two sides are from each other and from a twin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Training:
    """What a training run left.

    Attributes:
        models: the trained model of each backend.
        losses: of every step, by "torch", "jax" and "twin i".
        watched: the steps after which weights were compared, counted from 0.
        apart: by parameter, how far torch and JAX are apart after each of these steps.
        spread: by parameter, how far the furthest twin is from JAX.
    """

    models: Mapping[str, Any] = field(repr=False)
    losses: Mapping[str, np.ndarray] = field(repr=False)
    watched: np.ndarray = field(repr=False)
    apart: Mapping[str, np.ndarray] = field(repr=False)
    spread: Mapping[str, np.ndarray] = field(repr=False)

    def facts(self) -> dict[str, Any]:
        """Return what a certificate says of the run."""
        return {
            "steps": len(self.losses["torch"]),
            "last loss": {name: float(values[-1]) for name, values in self.losses.items()},
        }

    def plot(self, path: str | Path) -> None:
        """Draw both loss curves, their difference and the envelope."""

    def __str__(self) -> str:
        return f"last losses: {self.facts()['last loss']}"
