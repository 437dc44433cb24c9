"""Luong's translator in JAX. See luong.py."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from attention import spec
from attention.jax_impl import AlignmentAttention, Layer
from examples.recurrent_jax import GRU, Bidirectional
from examples.translation import luong


class Translator(Layer):
    """A reader, a writer, an alignment."""

    contract: luong.Translator
    source_embed: nnx.Param
    target_embed: nnx.Param
    logit_bias: nnx.Param
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
        """Return what was read, `(B, S, 2 E)`, and the writer's first state."""
        memory = self.reader(self.source_embed[source], lengths)
        # The reader that came from the right has seen everything at the first element.
        return memory, jnp.tanh(self.first(memory[:, 0, self.contract.reader.hidden_dim :]))

    def step(
        self, memory: jax.Array, lengths: jax.Array, state: jax.Array, said: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return the next state, the logits `(B, V)` of the next token, and where it looked, `(B, S)`.

        Args:
            memory: `(B, S, 2 E)`.
            lengths: `(B,)`.
            state: what `begin` or the last step returned.
            said: `(B,)`, the token before.
        """
        state = self.writer.step(self.target_embed[said], state)
        return state, *self._choose(state, memory, lengths)

    def __call__(self, source: jax.Array, lengths: jax.Array, said: jax.Array) -> jax.Array:
        """Return the logits `(B, T, V)` of each token, given those `(B, T)` that stand before it."""
        memory, state = self.begin(source, lengths)
        return self._choose(self.writer(self.target_embed[said], initial=state), memory, lengths)[0]

    def _choose(self, states: jax.Array, memory: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        context, weights = self.attention(states, memory, mask=spec.Lengths(kv=lengths))
        seen = jnp.tanh(self.readout(jnp.concatenate([context, states], axis=-1)))
        return seen @ self.target_embed.get_value().T + self.logit_bias.get_value(), weights
