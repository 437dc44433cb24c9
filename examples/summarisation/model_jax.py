"""The pointer-generator in JAX. See model.py."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attention import spec
from attention.jax_impl import AlignmentAttention, Layer, seed_at
from examples.recurrent_jax import GRU, Bidirectional
from examples.summarisation import model
from examples.summarisation.data import PAD, START, UNKNOWN


class PointerGenerator(Layer):
    """The model of an architecture."""

    contract: model.PointerGenerator
    embed: nnx.Param
    reader: Bidirectional
    writer: GRU
    attention: AlignmentAttention
    begin: nnx.LinearGeneral
    mix: nnx.LinearGeneral
    readout: nnx.LinearGeneral
    gate: nnx.LinearGeneral

    def build_parts(self, dtype: str) -> None:
        self.reader = Bidirectional(self.contract.reader, seed=None, dtype=dtype)
        self.writer = GRU(self.contract.writer, seed=None, dtype=dtype)
        self.attention = AlignmentAttention(self.contract.attention, seed=None, dtype=dtype)

    def read(self, source: jax.Array, lengths: jax.Array, seed: Any = None) -> tuple[jax.Array, jax.Array]:
        """Return the reader's states `(B, S, M)`, and the state `(B, M)` that the writer begins with."""
        states = self.reader(self._words(source, seed_at(seed, "source")), lengths)
        return states, jnp.tanh(self.begin(states.sum(1) / lengths[:, None]))

    def __call__(
        self, source: jax.Array, lengths: jax.Array, given: jax.Array, seed: Any = None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return what each word that was given is followed by.

        Args:
            source: `(B, S)` integers, padded on the right.
            lengths: `(B,)`.
            given: `(B, T)` integers, START and then the words so far.
            seed: of dropout, while training.

        Returns:
            log said `(B, T, V)`, own `(B, T, 1)` and the attention's weights `(B, T, S)`.
        """
        states, first = self.read(source, lengths, seed)
        x = self._words(given, seed_at(seed, "given"))
        return self._written(x, self.writer(x, None, first), states, lengths)

    def _words(self, numbers: jax.Array, seed: Any) -> jax.Array:
        # A word without a number of its own is read as UNKNOWN.
        known = jnp.where(numbers < self.contract.vocabulary, numbers, UNKNOWN)
        return self.drop(self.embed[known], self.contract.dropout_rate, seed)

    def _written(
        self, x: jax.Array, h: jax.Array, states: jax.Array, lengths: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        context, weights = self.attention(h, states, mask=spec.Lengths(kv=lengths))
        both = jnp.concatenate([h, context], -1)
        said = jax.nn.log_softmax(self.readout(jnp.tanh(self.mix(both))), -1)
        return said, jax.nn.sigmoid(self.gate(jnp.concatenate([both, x], -1))), weights

    def write(self, source: jax.Array, lengths: jax.Array, most: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return the likeliest words one after another, `(B, most)`, with own `(B, most)` and weights `(B, most, S)`."""
        states, h = self.read(source, lengths)
        rows = jnp.arange(len(source))[:, None]

        def say(carry: tuple[jax.Array, jax.Array], _: None) -> tuple[Any, Any]:
            word, h = carry
            x = self._words(word[:, None], None)
            h = self.writer.step(x[:, 0], h)
            said, own, weights = self._written(x, h[:, None], states, lengths)
            spoken = jnp.pad((own * jnp.exp(said))[:, 0], ((0, 0), (0, source.shape[1])))
            # It is learned where no word fits, and is no word that a reader wants.
            spoken = spoken.at[:, UNKNOWN].set(0.0)
            word = spoken.at[rows, source].add(((1.0 - own) * weights)[:, 0]).argmax(-1).astype(word.dtype)
            return (word, h), (word, own[:, 0, 0], weights[:, 0])

        _, steps = jax.lax.scan(say, (jnp.full_like(lengths, START), h), length=most)
        return jax.tree.map(lambda column: jnp.swapaxes(column, 0, 1), steps)


def loss(summariser: PointerGenerator, batch: dict[str, jax.Array], seed: Any) -> jax.Array:
    """Return the mean of -log P of the target's words, each of them said or copied."""
    source, target, size = batch["source"], batch["target"], summariser.contract.vocabulary
    given = jnp.pad(target[:, :-1], ((0, 0), (1, 0)), constant_values=START)
    said, own, weights = summariser(source, batch["lengths"], given, seed)
    spoken = jnp.exp(jnp.take_along_axis(said, jnp.where(target < size, target, UNKNOWN)[..., None], -1)[..., 0])
    copied = (weights * (source[:, None, :] == target[..., None])).sum(-1)
    # What has no number of its own cannot be said, only copied.
    p = own[..., 0] * jnp.where(target < size, spoken, 0.0) + (1.0 - own[..., 0]) * copied
    there = target != PAD
    return -(jnp.log(p + model.TINY) * there).sum() / there.sum()


def summarise(summariser: PointerGenerator, batch: dict[str, Any], most: int) -> tuple[Any, Any, Any]:
    """Return what the model writes of a batch of NumPy arrays: words, own and weights, as NumPy arrays."""
    source, lengths = (jnp.asarray(batch[name]) for name in ("source", "lengths"))
    written = _write(summariser, source, lengths, most)
    return tuple(np.asarray(part) for part in written)  # type: ignore[return-value]


@partial(nnx.jit, static_argnums=3)
def _write(summariser: PointerGenerator, source: jax.Array, lengths: jax.Array, most: int) -> Any:
    return summariser.write(source, lengths, most)
