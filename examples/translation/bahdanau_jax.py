"""Bahdanau's translator in JAX. See bahdanau.py."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from attention import spec
from attention.jax_impl import AlignmentAttention, Layer
from examples.recurrent_jax import GRU, Bidirectional
from examples.translation import bahdanau


class Translator(Layer):
    """A reader, an alignment, a writer."""

    contract: bahdanau.Translator
    source_embed: nnx.Param
    target_embed: nnx.Param
    reader: Bidirectional
    attention: AlignmentAttention
    writer: GRU
    first: nnx.LinearGeneral
    readout: nnx.LinearGeneral

    def build_parts(self, dtype: str) -> None:
        self.reader = Bidirectional(self.contract.reader, seed=None, dtype=dtype)
        self.attention = AlignmentAttention(self.contract.attention, seed=None, dtype=dtype)
        self.writer = GRU(self.contract.writer, seed=None, dtype=dtype)

    def begin(self, source: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return what was read, `(B, S, 2 E)`, and the writer's first state `(B, E)`."""
        memory = self.reader(self.source_embed[source], lengths)
        # The reader that came from the right has seen everything at the first element.
        return memory, jnp.tanh(self.first(memory[:, 0, self.contract.reader.hidden_dim :]))

    def step(
        self, memory: jax.Array, lengths: jax.Array, state: jax.Array, said: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return the next state, the logits of the next token, and where it looked.

        Args:
            memory: `(B, S, 2 E)`.
            lengths: `(B,)`.
            state: `(B, E)`.
            said: `(B,)`, the token before.
        """
        context, weights = self.attention(state, memory, mask=spec.Lengths(kv=lengths))
        given = jnp.concatenate([self.target_embed[said], context], axis=-1)
        state = self.writer.step(given, state)
        return state, self.readout(jnp.concatenate([state, given], axis=-1)), weights

    def __call__(self, source: jax.Array, lengths: jax.Array, said: jax.Array) -> jax.Array:
        """Return the logits `(B, T, V)` of each token, given those `(B, T)` that stand before it."""
        memory, state = self.begin(source, lengths)

        def write(state: jax.Array, token: jax.Array) -> tuple[jax.Array, jax.Array]:
            state, found, _ = self.step(memory, lengths, state, token)
            return state, found

        _, logits = jax.lax.scan(write, state, said.T)
        return jnp.swapaxes(logits, 0, 1)
