"""The same block in Flax NNX, but for one thing: `nnx.gelu` is another GELU than torch's unless it is told."""

import jax
import jax.numpy as jnp
from flax import nnx

WIDTH, HEADS = 24, 3


class Block(nnx.Module):
    """A port as people write it."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.qkv, self.proj = nnx.Linear(WIDTH, 3 * WIDTH, rngs=rngs), nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.fc1, self.fc2 = nnx.Linear(WIDTH, 2 * WIDTH, rngs=rngs), nnx.Linear(2 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the block's output `(B, T, WIDTH)`."""
        B, T, M = x.shape
        q, k, v = (y.reshape(B, T, HEADS, -1) for y in jnp.split(self.qkv(x), 3, -1))
        y = jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(B, T, M)
        x = x + self.proj(y)
        return x + self.fc2(nnx.gelu(self.fc1(x)))
