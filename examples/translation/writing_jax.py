"""What a translator is taught, and what it writes, in JAX. See writing.py."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from optax import softmax_cross_entropy_with_integer_labels as cross_entropy

from examples.translation.corpus import START


def loss(model: Any, batch: Mapping[str, jax.Array], seed: Any) -> jax.Array:
    """Return the mean cross-entropy of the tokens that count."""
    del seed
    logits = model(batch["source"], batch["lengths"], batch["said"])
    each = cross_entropy(logits, batch["target"])
    return (each * batch["counts"]).sum() / batch["counts"].sum()


def write(model: Any, source: np.ndarray, lengths: np.ndarray, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the likeliest token at each step, `(B, T)`, and where the model looked, `(B, T, S)`; T is `longest`."""
    tokens, looks = _write(model, jnp.asarray(source), jnp.asarray(lengths), longest)
    return np.asarray(tokens).T, np.asarray(looks).swapaxes(0, 1)


@partial(nnx.jit, static_argnums=3)
def _write(model: Any, source: jax.Array, there: jax.Array, longest: int) -> tuple[jax.Array, jax.Array]:
    memory, state = model.begin(source, there)

    def one(carry: Any, _: None) -> tuple[Any, tuple[jax.Array, jax.Array]]:
        state, said = carry
        state, logits, weights = model.step(memory, there, state, said)
        said = logits.argmax(axis=-1).astype(said.dtype)
        return (state, said), (said, weights)

    _, written = jax.lax.scan(one, (state, jnp.full_like(there, START)), length=longest)
    return written
