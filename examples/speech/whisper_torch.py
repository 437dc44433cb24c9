"""Whisper in PyTorch. See whisper.py."""

from __future__ import annotations

from typing import Any

import array_api_compat.torch as xp
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from attention.torch_impl import Decoder, Encoder, Layer, MultiHeadAttention, StaticCache, dot_product_attention
from examples.speech import whisper
from examples.speech.whisper import STRIDES, windows
from examples.speech.whisper_files import Trained


class Whisper(Layer):
    """The whole recogniser."""

    contract: whisper.Whisper
    conv1: nn.Linear
    conv2: nn.Linear
    encoder: Encoder
    decoder: Decoder
    sound_places: nn.Parameter
    text_places: nn.Parameter
    embed: nn.Parameter

    def forward(self, sound: Tensor, tokens: Tensor) -> Tensor:
        """Return the logits `(B, T, V)` of the token after each of `tokens` `(B, T)`, of `sound` `(B, 2 S, A)`."""
        x = self.embed[tokens] + self.text_places[: tokens.shape[-1]]
        return self.decoder(x, self.encode(sound)) @ self.embed.T

    def encode(self, sound: Tensor) -> Tensor:
        """Return the memory `(B, S, M)` of a log mel spectrogram `(B, 2 S, A)`."""
        x = gelu(self.conv1(windows(xp, sound, STRIDES[0]).flatten(-2)))
        x = gelu(self.conv2(windows(xp, x, STRIDES[1]).flatten(-2)))
        return self.encoder(x + self.sound_places)

    def begin(self, memory: Tensor) -> list[tuple[StaticCache, Tensor, Tensor]]:
        """Return what each layer of the decoder carries: an empty cache, and the sound's keys and values, made once."""
        c, longest = self.contract.decoder.block.own_attention, self.contract.longest
        heads = (c.num_heads, c.width)
        kind = str(memory.dtype).removeprefix("torch.")
        carried: list[tuple[StaticCache, Tensor, Tensor]] = []
        for block in self.decoder.layers:
            own = StaticCache.make(memory.shape[0], longest, *heads, dtype=kind, device=memory.device)
            cross: Any = block.cross_attn
            carried.append((own, cross.k_proj(memory).unflatten(-1, heads), cross.v_proj(memory).unflatten(-1, heads)))
        return carried

    def step(self, tokens: Tensor, carried: Any) -> tuple[Tensor, Tensor, Any]:
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
        return self.decoder.get_submodule("final_norm")(x) @ self.embed.T, torch.stack(looks), after


def look(attention: MultiHeadAttention, x: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return the output `(B, T, M)` and the weights `(B, H, T, S)` of attention to keys and values that are known."""
    c = attention.contract
    query = attention.q_proj(x).unflatten(-1, (c.num_heads, c.width))
    context, intermediates = dot_product_attention(query, key, value, return_intermediates=("weights",))
    return attention.out_proj(context.flatten(-2)), intermediates["weights"]


def build(trained: Trained, dtype: str = "float32") -> Whisper:
    """Return the trained model."""
    model = Whisper(trained.architecture, seed=None, dtype=dtype)
    model.load_weights(trained.weights)
    return model.eval()


def listener(model: Whisper) -> whisper.Listener:
    """Return the model as functions of NumPy arrays."""

    @torch.no_grad()
    def encode(sound: np.ndarray) -> Any:
        return model.begin(model.encode(torch.from_numpy(sound).to(model.embed)))

    @torch.no_grad()
    def decode(tokens: np.ndarray, carried: Any) -> tuple[np.ndarray, np.ndarray, Any]:
        logits, weights, carried = model.step(torch.from_numpy(tokens), carried)
        return logits.numpy(), weights.numpy(), carried

    return whisper.Listener(encode, decode)


@torch.no_grad()
def logits(model: Whisper, sound: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Return the logits `(B, T, V)` of tokens that are known, in one pass without a cache."""
    return model(torch.from_numpy(sound).to(model.embed), torch.from_numpy(tokens)).numpy()
