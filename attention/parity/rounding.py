"""Where a real attention layer rounds: the oracle as a program whose budget can be taken.

stored          projections, rotated heads, contexts and whatever else a layer's formula marks between its attentions:
                written down in the dtype of the weights, whatever the kernel
"weights"       a kernel that writes the weights down in the dtype of its inputs
"d scores"      one that writes down the gradient of the scores
"logsumexp"     one that keeps only the context and the logsumexp, as FlashAttention does. Its backward pass makes the
                scores and weights anew, exp(q k^T * scale - logsumexp), the same numbers, rounded independently and at
                that size; and it takes the sum of a row from the context as it was written down:
                d scores = weights * (d weights - delta), delta = sum(d context * stored(context))

delta errs by d context . (stored(context) - context) in every score of a row alike. No error of a single score does that, and
where the gradient of a row all but cancels (a norm follows, tokens are alike), nothing else is as large.

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

from attention.parity.budget import stored, stored_gradient
from attention.spec.attend import STAGES, Mark
from attention.spec.axes import Array
from attention.spec.layers.contract import Contract
from attention.spec.scores import mix

INNER = {"query", "key", "value", *STAGES} - {"context"}
"""What a kernel keeps to itself, in the compute dtype, unless it says otherwise."""
ROUNDS = ("weights", "d scores", "logsumexp")
"""What a kernel may round on purpose: see `Kernel.rounds`."""


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
            setting: what the contract's `settle` returned.
            rounds: a bool for each of `ROUNDS`: traced, so that one compilation serves every kernel.
        """
        setting = jax.tree.map(stop_gradient, setting)
        weights, arrays = ({name: stored_gradient(x) for name, x in group.items()} for group in (weights, arrays))
        made = self.contract.formula(jnp, weights, arrays, setting, constant=stop_gradient, mark=Marker(rounds))
        return {name: made[name] for name in self.names}


class Marker(Mark):
    """The `mark` of one call: rounds each stage as its kernel does, one attention after another."""

    def __init__(self, rounds: dict[str, Any]) -> None:
        self.rounds = rounds
        self.seen: dict[str, Array] = {}
        self.allowed: Array = True
        self.sinks: Array = None
        self.scores: Callable[[], Array]

    def attending(self, allowed: Array, scores: Callable[[], Array], sinks: Array) -> None:
        self.allowed, self.scores, self.sinks = True if allowed is None else allowed, scores, sinks

    def __call__(self, stage: str, value: Array) -> Array:
        """Return the stage as the next one shall see it."""
        x = self.store(stage, value)
        if stage == "weights":
            x = self.remake(x)
        elif stage == "context":
            # The values' gradient is the weights', transposed, times the context's: with the weights made anew.
            moved = mix(jnp, stop_gradient(self.seen["again"] - self.seen["weights"]), self.seen["value"])
            moved = moved - stop_gradient(x - value) * self.seen["delta"]
            x = x + (moved - stop_gradient(moved))
        self.seen[stage] = x
        return x

    def store(self, stage: str, x: Array) -> Array:
        """Return the stage, written down if it is. The choice is exact."""
        if stage == "input":
            return stored_gradient(x)
        if stage == "weights":
            return jnp.where(self.rounds["weights"], stored(x), x)
        if stage == "scores":
            return jnp.where(self.rounds["d scores"], stored_gradient(x), x)
        return x if stage in INNER else stored(x)

    def remake(self, weights: Array) -> Array:
        """Return the weights, with the gradient of a kernel that made them anew where this one does.

        d scores = again * (d weights - sum(weights * d weights)): the sum comes from the context of the forward pass, so
        that the two roundings of the weights do not cancel in it. What the context lost when it was written down is in
        that sum too: "delta" carries it there once the context is made.
        """
        scores, logsumexp = self.seen["scores"], self.seen["logsumexp"]
        # An empty row has no weight to make, and -inf - -inf is NaN.
        finite = jnp.where(jnp.isneginf(logsumexp), 0.0, logsumexp)
        second = jnp.where(self.allowed, self.scores(), 0.0)
        again = self.store("weights", jnp.where(self.allowed, jnp.exp(second - finite[..., None]), 0.0))
        self.seen["again"] = jnp.where(self.rounds["logsumexp"], again, weights)
        once, again = stop_gradient(weights), stop_gradient(again)
        slope = again * jnp.where(self.allowed, scores, 0.0)
        total = jnp.sum(slope, axis=-1, keepdims=True)
        if self.sinks is not None:
            # A sink takes weight and gives no value: d sink = -its weight * sum(weights * d weights).
            taken = stop_gradient(jnp.exp(self.sinks[:, None] - finite)) * self.sinks[:, None]
            total = total + taken[..., None]
        slope = slope - once * total
        self.seen["delta"] = jnp.where(self.rounds["logsumexp"], jnp.swapaxes(total, -3, -2), 0.0)
        return jnp.where(self.rounds["logsumexp"], once + (slope - stop_gradient(slope)), weights)
