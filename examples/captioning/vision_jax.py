"""The vision transformer in JAX. See vision.py."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attention.jax_impl import Layer
from examples.captioning import vision
from examples.captioning.eye_jax import Eye


class VisionTransformer(Layer):
    """The model of an architecture."""

    contract: vision.VisionTransformer
    eye: Eye
    readout: nnx.LinearGeneral

    def build_parts(self, dtype: str) -> None:
        self.eye = Eye(self.contract.eye, seed=None, dtype=dtype)

    def __call__(self, patches: jax.Array) -> jax.Array:
        """Return the logits `(B, V)` of names for images.

        Args:
            patches: `(B, S, pixels)`.
        """
        return self.readout(self.eye(patches)[:, 0])


def loss(model: VisionTransformer, batch: dict[str, jax.Array], seed: Any) -> jax.Array:
    """Return the mean of -log P of the names of images; nothing is dropped, so no seed is needed."""
    del seed
    found = jax.nn.log_softmax(model(batch["patches"]), -1)
    return -jnp.take_along_axis(found, batch["names"][:, None], -1).mean()


def ask(model: VisionTransformer, patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits `(B, V)`, and how the whole weighed the patches `(B, H, S)`, from NumPy to NumPy."""
    logits, looks = _ask(model, jnp.asarray(patches))
    return np.asarray(logits), np.asarray(looks)


@nnx.jit
def _ask(model: VisionTransformer, patches: jax.Array) -> tuple[jax.Array, jax.Array]:
    return model(patches), model.eye.looks(patches)
