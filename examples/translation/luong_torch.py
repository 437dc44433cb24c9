"""Luong's translator in PyTorch. See luong.py."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from attention import spec
from attention.torch_impl import AlignmentAttention, Layer
from examples.recurrent_torch import GRU, Bidirectional
from examples.translation import luong


class Translator(Layer):
    """A reader, a writer, an alignment."""

    contract: luong.Translator
    source_embed: nn.Parameter
    target_embed: nn.Parameter
    logit_bias: nn.Parameter
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
        """Return what was read, `(B, S, 2 E)`, and the writer's first state."""
        memory = self.reader(self.source_embed[source], lengths)
        # The reader that came from the right has seen everything at the first element.
        return memory, torch.tanh(self.first(memory[:, 0, self.contract.reader.hidden_dim :]))

    def step(self, memory: Tensor, lengths: Tensor, state: Tensor, said: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the next state, the logits `(B, V)` of the next token, and where it looked, `(B, S)`.

        Args:
            memory: `(B, S, 2 E)`.
            lengths: `(B,)`.
            state: what `begin` or the last step returned.
            said: `(B,)`, the token before.
        """
        state = self.writer.step(self.target_embed[said], state)
        return state, *self._choose(state, memory, lengths)

    def forward(self, source: Tensor, lengths: Tensor, said: Tensor) -> Tensor:
        """Return the logits `(B, T, V)` of each token, given those `(B, T)` that stand before it."""
        memory, state = self.begin(source, lengths)
        return self._choose(self.writer(self.target_embed[said], initial=state), memory, lengths)[0]

    def _choose(self, states: Tensor, memory: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        context, weights = self.attention(states, memory, mask=spec.Lengths(kv=lengths))
        seen = torch.tanh(self.readout(torch.cat([context, states], dim=-1)))
        return linear(seen, self.target_embed, self.logit_bias), weights
