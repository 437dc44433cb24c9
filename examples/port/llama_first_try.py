"""The first try of the port in `llama_jax.py`, with two mistakes: one shows in every pass, the other in decoding alone."""

import jax.numpy as jnp
from jax import Array

from examples.port import llama_jax
from examples.port.llama_jax import HEADS, KV_HEADS, Params
from examples.port.llama_torch import make_llama


class FirstTry(llama_jax.Llama):
    """A port as people write it."""

    def expand(self, x: Array) -> Array:
        """Return keys or values with a head for each query head."""
        return jnp.tile(x, (1, 1, HEADS // KV_HEADS, 1))


class SecondTry(llama_jax.Llama):
    """The same with the heads in order."""

    def step(self, params: Params, cache: Params, tokens: Array, positions: Array) -> tuple[Array, Params]:
        """Return the logits of the next tokens, and the cache with them."""
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        return super().step(params, cache, tokens, positions)


def make_port() -> tuple[llama_jax.Llama, Params]:
    """Return the model with the weights of the PyTorch model, as `attention compare` takes it."""
    return FirstTry(), llama_jax.convert(make_llama().state_dict())
