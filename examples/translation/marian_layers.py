"""Layer by layer, and as a whole: ours in both backends and transformers' own modules within one budget of rounding errors.

output of each layer, on what it received in their run            z = (output - float64) / sigma
logits after every word of a known target, all layers at once     the same, of the whole formula
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from attention import parity
from attention.parity.pretrained.layerwise import THEIRS, layerwise
from attention.spec.axes import Array
from attention.spec.params import Weights
from examples.checkpoint_readers.marian import Checkpoint
from examples.translation import marian, marian_jax, marian_theirs, marian_torch


@dataclass(frozen=True)
class Whole:
    """The formula of the whole model as a program whose budget can be found."""

    model: marian.Marian

    def __call__(self, weights: Mapping[str, Array], source: Array, target: Array) -> Array:
        """Return the logits `(1, T, V)`."""
        return marian.formula(self.model, jnp, weights, source, target)["logits"]


def report(
    checkpoint: Checkpoint, source: list[int], said: list[int], progress: Callable[[str], object] = lambda _: None
) -> parity.Report:
    """Return the report of one translation: a row for each layer and side, and one for each side's logits.

    Args:
        checkpoint: what was read of a Marian file.
        source: its tokens, without their `END`.
        said: the target's, with it.
        progress: told of each layer before it runs.
    """
    model = marian.architecture(checkpoint)
    weights = marian.weights(checkpoint, model)
    given, known = np.array([[*source, marian.END]]), np.array([[marian.START, *said[:-1]]])
    theirs = marian_theirs.build(model, checkpoint)
    seen, logits = marian_theirs.run(theirs, model, weights, given, known)
    found = layerwise(seen, progress=progress)
    _ = progress("logits")
    made = {**ours(model, weights, given, known), THEIRS: logits}
    return found + parity.Report(tuple(_whole(model, weights, given, known, made)))


def ours(model: marian.Marian, weights: Weights, source: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
    """Return the logits `(B, T, V)` of both backends; no token is padding."""
    lengths, places = np.full(len(source), source.shape[1], np.int32), marian.positions(0, target.shape[1], model.width)
    made: dict[str, np.ndarray] = {}
    for name, module in {"torch": marian_torch, "jax": marian_jax}.items():
        built = module.Marian(model, seed=None)
        built.load_weights(weights)
        translator = module.translator(built)
        made[name] = translator.decode(target, places, translator.encode(source, lengths), lengths)[0]
    return made


def _whole(model: marian.Marian, weights: Weights, source: np.ndarray, target: np.ndarray, made: Mapping[str, Any]) -> Any:
    wanted = parity.budget(Whole(model), (weights, source, target), dtype="float32")
    for side, logits in made.items():
        verdict = parity.judge("logits", logits, wanted.value, wanted.sigma)
        yield parity.Row("the whole model", "a known target", side, "", "float32", (verdict,))
