"""The trained translator in JAX.

x = norm(x + relu(c))    x = norm(x + cross(x, memory))    x = norm(x + ffn(x))        see marian.py
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from attention import jax_impl, spec
from examples.translation import marian


class DecoderLayer(jax_impl.Layer):
    """One layer of the decoder; arguments as `Layer`."""

    contract: marian.DecoderLayer
    candidate: nnx.LinearGeneral
    forget: nnx.LinearGeneral
    norm1: nnx.Module
    norm2: nnx.Module
    norm3: nnx.Module

    def build_parts(self, dtype: str) -> None:
        self.cross_attn = jax_impl.MultiHeadAttention(self.contract.cross_attention, seed=None, dtype=dtype)
        self.ffn = jax_impl.FeedForward(self.contract.feed_forward, seed=None, dtype=dtype)

    def __call__(self, x: Array, memory: Array, state: Array, mask: spec.Mask) -> tuple[Array, Array, Array]:
        """Return the tokens `(B, T, M)`, the weights `(B, H, T, S)` and the cell's state `(B, M)`."""
        said, state = marian.ssru(jnp, self.candidate(x), self.forget(x), state)
        x = self.norm1(x + said)
        y, intermediates = self.cross_attn(x, memory, mask=mask, return_intermediates=("weights",))
        x = self.norm2(x + y)
        return self.norm3(x + self.ffn(x)), intermediates["weights"], state


class Marian(jax_impl.Layer):
    """The whole translator; arguments as `Layer`."""

    contract: marian.Marian
    embed: nnx.Param
    logit_bias: nnx.Param

    def build_parts(self, dtype: str) -> None:
        model = self.contract
        self.encoder = jax_impl.Encoder(model.encoder, seed=None, dtype=dtype)
        self.decoder = nnx.List(DecoderLayer(model.layer, seed=None, dtype=dtype) for _ in range(model.depth))

    def __call__(self, source: Array, lengths: Array, target: Array) -> Array:
        """Return the logits `(B, T, V)` of a target that is known: `START` and what was said."""
        memory, states = self.encode(source, lengths)
        return self.decode(target, self.places(target.shape[1]), memory, states, lengths)[0]

    def encode(self, source: Array, lengths: Array) -> tuple[Array, list[Array]]:
        """Return the memory `(B, S, M)` and the states of the cells before the first word."""
        x = marian.enter(jnp, self.embed[...], source, self.places(source.shape[1]))
        memory = self.encoder(x, mask=spec.Lengths(kv=lengths, q=lengths))
        return memory, [jnp.zeros_like(memory[:, 0])] * self.contract.depth

    def decode(
        self, tokens: Array, places: Array, memory: Array, states: list[Array], lengths: Array
    ) -> tuple[Array, Array, list[Array]]:
        """Return the logits `(B, T, V)` after each of some tokens, the last layer's weights, and the states after all."""
        x, weights, new = marian.enter(jnp, self.embed[...], tokens, places), memory, []
        for layer, state in zip(self.decoder, states, strict=True):
            x, weights, state = layer(x, memory, state, spec.Lengths(kv=lengths))  # noqa: PLW2901 - what is carried on
            new.append(state)
        # By einsum: XLA would write the whole table's transpose down at each step.
        return jnp.einsum("btm,vm->btv", x, self.embed[...]) + self.logit_bias[...], weights, new

    def places(self, count: int) -> Array:
        """Return what is added to the first tokens' embeddings, `(count, M)`."""
        return jnp.asarray(marian.positions(0, count, self.contract.width), self.embed.dtype)


def translator(model: Marian) -> marian.Translator:
    """Return the model as functions of NumPy arrays."""
    graph, state = nnx.split(model)

    @jax.jit
    def encoded(state: Any, source: Array, lengths: Array) -> tuple[Array, list[Array]]:
        return nnx.merge(graph, state).encode(source, lengths)

    @jax.jit
    def decoded(
        state: Any, tokens: Array, places: Array, carried: tuple[Array, list[Array]], lengths: Array
    ) -> tuple[Array, Array, tuple[Array, list[Array]]]:
        memory, states = carried
        logits, weights, states = nnx.merge(graph, state).decode(tokens, places, memory, states, lengths)
        return logits, weights, (memory, states)

    def encode(source: np.ndarray, lengths: np.ndarray) -> tuple[Array, list[Array]]:
        return encoded(state, source, lengths)

    def decode(
        tokens: np.ndarray, places: np.ndarray, carried: tuple[Array, list[Array]], lengths: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, tuple[Array, list[Array]]]:
        logits, weights, carried = decoded(state, tokens, places.astype(carried[0].dtype), carried, lengths)
        return np.asarray(logits), np.asarray(weights), carried

    return marian.Translator(encode, decode, model.contract.width)
