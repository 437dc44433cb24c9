"""The eye in PyTorch. See eye.py."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attention.torch_impl import Encoder, Layer
from examples.captioning import eye


class Eye(Layer):
    """An encoder of images."""

    contract: eye.Eye
    whole: nn.Parameter
    places: nn.Parameter
    embed: nn.Linear
    encoder: Encoder

    def forward(self, patches: Tensor) -> Tensor:
        """Return the tokens of images, the whole before the patches.

        Args:
            patches: `(B, S, pixels)`.

        Returns:
            `(B, 1 + S, M)`.
        """
        return self.encoder(self._tokens(patches))

    def looks(self, patches: Tensor) -> Tensor:
        """Return how the whole weighs the patches in the last block, `(B, H, S)`, without what it gives itself."""
        x = self._tokens(patches)
        *before, last = self.encoder.layers
        for block in before:
            x = block(x)
        _, intermediates = last.get_submodule("self_attn")(last.get_submodule("norm1")(x), return_intermediates=("weights",))
        return intermediates["weights"][:, :, 0, 1:]

    def _tokens(self, patches: Tensor) -> Tensor:
        whole = self.whole.expand(len(patches), 1, -1)
        return torch.cat([whole, self.embed(patches)], 1) + self.places
