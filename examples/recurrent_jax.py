"""Gated recurrent units in JAX, by a scan. See recurrent.py."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from attention.jax_impl import Layer
from examples import recurrent


class GRU(Layer):
    """One reader."""

    contract: recurrent.GRU
    input: nnx.LinearGeneral
    hidden: nnx.LinearGeneral

    def __call__(self, x: jax.Array, lengths: jax.Array | None = None, initial: jax.Array | None = None) -> jax.Array:
        """Return the state after each element.

        Args:
            x: `(B, T, M)`.
            lengths: `(B,)` integers, how many elements of each row there are; None means all.
            initial: `(B, E)`; None means 0.

        Returns:
            `(B, T, E)`; 0 after the end of a row.
        """
        initial = jnp.zeros((x.shape[0], self.contract.hidden_dim), x.dtype) if initial is None else initial
        order, there = _order(x, lengths)
        x = turned(x, order) if self.contract.reverse else x

        def read(state: jax.Array, given: jax.Array) -> tuple[jax.Array, jax.Array]:
            state = self._gated(given, state)
            return state, state

        # What an element brings needs no state, so it is one product for the whole sequence.
        _, states = jax.lax.scan(read, initial, jnp.swapaxes(self.input(x), 0, 1))
        states = jnp.swapaxes(states, 0, 1)
        states = turned(states, order) if self.contract.reverse else states
        return jnp.where(there, states, 0.0)

    def step(self, x: jax.Array, state: jax.Array) -> jax.Array:
        """Return the state `(B, E)` after one element `(B, M)`."""
        return self._gated(self.input(x), state)

    def _gated(self, given: jax.Array, state: jax.Array) -> jax.Array:
        """Return the state after an element of which `input` made `given`."""
        (xr, xz, xn), (hr, hz, hn) = (jnp.split(part, 3, axis=-1) for part in (given, self.hidden(state)))
        reset, update = jax.nn.sigmoid(xr + hr), jax.nn.sigmoid(xz + hz)
        new = jnp.tanh(xn + reset * hn)
        return (1.0 - update) * new + update * state


class Bidirectional(Layer):
    """Two readers, one from each end."""

    contract: recurrent.Bidirectional
    rightward: GRU
    leftward: GRU

    def build_parts(self, dtype: str) -> None:
        for name, part in self.contract.parts.items():
            setattr(self, name, GRU(part, seed=None, dtype=dtype))

    def __call__(self, x: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        """Return the states `(B, T, 2 E)` of both readers after each element."""
        return jnp.concatenate([self.rightward(x, lengths), self.leftward(x, lengths)], axis=-1)


def turned(x: jax.Array, order: jax.Array) -> jax.Array:
    """Return each row of `x` `(B, T, M)` in its own order `(B, T)`."""
    return jnp.take_along_axis(x, order[..., None], axis=1)


def _order(x: jax.Array, lengths: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Return which element comes when each row is read from its end, and where `(B, T, 1)` there are elements."""
    places = jnp.arange(x.shape[1])[None]
    ends = jnp.full((x.shape[0], 1), x.shape[1]) if lengths is None else lengths[:, None]
    there = places < ends
    return jnp.where(there, ends - 1 - places, places), there[..., None]
