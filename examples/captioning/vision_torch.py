"""The vision transformer in PyTorch. See vision.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from attention.torch_impl import Layer
from examples.captioning import vision
from examples.captioning.eye_torch import Eye


class VisionTransformer(Layer):
    """The model of an architecture."""

    contract: vision.VisionTransformer
    eye: Eye
    readout: nn.Linear

    def build_parts(self, dtype: str) -> None:
        self.eye = Eye(self.contract.eye, seed=None, dtype=dtype)

    def forward(self, patches: Tensor) -> Tensor:
        """Return the logits `(B, V)` of names for images.

        Args:
            patches: `(B, S, pixels)`.
        """
        return self.readout(self.eye(patches)[:, 0])


def loss(model: VisionTransformer, batch: dict[str, Tensor], seed: Any) -> Tensor:
    """Return the mean of -log P of the names of images; nothing is dropped, so no seed is needed."""
    del seed
    return F.cross_entropy(model(batch["patches"]), batch["names"])


@torch.no_grad()
def ask(model: VisionTransformer, patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits `(B, V)`, and how the whole weighed the patches `(B, H, S)`, from NumPy to NumPy."""
    given = torch.from_numpy(patches)
    return model(given).numpy(), model.eye.looks(given).numpy()
