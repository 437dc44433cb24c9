"""The eye in JAX. See eye.py."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from attention.jax_impl import Encoder, Layer
from examples.captioning import eye


class Eye(Layer):
    """An encoder of images."""

    contract: eye.Eye
    whole: nnx.Param
    places: nnx.Param
    embed: nnx.LinearGeneral
    encoder: Encoder

    def __call__(self, patches: jax.Array) -> jax.Array:
        """Return the tokens of images, the whole before the patches.

        Args:
            patches: `(B, S, pixels)`.

        Returns:
            `(B, 1 + S, M)`.
        """
        return self.encoder(self._tokens(patches))

    def looks(self, patches: jax.Array) -> jax.Array:
        """Return how the whole weighs the patches in the last block, `(B, H, S)`, without what it gives itself."""
        x = self._tokens(patches)
        *before, last = self.encoder.layers
        for block in before:
            x = block(x)
        _, intermediates = last.self_attn(last.norm1(x), return_intermediates=("weights",))
        return intermediates["weights"][:, :, 0, 1:]

    def _tokens(self, patches: jax.Array) -> jax.Array:
        whole = jnp.broadcast_to(self.whole[...], (len(patches), 1, self.contract.embed_dim))
        return jnp.concatenate([whole, self.embed(patches)], 1) + self.places
