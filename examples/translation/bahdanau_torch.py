"""Bahdanau's translator in PyTorch. See bahdanau.py."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attention import spec
from attention.torch_impl import AlignmentAttention, Layer
from examples.recurrent_torch import GRU, Bidirectional
from examples.translation import bahdanau


class Translator(Layer):
    """A reader, an alignment, a writer."""

    contract: bahdanau.Translator
    source_embed: nn.Parameter
    target_embed: nn.Parameter
    reader: Bidirectional
    attention: AlignmentAttention
    writer: GRU
    first: nn.Linear
    readout: nn.Linear

    def build_parts(self, dtype: str) -> None:
        self.reader = Bidirectional(self.contract.reader, seed=None, dtype=dtype)
        self.attention = AlignmentAttention(self.contract.attention, seed=None, dtype=dtype)
        self.writer = GRU(self.contract.writer, seed=None, dtype=dtype)

    def begin(self, source: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return what was read, `(B, S, 2 E)`, and the writer's first state `(B, E)`."""
        memory = self.reader(self.source_embed[source], lengths)
        # The reader that came from the right has seen everything at the first element.
        return memory, torch.tanh(self.first(memory[:, 0, self.contract.reader.hidden_dim :]))

    def step(self, memory: Tensor, lengths: Tensor, state: Tensor, said: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the next state, the logits of the next token, and where it looked.

        Args:
            memory: `(B, S, 2 E)`.
            lengths: `(B,)`.
            state: `(B, E)`.
            said: `(B,)`, the token before.
        """
        context, weights = self.attention(state, memory, mask=spec.Lengths(kv=lengths))
        given = torch.cat([self.target_embed[said], context], dim=-1)
        state = self.writer.step(given, state)
        return state, self.readout(torch.cat([state, given], dim=-1)), weights

    def forward(self, source: Tensor, lengths: Tensor, said: Tensor) -> Tensor:
        """Return the logits `(B, T, V)` of each token, given those `(B, T)` that stand before it."""
        memory, state = self.begin(source, lengths)
        logits: list[Tensor] = []
        for token in said.unbind(dim=1):
            state, found, _ = self.step(memory, lengths, state, token)
            logits.append(found)
        return torch.stack(logits, dim=1)
