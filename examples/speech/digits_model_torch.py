"""The listener in PyTorch. See digits_model.py."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from attention import spec
from attention.torch_impl import AlignmentAttention, Layer
from examples.recurrent_torch import GRU, Bidirectional
from examples.speech import digits_model
from examples.speech.connected import PAD, START


class Listener(Layer):
    """The model of an architecture."""

    contract: digits_model.Listener
    embed: nn.Parameter
    ear: nn.Linear
    reader: Bidirectional
    writer: GRU
    attention: AlignmentAttention
    readout: nn.Linear

    def build_parts(self, dtype: str) -> None:
        self.reader = Bidirectional(self.contract.reader, seed=None, dtype=dtype)
        self.writer = GRU(self.contract.writer, seed=None, dtype=dtype)
        self.attention = AlignmentAttention(self.contract.attention, seed=None, dtype=dtype)

    def forward(self, sound: Tensor, lengths: Tensor, given: Tensor | None, most: int) -> tuple[Tensor, Tensor]:
        """Return what is written after each word.

        Args:
            sound: `(B, S, sound_dim)`.
            lengths: `(B,)`, steps of sound that there are.
            given: `(B, most)` integers, START and the words so far; None: what the model finds likeliest itself.
            most: T, how many words are written.

        Returns:
            Logits `(B, T, V)` and the attention's weights `(B, T, S)`.
        """
        states = self.reader(torch.tanh(self.ear(sound)), lengths)
        h = states.new_zeros(len(sound), self.contract.hidden_dim)
        context, word, steps = h, torch.full_like(lengths, START), []
        for t in range(most):
            word = word if given is None else given[:, t]
            h = self.writer.step(torch.cat([F.embedding(word, self.embed), context], -1), h)
            context, weights = self.attention(h, states, mask=spec.Lengths(kv=lengths))
            logits = self.readout(torch.cat([h, context], -1))
            word = logits.argmax(-1)
            steps.append((logits, weights))
        logits, weights = (torch.stack(column, 1) for column in zip(*steps, strict=True))
        return logits, weights


def loss(listener: Listener, batch: dict[str, Tensor], seed: Any) -> Tensor:
    """Return the mean of -log P of the words that were said."""
    del seed
    target = batch["target"]
    given = F.pad(target[:, :-1], (1, 0), value=START)
    logits, _ = listener(batch["sound"], batch["lengths"], given, target.shape[1])
    found = torch.take_along_dim(F.log_softmax(logits, -1), target[..., None], -1)[..., 0]
    there = target != PAD
    return -(found * there).sum() / there.sum()


@torch.no_grad()
def listen(listener: Listener, batch: dict[str, Any], most: int) -> tuple[Any, Any]:
    """Return what the model writes of a batch of NumPy arrays: words `(B, most)` and weights, as NumPy arrays."""
    sound, lengths = (torch.from_numpy(batch[name]) for name in ("sound", "lengths"))
    logits, weights = listener(sound, lengths, None, most)
    return logits.argmax(-1).numpy(), weights.numpy()
