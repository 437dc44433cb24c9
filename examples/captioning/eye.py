"""The eye: an image as tokens, one for each patch and one for the whole.

    x = [whole; patches W + b] + places        seen = encoder(x)

A linear map of a patch knows the patch; the encoder's self-attention lets every patch know the others, and gathers in `whole`
what the image is about.

References:
    Dosovitskiy et al., arXiv:2010.11929, equations 1 to 4; `whole` is their class token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attention import spec

SPREAD = 0.05
"""The bound of first values of tokens and places, which are added to what the linear map makes of a patch."""


@dataclass(frozen=True)
class Eye(spec.Architecture):
    """An encoder of images.

    Args:
        patches: S, how many there are.
        pixels: of each patch.
        embed_dim: M, the width of a token.
        num_heads: of each self-attention.
        depth: blocks.

    >>> sorted(Eye(patches=4, pixels=9, embed_dim=6, num_heads=2, depth=1).own_params)
    ['embed.bias', 'embed.kernel', 'places', 'whole']
    """

    patches: int
    pixels: int
    embed_dim: int
    num_heads: int
    depth: int

    @property
    def encoder(self) -> spec.Encoder:
        """Pre-norm blocks, with a last norm."""
        attention = spec.MultiHeadAttention(self.embed_dim, self.num_heads)
        feed_forward = spec.FeedForward(self.embed_dim, 2 * self.embed_dim, activation="gelu")
        block = spec.EncoderBlock(attention, feed_forward, order="pre")
        return spec.Encoder(block, self.depth, final_norm=spec.LayerNorm())

    @property
    def parts(self) -> Mapping[str, spec.Architecture]:
        return {"encoder": self.encoder}

    @property
    def params(self) -> dict[str, spec.Param]:
        width = self.embed_dim
        return {
            "whole": spec.Param((1, width), "TM", spread=SPREAD),
            "places": spec.Param((1 + self.patches, width), "TM", spread=SPREAD),
            "embed.kernel": spec.Param((self.pixels, width), "EM", inputs=1),
            "embed.bias": spec.Param((width,), "M"),
            **self.part_params(),
        }
