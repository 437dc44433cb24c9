"""State whose owners have no name in common: the only one of its kind is paired, and what nobody can tell condemns no port."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen
from torch import nn

from attention import parity

X = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


class Scaled(nn.Module):
    def __init__(self, *buffers: str) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)
        self.buffer_names = buffers
        for n, name in enumerate(buffers):
            self.register_buffer(name, torch.tensor([1.0, 2.0, 3.0 + n]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name in self.buffer_names:
            x = x / getattr(self, name)
        return self.head(x)


class Port(linen.Module):
    names: tuple[str, ...]

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for name in self.names:
            x = x / self.variable("statistics", name, jnp.ones, (3,)).value
        return linen.Dense(2, name="out")(x)


@pytest.mark.parametrize(
    ("torch_names", "jax_names", "verdict"),
    [
        (("variance",), ("var",), "agrees"),
        (("running_mean", "running_var"), ("variance", "mean"), "agrees"),
        (("one", "two"), ("three", "four"), "cannot tell"),
    ],
)
def test_state_without_a_common_owner(torch_names: tuple[str, ...], jax_names: tuple[str, ...], verdict: str) -> None:
    _ = torch.manual_seed(0)
    port: Any = Port(jax_names)
    variables = port.init(jax.random.key(0), X)
    assert parity.compare(Scaled(*torch_names), (port, variables), (X,), load="first").verdict == verdict
