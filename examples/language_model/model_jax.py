"""The language model in JAX. See model.py.

x = x + attention(norm(x))    x = x + ffn(norm(x))    logits = E norm(x)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from attention import jax_impl
from attention.spec.axes import dtype_name
from examples.language_model import model

Caches = tuple[jax_impl.StaticCache, ...]


class LanguageModel(jax_impl.Layer):
    """The whole model; arguments as `Layer`."""

    contract: model.LanguageModel
    embed: nnx.Param
    decoder: Any
    """An `Encoder`, whose norms are attributes that its annotations do not name."""

    def __call__(self, tokens: jax.Array, *, dropout_seed: Any = None) -> jax.Array:
        """Return the logits `(B, T, V)` of what follows each of `tokens` `(B, T)`."""
        return self.decoder(self.embed[tokens], dropout_seed=dropout_seed) @ self.embed[...].T

    def caches(self, batch: int, capacity: int) -> Caches:
        """Return the empty cache of each block, for `capacity` tokens."""
        attention = self.contract.attention
        kind = dtype_name(self.embed)
        empty = jax_impl.StaticCache.make(batch, capacity, attention.kv_heads, attention.width, dtype=kind)
        return (empty,) * self.contract.decoder.depth

    def step(self, tokens: jax.Array, caches: Caches) -> tuple[jax.Array, Caches]:
        """Return the logits `(B, V)` of what follows the last of some more `tokens` `(B, T)`, and the caches with them."""
        x, held = self.embed[tokens], []
        for block, past in zip(self.decoder.layers, caches, strict=True):
            attended, past_and_these = block.self_attn(block.norm1(x), cache=past)
            x = x + attended
            x = x + block.ffn(block.norm2(x))
            held.append(past_and_these)
        return self.decoder.final_norm(x[:, -1]) @ self.embed[...].T, tuple(held)

    def looks(self, tokens: jax.Array) -> jax.Array:
        """Return where each head of each block looks: `(depth, B, H, T, T)`."""
        x, found = self.embed[tokens], []
        for block in self.decoder.layers:
            found.append(block.self_attn(block.norm1(x), return_intermediates=("weights",))[1]["weights"])
            x = block(x)
        return jnp.stack(found)


def loss(trained: LanguageModel, batch: Mapping[str, jax.Array], seed: Any) -> jax.Array:
    """Return the mean of -log p(next token), in nats, over `batch["tokens"]` `(B, T + 1)`."""
    tokens = batch["tokens"]
    found = trained(tokens[:, :-1], dropout_seed=seed)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(found, tokens[:, 1:]))


def logits(trained: LanguageModel, tokens: np.ndarray) -> np.ndarray:
    """Return the logits `(B, T, V)` of what follows each of `tokens` `(B, T)`."""
    return np.asarray(_logits(trained, jnp.asarray(tokens)))


@nnx.jit
def _logits(trained: LanguageModel, tokens: jax.Array) -> jax.Array:
    return trained(tokens)


def looks(trained: LanguageModel, tokens: np.ndarray) -> np.ndarray:
    """Return where each head of each block looks, `(depth, B, H, T, T)`, of `tokens` `(B, T)`."""
    return np.asarray(_looks(trained, jnp.asarray(tokens)))


@nnx.jit
def _looks(trained: LanguageModel, tokens: jax.Array) -> jax.Array:
    return trained.looks(tokens)


def reader(trained: LanguageModel, capacity: int) -> Callable[[Sequence[int]], np.ndarray]:
    """Return a function that is told the next tokens of a text, and returns the logits `(V,)` of what follows them.

    Args:
        trained: the model.
        capacity: the most tokens that it will be told.
    """
    caches = trained.caches(1, capacity)
    graph, weights = nnx.split(trained)

    def read(tokens: Sequence[int]) -> np.ndarray:
        nonlocal caches
        found, caches = _step(graph, weights, jnp.array([list(tokens)]), caches)
        return np.asarray(found[0])

    return read


@partial(jax.jit, static_argnums=0)
def _step(graph: Any, weights: Any, tokens: jax.Array, caches: Caches) -> tuple[jax.Array, Caches]:
    return nnx.merge(graph, weights).step(tokens, caches)
