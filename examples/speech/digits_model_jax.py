"""The listener in JAX. See digits_model.py."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attention import spec
from attention.jax_impl import AlignmentAttention, Layer
from examples.recurrent_jax import GRU, Bidirectional
from examples.speech import digits_model
from examples.speech.connected import PAD, START


class Listener(Layer):
    """The model of an architecture."""

    contract: digits_model.Listener
    embed: nnx.Param
    ear: nnx.LinearGeneral
    reader: Bidirectional
    writer: GRU
    attention: AlignmentAttention
    readout: nnx.LinearGeneral

    def build_parts(self, dtype: str) -> None:
        self.reader = Bidirectional(self.contract.reader, seed=None, dtype=dtype)
        self.writer = GRU(self.contract.writer, seed=None, dtype=dtype)
        self.attention = AlignmentAttention(self.contract.attention, seed=None, dtype=dtype)

    def __call__(self, sound: jax.Array, lengths: jax.Array, given: jax.Array | None, most: int) -> tuple[jax.Array, jax.Array]:
        """Return what is written after each word.

        Args:
            sound: `(B, S, sound_dim)`.
            lengths: `(B,)`, steps of sound that there are.
            given: `(B, most)` integers, START and the words so far; None: what the model finds likeliest itself.
            most: T, how many words are written.

        Returns:
            Logits `(B, T, V)` and the attention's weights `(B, T, S)`.
        """
        states = self.reader(jnp.tanh(self.ear(sound)), lengths)
        h = jnp.zeros((len(sound), self.contract.hidden_dim), states.dtype)

        def write(carry: tuple[jax.Array, ...], word: jax.Array | None) -> tuple[Any, Any]:
            h, context, last = carry
            word = last if word is None else word
            h = self.writer.step(jnp.concatenate([self.embed[word], context], -1), h)
            context, weights = self.attention(h, states, mask=spec.Lengths(kv=lengths))
            logits = self.readout(jnp.concatenate([h, context], -1))
            return (h, context, logits.argmax(-1).astype(last.dtype)), (logits, weights)

        begin = (h, h, jnp.full_like(lengths, START))
        _, steps = jax.lax.scan(write, begin, None if given is None else given.T, length=most)
        logits, weights = (jnp.swapaxes(column, 0, 1) for column in steps)
        return logits, weights


def loss(listener: Listener, batch: dict[str, jax.Array], seed: Any) -> jax.Array:
    """Return the mean of -log P of the words that were said."""
    del seed
    target = batch["target"]
    given = jnp.pad(target[:, :-1], ((0, 0), (1, 0)), constant_values=START)
    logits, _ = listener(batch["sound"], batch["lengths"], given, target.shape[1])
    found = jnp.take_along_axis(jax.nn.log_softmax(logits, -1), target[..., None], -1)[..., 0]
    there = target != PAD
    return -(found * there).sum() / there.sum()


def listen(listener: Listener, batch: dict[str, Any], most: int) -> tuple[Any, Any]:
    """Return what the model writes of a batch of NumPy arrays: words `(B, most)` and weights, as NumPy arrays."""
    sound, lengths = (jnp.asarray(batch[name]) for name in ("sound", "lengths"))
    logits, weights = _listen(listener, sound, lengths, most)
    return np.asarray(logits.argmax(-1)), np.asarray(weights)


@partial(nnx.jit, static_argnums=3)
def _listen(listener: Listener, sound: jax.Array, lengths: jax.Array, most: int) -> tuple[jax.Array, jax.Array]:
    return listener(sound, lengths, None, most)
