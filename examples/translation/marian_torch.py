"""The trained translator in PyTorch.

x = norm(x + relu(c))    x = norm(x + cross(x, memory))    x = norm(x + ffn(x))        see marian.py
"""

from __future__ import annotations

import array_api_compat.torch as xp
import numpy as np
import torch
from torch import Tensor, nn

from attention import spec, torch_impl
from attention.torch_impl.params import to_numpy
from examples.translation import marian


class DecoderLayer(torch_impl.Layer):
    """One layer of the decoder; arguments as `Layer`."""

    contract: marian.DecoderLayer
    candidate: nn.Linear
    forget: nn.Linear
    norm1: nn.Module
    norm2: nn.Module
    norm3: nn.Module

    def build_parts(self, dtype: str) -> None:
        self.cross_attn = torch_impl.MultiHeadAttention(self.contract.cross_attention, seed=None, dtype=dtype)
        self.ffn = torch_impl.FeedForward(self.contract.feed_forward, seed=None, dtype=dtype)

    def forward(self, x: Tensor, memory: Tensor, state: Tensor, mask: spec.Mask) -> tuple[Tensor, Tensor, Tensor]:
        """Return the tokens `(B, T, M)`, the weights `(B, H, T, S)` and the cell's state `(B, M)`."""
        said, state = marian.ssru(xp, self.candidate(x), self.forget(x), state)
        x = self.norm1(x + said)
        y, intermediates = self.cross_attn(x, memory, mask=mask, return_intermediates=("weights",))
        x = self.norm2(x + y)
        return self.norm3(x + self.ffn(x)), intermediates["weights"], state


class Marian(torch_impl.Layer):
    """The whole translator; arguments as `Layer`."""

    contract: marian.Marian
    embed: nn.Parameter
    logit_bias: nn.Parameter

    def build_parts(self, dtype: str) -> None:
        model = self.contract
        self.encoder = torch_impl.Encoder(model.encoder, seed=None, dtype=dtype)
        self.decoder = nn.ModuleList(DecoderLayer(model.layer, seed=None, dtype=dtype) for _ in range(model.depth))

    def forward(self, source: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """Return the logits `(B, T, V)` of a target that is known: `START` and what was said."""
        memory, states = self.encode(source, lengths)
        return self.decode(target, self.places(target.shape[1]), memory, states, lengths)[0]

    def encode(self, source: Tensor, lengths: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the memory `(B, S, M)` and the states of the cells before the first word."""
        x = marian.enter(xp, self.embed, source, self.places(source.shape[1]))
        memory = self.encoder(x, mask=spec.Lengths(kv=lengths, q=lengths))
        return memory, [torch.zeros_like(memory[:, 0])] * self.contract.depth

    def decode(
        self, tokens: Tensor, places: Tensor, memory: Tensor, states: list[Tensor], lengths: Tensor
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return the logits `(B, T, V)` after each of some tokens, the last layer's weights, and the states after all."""
        x, weights, new = marian.enter(xp, self.embed, tokens, places), memory, []
        for layer, state in zip(self.decoder, states, strict=True):
            x, weights, state = layer(x, memory, state, spec.Lengths(kv=lengths))  # noqa: PLW2901 - what is carried on
            new.append(state)
        return x @ self.embed.T + self.logit_bias, weights, new

    def places(self, count: int) -> Tensor:
        """Return what is added to the first tokens' embeddings, `(count, M)`."""
        return torch.as_tensor(marian.positions(0, count, self.contract.width)).to(self.embed)


def translator(model: Marian) -> marian.Translator:
    """Return the model as functions of NumPy arrays."""

    @torch.inference_mode()
    def encode(source: np.ndarray, lengths: np.ndarray) -> tuple[Tensor, list[Tensor]]:
        return model.encode(torch.from_numpy(source), torch.from_numpy(lengths))

    @torch.inference_mode()
    def decode(
        tokens: np.ndarray, places: np.ndarray, carried: tuple[Tensor, list[Tensor]], lengths: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, tuple[Tensor, list[Tensor]]]:
        memory, states = carried
        there = torch.from_numpy(places).to(memory)
        logits, weights, states = model.decode(torch.from_numpy(tokens), there, memory, states, torch.from_numpy(lengths))
        return to_numpy(logits), to_numpy(weights), (memory, states)

    return marian.Translator(encode, decode, model.contract.width)
