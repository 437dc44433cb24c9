"""The describer in PyTorch. See describer.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from attention.torch_impl import AlignmentAttention, Layer
from examples.captioning import describer
from examples.captioning.data import PAD, START
from examples.captioning.eye_torch import Eye
from examples.recurrent_torch import GRU


class Describer(Layer):
    """The model of an architecture."""

    contract: describer.Describer
    eye: Eye
    writer: GRU
    attention: AlignmentAttention
    words: nn.Parameter
    begin: nn.Linear
    mix: nn.Linear
    readout: nn.Linear

    def build_parts(self, dtype: str) -> None:
        self.eye = Eye(self.contract.eye, seed=None, dtype=dtype)
        self.writer = GRU(self.contract.writer, seed=None, dtype=dtype)
        self.attention = AlignmentAttention(self.contract.attention, seed=None, dtype=dtype)

    def forward(self, patches: Tensor, captions: Tensor) -> tuple[Tensor, Tensor]:
        """Return what each word of a caption could have been, from the image and the words before it.

        Args:
            patches: `(B, S, pixels)`.
            captions: `(B, T)` integers.

        Returns:
            logits `(B, T, V)` and the attention's weights `(B, T, S)`.
        """
        seen = self.eye(patches)
        given = F.embedding(F.pad(captions[:, :-1], (1, 0), value=START), self.words)
        h = self.writer(given, None, torch.tanh(self.begin(seen[:, 0])))
        context, weights = self.attention(h, seen[:, 1:])
        return self.readout(torch.tanh(self.mix(torch.cat([h, context], -1)))), weights


def loss(model: Describer, batch: dict[str, Tensor], seed: Any) -> Tensor:
    """Return the mean of -log P of the words of captions; nothing is dropped, so no seed is needed."""
    del seed
    logits, _ = model(batch["patches"], batch["captions"])
    return F.cross_entropy(logits.flatten(0, 1), batch["captions"].flatten(), ignore_index=PAD)


@torch.no_grad()
def ask(model: Describer, patches: np.ndarray, captions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what the model itself returns, from NumPy to NumPy."""
    logits, weights = model(torch.from_numpy(patches), torch.from_numpy(captions))
    return logits.numpy(), weights.numpy()
