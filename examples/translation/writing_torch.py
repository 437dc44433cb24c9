"""What a translator is taught, and what it writes, in PyTorch. See writing.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from examples.translation.corpus import START


def loss(model: Any, batch: Mapping[str, Tensor], seed: Any) -> Tensor:
    """Return the mean cross-entropy of the tokens that count."""
    del seed
    logits = model(batch["source"], batch["lengths"], batch["said"])
    each = cross_entropy(logits.flatten(0, 1), batch["target"].flatten().long(), reduction="none")
    return (each * batch["counts"].flatten()).sum() / batch["counts"].sum()


@torch.no_grad()
def write(model: Any, source: np.ndarray, lengths: np.ndarray, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the likeliest token at each step, `(B, T)`, and where the model looked, `(B, T, S)`; T is `longest`."""
    there = torch.from_numpy(lengths)
    memory, state = model.begin(torch.from_numpy(source), there)
    said = torch.full_like(there, START)
    tokens: list[Tensor] = []
    looks: list[Tensor] = []
    for _ in range(longest):
        state, logits, weights = model.step(memory, there, state, said)
        said = logits.argmax(dim=-1)
        tokens.append(said)
        looks.append(weights)
    return torch.stack(tokens, dim=1).numpy(), torch.stack(looks, dim=1).numpy()
