"""Where a real attention layer rounds: the oracle as a program whose error budget can be computed.

stored          projections, rotated heads, contexts and the other intermediates between attentions: rounded to the dtype of
                the weights, whatever the kernel
"weights"       a kernel that rounds the weights to the dtype of its inputs
"d scores"      one that rounds the gradient of the scores
"logsumexp"     one that keeps only the context and the logsumexp, as FlashAttention does. Its backward pass recomputes scores
                and weights, exp(q k^T * scale - logsumexp): the same numbers, rounded independently and at that size. It sums
                a row from the rounded context: d scores = weights * (d weights - delta), delta = sum(d context * context)

The rounding of the context moves every score of a row alike, and no rounding of a single score does. Where the gradient of a
row all but cancels (a norm follows, or tokens are alike), this is the largest error.

References:
    Dao et al., arXiv:2205.14135, algorithm 4 (delta is its D_i).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from attention.parity.numerics.dtype_rounding import stored, stored_gradient
from attention.spec.attend import INTERMEDIATES, Observer
from attention.spec.axes import Array
from attention.spec.layers.contract import Contract
from attention.spec.scores import mix

INNER = {"query", "key", "value", *INTERMEDIATES} - {"context"}
"""Intermediates that stay inside of a kernel, in the compute dtype, unless the kernel declares otherwise."""
ROUNDS = ("weights", "d scores", "logsumexp")
"""The intermediates that a kernel may round on purpose: see `Kernel.rounds`."""


@dataclass(frozen=True)
class LayerProgram:
    """A contract's formula as a JAX program. Layers that differ in mask alone are equal, and share a compilation."""

    contract: Contract
    names: tuple[str, ...]

    def __call__(self, weights: Any, arrays: Any, setting: Any, rounds: dict[str, Any]) -> dict[str, Any]:
        """Return the results called `names`.

        Args:
            weights: canonical.
            arrays: of the call.
            setting: what the contract's `resolve` returned.
            rounds: a bool for each of `ROUNDS`: traced, so that one compilation serves every kernel.
        """
        setting = jax.tree.map(stop_gradient, setting)
        weights, arrays = ({name: stored_gradient(x) for name, x in group.items()} for group in (weights, arrays))
        made = self.contract.formula(jnp, weights, arrays, setting, constant=stop_gradient, observe=Marker(rounds))
        return {name: made[name] for name in self.names}


class Marker(Observer):
    """The `observe` of one call: rounds each intermediate as its kernel does, one attention after another."""

    def __init__(self, rounds: dict[str, Any]) -> None:
        self.rounds = rounds
        self.seen: dict[str, Array] = {}
        self.allowed: Array = True
        self.sinks: Array = None
        self.scores: Callable[[], Array]
        self.dropped: Callable[[Array], Array]

    def attending(self, allowed: Array, scores: Callable[[], Array], sinks: Array, dropped: Callable[[Array], Array]) -> None:
        self.allowed = True if allowed is None else allowed
        self.scores, self.sinks, self.dropped = scores, sinks, dropped

    def __call__(self, intermediate: str, value: Array) -> Array:
        """Return the intermediate as the next operation receives it."""
        x = self.store(intermediate, value)
        self.seen[intermediate] = x
        return self.remade(x) if intermediate == "context" else x

    def store(self, intermediate: str, x: Array) -> Array:
        """Return the intermediate, written down if it is. The choice is exact."""
        if intermediate == "input":
            return stored_gradient(x)
        if intermediate == "weights":
            return jnp.where(self.rounds["weights"], stored(x), x)
        if intermediate == "scores":
            return jnp.where(self.rounds["d scores"], stored_gradient(x), x)
        return x if intermediate in INNER else stored(x)

    def remade(self, context: Array) -> Array:
        """Return the context, with the gradient of a kernel that makes the weights anew where this one does.

        d v = again^T d context             d scores = again * (d context v^T - delta)
        """
        logsumexp = self.seen["logsumexp"]
        # An empty row has no weight to make, and -inf - -inf is NaN.
        finite = stop_gradient(jnp.where(jnp.isneginf(logsumexp), 0.0, logsumexp))
        second = jnp.where(self.allowed, stop_gradient(self.scores()), 0.0)
        again = self.store("weights", jnp.where(self.allowed, jnp.exp(second - finite[..., None]), 0.0))
        # A score of -inf has no weight either, and 0 * -inf is NaN.
        moved = again * jnp.where(again == 0.0, 0.0, self.seen["scores"])
        row = jnp.sum(moved, axis=-1)
        if self.sinks is not None:
            # A sink takes weight and gives no value: d sink = -its weight * delta.
            row = row + stop_gradient(jnp.exp(self.sinks[:, None] - finite)) * self.sinks[:, None]
        mixed = mix(jnp, self.dropped(again + (moved - stop_gradient(moved))), self.seen["value"])
        mixed = mixed - stop_gradient(context) * jnp.matrix_transpose(row)[..., None]
        return jnp.where(self.rounds["logsumexp"], stop_gradient(context) + (mixed - stop_gradient(mixed)), context)
