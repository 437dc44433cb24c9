"""Whisper in JAX. See whisper.py."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attention.jax_impl import Decoder, Encoder, Layer, MultiHeadAttention, StaticCache, compiled, dot_product_attention
from examples.speech import whisper
from examples.speech.whisper import STRIDES, windows
from examples.speech.whisper_files import Trained

gelu = partial(jax.nn.gelu, approximate=False)


class Whisper(Layer):
    """The whole recogniser."""

    contract: whisper.Whisper
    conv1: nnx.LinearGeneral
    conv2: nnx.LinearGeneral
    encoder: Encoder
    decoder: Decoder
    sound_places: nnx.Param
    text_places: nnx.Param
    embed: nnx.Param

    def __call__(self, sound: jax.Array, tokens: jax.Array) -> jax.Array:
        """Return the logits `(B, T, V)` of the token after each of `tokens` `(B, T)`, of `sound` `(B, 2 S, A)`."""
        x = self.embed[tokens] + self.text_places[: tokens.shape[-1]]
        return self.decoder(x, self.encode(sound)) @ self.embed.T

    def encode(self, sound: jax.Array) -> jax.Array:
        """Return the memory `(B, S, M)` of a log mel spectrogram `(B, 2 S, A)`."""
        x = gelu(self.conv1(windows(jnp, sound, STRIDES[0])))
        x = gelu(self.conv2(windows(jnp, x, STRIDES[1])))
        return self.encoder(x + self.sound_places)

    def begin(self, memory: jax.Array) -> list[tuple[StaticCache, jax.Array, jax.Array]]:
        """Return what each layer of the decoder carries: an empty cache, and the sound's keys and values, made once."""
        c, longest = self.contract.decoder.block.own_attention, self.contract.longest
        carried: list[tuple[StaticCache, jax.Array, jax.Array]] = []
        for block in self.decoder.layers:
            own = StaticCache.make(memory.shape[0], longest, c.num_heads, c.width, dtype=str(memory.dtype))
            cross: Any = block.cross_attn
            carried.append((own, cross.k_proj(memory), cross.v_proj(memory)))
        return carried

    def step(self, tokens: jax.Array, carried: Any) -> tuple[jax.Array, jax.Array, Any]:
        """Return logits and attention to the sound of new tokens `(B, T)`, and what goes on.

        Args:
            tokens: those after the ones that `carried` has seen.
            carried: what `begin` or the last step returned.

        Returns:
            Logits `(B, T, V)`, weights `(layers, B, H, T, S)`, and what the next step is given.
        """
        x = self.embed[tokens] + self.text_places[carried[0][0].upcoming(tokens.shape[-1])]
        after, looks = [], []
        for layer, (cache, key, value) in zip(self.decoder.layers, carried, strict=True):
            block: Any = layer
            y, cache = block.self_attn(block.norm1(x), cache=cache)  # noqa: PLW2901 - the new cache is the old one's heir
            x = x + y
            y, weights = look(block.cross_attn, block.norm2(x), key, value)
            x = x + y
            x = x + block.ffn(block.norm3(x))
            after.append((cache, key, value))
            looks.append(weights)
        return self.decoder.final_norm(x) @ self.embed.T, jnp.stack(looks), after


def look(attention: MultiHeadAttention, x: jax.Array, key: jax.Array, value: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the output `(B, T, M)` and the weights `(B, H, T, S)` of attention to keys and values that are known."""
    context, intermediates = dot_product_attention(attention.q_proj(x), key, value, return_intermediates=("weights",))
    return attention.out_proj(context), intermediates["weights"]


def build(trained: Trained, dtype: str = "float32") -> Whisper:
    """Return the trained model."""
    model = Whisper(trained.architecture, seed=None, dtype=dtype)
    model.load_weights(trained.weights)
    return model


def listener(model: Whisper) -> whisper.Listener:
    """Return the model as functions of NumPy arrays."""
    # Split once: nnx.jit would take the model apart and join it again at every token.
    graph, learned = nnx.split(model)

    @jax.jit
    def begin(learned: Any, sound: jax.Array) -> Any:
        whole = nnx.merge(graph, learned)
        return whole.begin(whole.encode(sound))

    @jax.jit
    def step(learned: Any, tokens: jax.Array, carried: Any) -> tuple[jax.Array, jax.Array, Any]:
        return nnx.merge(graph, learned).step(tokens, carried)

    def encode(sound: np.ndarray) -> Any:
        return begin(learned, jnp.asarray(sound, model.embed.dtype))

    def decode(tokens: np.ndarray, carried: Any) -> tuple[np.ndarray, np.ndarray, Any]:
        logits, weights, carried = step(learned, jnp.asarray(tokens), carried)
        return np.asarray(logits), np.asarray(weights), carried

    return whisper.Listener(encode, decode)


def logits(model: Whisper, sound: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Return the logits `(B, T, V)` of tokens that are known, in one pass without a cache."""
    return np.asarray(compiled(model)(jnp.asarray(sound, model.embed.dtype), jnp.asarray(tokens)))
