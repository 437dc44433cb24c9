"""The pointer-generator in PyTorch. See model.py."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from attention import spec
from attention.torch_impl import AlignmentAttention, Layer, seed_at
from examples.recurrent_torch import GRU, Bidirectional
from examples.summarisation import model
from examples.summarisation.data import PAD, START, UNKNOWN


class PointerGenerator(Layer):
    """The model of an architecture."""

    contract: model.PointerGenerator
    embed: nn.Parameter
    reader: Bidirectional
    writer: GRU
    attention: AlignmentAttention
    begin: nn.Linear
    mix: nn.Linear
    readout: nn.Linear
    gate: nn.Linear

    def build_parts(self, dtype: str) -> None:
        self.reader = Bidirectional(self.contract.reader, seed=None, dtype=dtype)
        self.writer = GRU(self.contract.writer, seed=None, dtype=dtype)
        self.attention = AlignmentAttention(self.contract.attention, seed=None, dtype=dtype)

    def read(self, source: Tensor, lengths: Tensor, seed: Any = None) -> tuple[Tensor, Tensor]:
        """Return the reader's states `(B, S, M)`, and the state `(B, M)` that the writer begins with."""
        states = self.reader(self._words(source, seed_at(seed, "source")), lengths)
        return states, torch.tanh(self.begin(states.sum(1) / lengths[:, None]))

    def forward(self, source: Tensor, lengths: Tensor, given: Tensor, seed: Any = None) -> tuple[Tensor, Tensor, Tensor]:
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

    def _words(self, numbers: Tensor, seed: Any) -> Tensor:
        # A word without a number of its own is read as UNKNOWN.
        known = torch.where(numbers < self.contract.vocabulary, numbers, UNKNOWN)
        return self.drop(F.embedding(known, self.embed), self.contract.dropout_rate, seed)

    def _written(self, x: Tensor, h: Tensor, states: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        context, weights = self.attention(h, states, mask=spec.Lengths(kv=lengths))
        both = torch.cat([h, context], -1)
        said = F.log_softmax(self.readout(torch.tanh(self.mix(both))), -1)
        return said, torch.sigmoid(self.gate(torch.cat([both, x], -1))), weights

    @torch.no_grad()
    def write(self, source: Tensor, lengths: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the likeliest words one after another, `(B, most)`, with own `(B, most)` and weights `(B, most, S)`."""
        states, h = self.read(source, lengths)
        word, steps = torch.full_like(lengths, START), []
        for _ in range(most):
            x = self._words(word[:, None], None)
            h = self.writer.step(x[:, 0], h)
            said, own, weights = self._written(x, h[:, None], states, lengths)
            spoken = F.pad(own * said.exp(), (0, source.shape[1]))[:, 0]
            # It is learned where no word fits, and is no word that a reader wants.
            spoken[:, UNKNOWN] = 0.0
            word = spoken.scatter_add(1, source, ((1.0 - own) * weights)[:, 0]).argmax(-1)
            steps.append((word, own[:, 0, 0], weights[:, 0]))
        return tuple(torch.stack(column, 1) for column in zip(*steps, strict=True))  # type: ignore[return-value]


def loss(summariser: PointerGenerator, batch: dict[str, Tensor], seed: Any) -> Tensor:
    """Return the mean of -log P of the target's words, each of them said or copied."""
    source, target, size = batch["source"], batch["target"], summariser.contract.vocabulary
    given = F.pad(target[:, :-1], (1, 0), value=START)
    said, own, weights = summariser(source, batch["lengths"], given, seed)
    spoken = torch.take_along_dim(said, torch.where(target < size, target, UNKNOWN)[..., None], -1)[..., 0].exp()
    copied = (weights * (source[:, None, :] == target[..., None])).sum(-1)
    # What has no number of its own cannot be said, only copied.
    p = own[..., 0] * torch.where(target < size, spoken, 0.0) + (1.0 - own[..., 0]) * copied
    there = target != PAD
    return -(torch.log(p + model.TINY) * there).sum() / there.sum()


def summarise(summariser: PointerGenerator, batch: dict[str, Any], most: int) -> tuple[Any, Any, Any]:
    """Return what the model writes of a batch of NumPy arrays: words, own and weights, as NumPy arrays."""
    source, lengths = (torch.from_numpy(batch[name]) for name in ("source", "lengths"))
    return tuple(part.numpy() for part in summariser.write(source, lengths, most))  # type: ignore[return-value]
