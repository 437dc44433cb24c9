"""Where a real attention layer rounds: the oracle as a program whose budget can be taken.

stored          projections, rotated heads and context: written down in the dtype of the weights, whatever the kernel
"weights"       a kernel that writes the weights down in the dtype of its inputs
"d scores"      one that writes down the gradient of the scores
"logsumexp"     one that keeps only the logsumexp, and in its backward pass makes the scores and weights anew:
                exp(q k^T * scale - logsumexp), the same numbers, rounded independently and at that size
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from attention.parity.budget import stored, stored_gradient
from attention.spec.axes import Array
from attention.spec.layers.multi_head import MultiHeadAttention
from attention.spec.layers.oracle import Setting, oracle
from attention.spec.scores import mix, products, soft_cap

STORED = {"q_proj", "k_proj", "v_proj", "out_proj", "rotated", "context"}
ROUNDS = ("weights", "d scores", "logsumexp")
"""What a kernel may round on purpose: see `Kernel.rounds`."""

RESULTS = ("output", "weights", "logsumexp")


@dataclass(frozen=True)
class LayerProgram:
    """The oracle as a JAX program. Layers that differ in mask alone are equal, and share a compilation."""

    contract: MultiHeadAttention

    def __call__(self, weights: Any, inputs: Any, constants: tuple[Any, ...], rounds: dict[str, Any]) -> dict[str, Any]:
        """Return the `RESULTS` of the layer.

        Args:
            weights: canonical.
            inputs: as `oracle` takes them.
            constants: the fields of a `Setting`.
            rounds: a bool for each of `ROUNDS`: traced, so that one compilation serves every kernel.
        """
        setting = Setting(*jax.tree.map(stop_gradient, constants))
        weights, inputs = ({name: stored_gradient(x) for name, x in group.items()} for group in (weights, inputs))
        marker = Marker(rounds, setting.allowed, partial(self.rescore, inputs["bias"]))
        stages = oracle(self.contract, jnp, weights, inputs, setting, constant=stop_gradient, mark=marker)
        return {name: stages[name] for name in RESULTS}

    def rescore(self, bias: Array, q: Array, k: Array) -> Array:
        """Return the scores, computed a second time."""
        scores = products(jnp, q, k) * self.contract.score.factor(self.contract.width)
        return soft_cap(jnp, scores, self.contract.softcap) + bias


class Marker:
    """The `mark` of one call: rounds each stage as its kernel does."""

    def __init__(self, rounds: dict[str, Any], allowed: Array, rescore: Callable[[Array, Array], Array]) -> None:
        self.rounds, self.allowed, self.rescore = rounds, allowed, rescore
        self.seen: dict[str, Array] = {}

    def __call__(self, stage: str, x: Array) -> Array:
        """Return the stage as the next one shall see it."""
        x = self.store(stage, x)
        if stage == "weights":
            x = self.remake(x)
        elif stage == "context":
            # The values' gradient is the weights', transposed, times the context's: with the weights made anew.
            moved = mix(jnp, stop_gradient(self.seen["again"] - self.seen["weights"]), self.seen["value"])
            x = x + (moved - stop_gradient(moved))
        self.seen[stage] = x
        return x

    def store(self, stage: str, x: Array) -> Array:
        """Return the stage, written down if it is. The choice is exact."""
        if stage in STORED:
            return stored(x)
        if stage == "input":
            return stored_gradient(x)
        if stage == "weights":
            return jnp.where(self.rounds["weights"], stored(x), x)
        return jnp.where(self.rounds["d scores"], stored_gradient(x), x) if stage == "scores" else x

    def remake(self, weights: Array) -> Array:
        """Return the weights, with the gradient of a kernel that made them anew where this one does.

        d scores = again * (d weights - sum(weights * d weights)): the sum comes from the context of the forward pass, so
        that the two roundings of the weights do not cancel in it.
        """
        scores, logsumexp = self.seen["scores"], self.seen["logsumexp"]
        # An empty row has no weight to make, and -inf - -inf is NaN.
        finite = jnp.where(jnp.isneginf(logsumexp), 0.0, logsumexp)
        second = jnp.where(self.allowed, self.rescore(self.seen["query"], self.seen["key"]), 0.0)
        again = self.store("weights", jnp.where(self.allowed, jnp.exp(second - finite[..., None]), 0.0))
        self.seen["again"] = jnp.where(self.rounds["logsumexp"], again, weights)
        once, again = stop_gradient(weights), stop_gradient(again)
        slope = again * jnp.where(self.allowed, scores, 0.0)
        slope = slope - once * jnp.sum(slope, axis=-1, keepdims=True)
        return jnp.where(self.rounds["logsumexp"], once + (slope - stop_gradient(slope)), weights)
