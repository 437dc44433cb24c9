"""Position-wise MLP as an `nnx.Module`: two or three `nnx.LinearGeneral` around an activation.

output = drop(f(x W_gate) * (x W_up)) W_down        see attention/spec/layers/feed_forward.py
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from flax import nnx

from attention.jax_impl.attend import check_arrays
from attention.jax_impl.layers.layer import Layer
from attention.spec.axes import COMPUTE, check_float, dtype_name
from attention.spec.layers.feed_forward import FeedForward as Contract
from attention.spec.layers.tokens import check_tokens

CURVES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "silu": jax.nn.silu,
}
"""What JAX calls the functions of `spec.activations.PLAIN`."""


class FeedForward(Layer):
    """The layer of a contract; arguments as `Layer`."""

    contract: Contract
    up: nnx.LinearGeneral
    gate: nnx.LinearGeneral
    down: nnx.LinearGeneral

    def __call__(self, x: jax.Array, *, dropout_seed: Any = None) -> jax.Array:
        """Return the layer's output.

        Args:
            x: `(*batch, T, M)`.
            dropout_seed: an int or an integer scalar; while training, None draws one from the framework's generator.

        Returns:
            `(*batch, T, M)`.

        Raises:
            ShapeError: `x` does not fit.
            DTypeError: not an array, or of another dtype than the layer.
        """
        c = self.contract
        (x,) = check_input(x, self.up.kernel)
        check_tokens("x", x, c.embed_dim)
        hidden = self.up(x)
        hidden = curved(c.curve, self.gate(x)) * hidden if c.gated else curved(c.curve, hidden)
        return self.down(self.drop(hidden, c.dropout_rate, dropout_seed))


def check_input(x: jax.Array, weight: Any, **others: jax.Array) -> list[jax.Array]:
    """Return the inputs as JAX arrays, `x` first.

    Raises:
        DTypeError: one is no array, or of another dtype than the layer.
    """
    given = check_arrays(x=x, **others)
    _ = check_float(**dict(zip(("x", *others), given, strict=True)), parameters=weight)
    return given


def curved(name: str, x: jax.Array) -> jax.Array:
    """Return the function called `name` of `x`, computed in the compute dtype and rounded once."""
    return CURVES[name](x.astype(COMPUTE[dtype_name(x)])).astype(x.dtype)
