"""The language model in PyTorch. See model.py.

x = x + attention(norm(x))    x = x + ffn(norm(x))    logits = E norm(x)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from attention import torch_impl
from attention.spec.axes import dtype_name
from examples.language_model import model

Caches = tuple[torch_impl.StaticCache, ...]


class LanguageModel(torch_impl.Layer):
    """The whole model; arguments as `Layer`."""

    contract: model.LanguageModel
    embed: nn.Parameter
    decoder: Any
    """An `Encoder`, whose norms are attributes that its annotations do not name."""

    def forward(self, tokens: Tensor, *, dropout_seed: Any = None) -> Tensor:
        """Return the logits `(B, T, V)` of what follows each of `tokens` `(B, T)`."""
        return self.decoder(self.embed[tokens], dropout_seed=dropout_seed) @ self.embed.T

    def caches(self, batch: int, capacity: int) -> Caches:
        """Return the empty cache of each block, for `capacity` tokens."""
        attention = self.contract.attention
        kind = dtype_name(self.embed)
        empty = torch_impl.StaticCache.make(batch, capacity, attention.kv_heads, attention.width, dtype=kind)
        return (empty,) * self.contract.decoder.depth

    def step(self, tokens: Tensor, caches: Caches) -> tuple[Tensor, Caches]:
        """Return the logits `(B, V)` of what follows the last of some more `tokens` `(B, T)`, and the caches with them."""
        x, held = self.embed[tokens], []
        for block, past in zip(self.decoder.layers, caches, strict=True):
            attended, past_and_these = block.self_attn(block.norm1(x), cache=past)
            x = x + attended
            x = x + block.ffn(block.norm2(x))
            held.append(past_and_these)
        return self.decoder.final_norm(x[:, -1]) @ self.embed.T, tuple(held)

    def looks(self, tokens: Tensor) -> Tensor:
        """Return where each head of each block looks: `(depth, B, H, T, T)`."""
        x, found = self.embed[tokens], []
        for block in self.decoder.layers:
            found.append(block.self_attn(block.norm1(x), return_intermediates=("weights",))[1]["weights"])
            x = block(x)
        return torch.stack(found)


def loss(trained: LanguageModel, batch: Mapping[str, Tensor], seed: Any) -> Tensor:
    """Return the mean of -log p(next token), in nats, over `batch["tokens"]` `(B, T + 1)`."""
    tokens = batch["tokens"].long()
    found = trained(tokens[:, :-1], dropout_seed=seed)
    return functional.cross_entropy(found.flatten(0, 1), tokens[:, 1:].flatten())


@torch.no_grad()
def logits(trained: LanguageModel, tokens: np.ndarray) -> np.ndarray:
    """Return the logits `(B, T, V)` of what follows each of `tokens` `(B, T)`."""
    return trained(torch.from_numpy(tokens).long()).numpy()


@torch.no_grad()
def looks(trained: LanguageModel, tokens: np.ndarray) -> np.ndarray:
    """Return where each head of each block looks, `(depth, B, H, T, T)`, of `tokens` `(B, T)`."""
    return trained.looks(torch.from_numpy(tokens).long()).numpy()


def reader(trained: LanguageModel, capacity: int) -> Callable[[Sequence[int]], np.ndarray]:
    """Return a function that is told the next tokens of a text, and returns the logits `(V,)` of what follows them.

    Args:
        trained: the model.
        capacity: the most tokens that it will be told.
    """
    caches = trained.caches(1, capacity)

    @torch.no_grad()
    def read(tokens: Sequence[int]) -> np.ndarray:
        nonlocal caches
        found, caches = trained.step(torch.tensor([list(tokens)]), caches)
        return found[0].numpy()

    return read
