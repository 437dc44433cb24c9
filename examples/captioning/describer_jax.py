"""The describer in JAX. See describer.py."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attention.jax_impl import AlignmentAttention, Layer
from examples.captioning import describer
from examples.captioning.data import PAD, START
from examples.captioning.eye_jax import Eye
from examples.recurrent_jax import GRU


class Describer(Layer):
    """The model of an architecture."""

    contract: describer.Describer
    eye: Eye
    writer: GRU
    attention: AlignmentAttention
    words: nnx.Param
    begin: nnx.LinearGeneral
    mix: nnx.LinearGeneral
    readout: nnx.LinearGeneral

    def build_parts(self, dtype: str) -> None:
        self.eye = Eye(self.contract.eye, seed=None, dtype=dtype)
        self.writer = GRU(self.contract.writer, seed=None, dtype=dtype)
        self.attention = AlignmentAttention(self.contract.attention, seed=None, dtype=dtype)

    def __call__(self, patches: jax.Array, captions: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return what each word of a caption could have been, from the image and the words before it.

        Args:
            patches: `(B, S, pixels)`.
            captions: `(B, T)` integers.

        Returns:
            logits `(B, T, V)` and the attention's weights `(B, T, S)`.
        """
        seen = self.eye(patches)
        given = self.words[jnp.pad(captions[:, :-1], ((0, 0), (1, 0)), constant_values=START)]
        h = self.writer(given, None, jnp.tanh(self.begin(seen[:, 0])))
        context, weights = self.attention(h, seen[:, 1:])
        return self.readout(jnp.tanh(self.mix(jnp.concatenate([h, context], -1)))), weights


def loss(model: Describer, batch: dict[str, jax.Array], seed: Any) -> jax.Array:
    """Return the mean of -log P of the words of captions; nothing is dropped, so no seed is needed."""
    del seed
    logits, _ = model(batch["patches"], batch["captions"])
    found = jnp.take_along_axis(jax.nn.log_softmax(logits, -1), batch["captions"][..., None], -1)[..., 0]
    there = batch["captions"] != PAD
    return -(found * there).sum() / there.sum()


def ask(model: Describer, patches: np.ndarray, captions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what the model itself returns, from NumPy to NumPy."""
    logits, weights = _ask(model, jnp.asarray(patches), jnp.asarray(captions))
    return np.asarray(logits), np.asarray(weights)


@nnx.jit
def _ask(model: Describer, patches: jax.Array, captions: jax.Array) -> tuple[jax.Array, jax.Array]:
    return model(patches, captions)
