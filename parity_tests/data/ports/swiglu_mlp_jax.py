"""The feed-forward as a dataclass that is a pytree and can be called."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclass
class RMSNorm:
    weight: Any

    def __call__(self, x):
        return x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6) * self.weight


@jax.tree_util.register_dataclass
@dataclass
class MLP:
    norm: RMSNorm
    gate_up: Any
    down: Any

    def __call__(self, x):
        # should be: gate, up = jnp.split(self.norm(x) @ self.gate_up, 2, axis=-1)
        up, gate = jnp.split(self.norm(x) @ self.gate_up, 2, axis=-1)
        hidden = jax.nn.silu(gate) * up  # here
        return x + hidden @ self.down


def build(checkpoint):
    return MLP(RMSNorm(checkpoint["norm.weight"]), checkpoint["gate_up.weight"].T, checkpoint["down.weight"].T)
