"""The result of a training comparison: the models, the losses, and whether the two runs stay within the divergence bound."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from attention.parity.results.renderers import renderer
from attention.parity.results.report import plain, write
from attention.parity.training import envelope
from attention.parity.training.envelope import EnvelopeExit, Runs
from attention.parity.training.optimizer_names import words
from attention.parity.training.recipe import Recipe
from attention.spec.errors import ParityError
from attention.spec.options import PATH, checked

LOSS = "loss"


@dataclass(frozen=True, eq=False)
class Training:
    """The result of a training comparison. Steps are counted from 1 in its text.

    Attributes:
        recipe: of the runs.
        models: the trained model of each backend.
        losses: of every step, by "torch", "jax" and "replica i".
        runs: the distances between the runs.
    """

    recipe: Recipe = field(repr=False)
    models: Mapping[str, Any] = field(repr=False)
    losses: Mapping[str, np.ndarray] = field(repr=False)
    runs: Runs = field(repr=False)

    @property
    def watched(self) -> np.ndarray:
        """The steps after which weights were compared, counted from 0."""
        return self.runs.watched

    @property
    def apart(self) -> dict[str, np.ndarray]:
        """The distance of torch from JAX: each parameter after each step of `watched`, and the losses at every step."""
        with np.errstate(invalid="ignore"):
            return {**self.runs.apart, LOSS: np.abs(self.losses["torch"] - self.losses["jax"])}

    @cached_property
    def envelope(self) -> dict[str, np.ndarray]:
        """The divergence bound, under the same names."""
        replicas = np.stack([values for name, values in self.losses.items() if name.startswith("replica")])
        with np.errstate(invalid="ignore"):
            return {**self.runs.envelope(), LOSS: self.runs.loss_envelope(self.losses["jax"], replicas)}

    @property
    def failure(self) -> str:
        """The run whose loss, or else the parameter that, is NaN or infinite, and from which step on; or ""."""
        broken = {name: np.flatnonzero(~np.isfinite(values)) for name, values in self.losses.items()}
        broken_losses = {
            name: f"{name}'s loss is {self.losses[name][at[0]]} at step {at[0] + 1}" for name, at in broken.items() if at.size
        }
        sides = [broken_losses[name] for name in ("torch", "jax") if name in broken_losses]
        # The envelope of a replica that is NaN would allow anything.
        far = {name: np.flatnonzero(~np.isfinite(spread + self.runs.size[name])) for name, spread in self.runs.spread.items()}
        lost = [f"{name} is no number in a run after step {self.watched[at[0]] + 1}" for name, at in far.items() if at.size]
        return " and ".join(sides or [*broken_losses.values(), *lost][:1])

    @cached_property
    def outside(self) -> tuple[EnvelopeExit, ...]:
        """The points where each parameter, and the loss, first leaves its envelope; the earliest first, then the farthest."""
        found = [envelope.outside(what, self._steps(what), far, self.envelope[what]) for what, far in self.apart.items()]
        # A loss is that before its step, so it comes before the parameters after it.
        return tuple(sorted((each for each in found if each), key=lambda each: (each.step, each.what != LOSS, -each.ratio)))

    @property
    def worst(self) -> tuple[EnvelopeExit, ...]:
        """The points where each parameter, and the loss, is farthest outside its envelope, or nearest to it, worst first."""
        found = [envelope.worst(what, self._steps(what), far, self.envelope[what]) for what, far in self.apart.items()]
        return tuple(sorted(found, key=lambda each: -each.ratio))

    @property
    def ok(self) -> bool:
        """Whether both runs stayed inside the envelope."""
        return not self.failure and not self.outside

    def assert_ok(self) -> None:
        """Raise ParityError unless both runs stayed inside the envelope.

        Raises:
            ParityError: the message is the report.
        """
        if not self.ok:
            raise ParityError(str(self))

    @cached_property
    def diagnosis(self) -> Any:
        """The diagnosis of the user's optimisers by `diagnose_step`; None if there are none."""
        if not self.recipe.optimizers:
            return None
        from attention.parity.optimizers.diagnose_step import diagnose_step  # noqa: PLC0415 - only a mismatch needs it

        sides = [self.recipe.optimizers.get(backend, self.recipe.optimizer) for backend in ("torch", "jax")]
        return diagnose_step(sides[0], sides[1], self.recipe.optimizer, names=("torch", "jax"))

    def facts(self) -> dict[str, Any]:
        """Return the facts of the run for a certificate, JSON-ready."""
        first, worst = (list(found)[:1] for found in (self.outside, self.worst))
        return plain(
            {
                "ok": self.ok,
                "steps": len(self.losses["torch"]),
                "parameters": sum(self.runs.counts.values()),
                "optimizer": words(self.recipe.optimizer),
                "seed": self.recipe.seed,
                "replicas": len(self.losses) - 2,
                "weights compared": len(self.watched),
                "last loss": {name: float(values[-1]) for name, values in self.losses.items()},
                "failure": self.failure,
                "first outside": _exit_fields(first[0]) if first else None,
                "nearest to the envelope": _exit_fields(worst[0]) if worst else None,
            }
        )

    @checked(path=PATH)
    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write the facts and every curve as JSON.

        Raises:
            FileError: the path cannot be written.
        """
        curves = {what: {"apart": far.tolist(), "envelope": self.envelope[what].tolist()} for what, far in self.apart.items()}
        losses = {name: values.tolist() for name, values in self.losses.items()}
        write(path, json.dumps(plain({**self.facts(), "losses": losses, "watched": self.watched.tolist(), "curves": curves})))

    @checked(path=PATH)
    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw both loss curves, their difference in its envelope, and the parameter nearest to its envelope.

        Raises:
            FileError: the path cannot be written.
            MissingExtra: matplotlib is not installed.
        """
        renderer("training as a plot")(self, path)

    def __str__(self) -> str:
        return renderer("training as text")(self)

    def _steps(self, what: str) -> np.ndarray:
        return np.arange(len(self.losses["torch"])) if what == LOSS else self.watched


def _exit_fields(found: EnvelopeExit) -> dict[str, Any]:
    return {"what": found.what, "step": found.step, "distance": found.distance, "envelope": found.most, "ratio": found.ratio}
