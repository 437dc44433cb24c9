"""Ports that hold gates or heads in an order of their own, which values that we load cannot tell from a mistake."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from attention import parity

WIDTH = 5
X = np.random.default_rng(0).normal(size=(3, WIDTH)).astype(np.float32)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fused, self.out = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, value = self.fused(x).chunk(2, -1)
        return self.out(nn.functional.silu(gate) * value)


def port(p: dict[str, Any], x: Any) -> Any:
    """The value first, then the gate, which is right for parameters that were converted so."""
    value, gate = jnp.split(x @ p["fused.kernel"] + p["fused.bias"], 2, -1)
    return (jax.nn.silu(gate) * value) @ p["out.kernel"] + p["out.bias"]


def params(*, converted: bool) -> tuple[Gated, dict[str, Any]]:
    _ = torch.manual_seed(0)
    first = Gated()
    state = {name: x.detach().numpy() for name, x in first.state_dict().items()}
    order = np.roll(np.arange(2 * WIDTH), WIDTH)
    true = {
        "fused.kernel": state["fused.weight"][order].T,
        "fused.bias": state["fused.bias"][order],
        "out.kernel": state["out.weight"].T,
        "out.bias": state["out.bias"],
    }
    rng = np.random.default_rng(1)
    held = true if converted else {name: rng.normal(size=x.shape).astype(np.float32) for name, x in true.items()}
    return first, {name: jnp.asarray(x) for name, x in held.items()}


@pytest.mark.parametrize(("converted", "load", "verdict"), [(True, None, "agrees"), (False, "first", "cannot tell")])
def test_gates_in_another_order(*, converted: bool, load: str | None, verdict: str) -> None:
    first, values = params(converted=converted)
    assert parity.full_comparison(first, (port, values), (X,), load=load).verdict == verdict


def test_a_mistake_that_no_order_mends_is_one() -> None:
    first, values = params(converted=False)

    def wrong(p: dict[str, Any], x: Any) -> Any:
        value, gate = jnp.split(x @ p["fused.kernel"] + p["fused.bias"], 2, -1)
        return (jax.nn.relu(gate) * value) @ p["out.kernel"] + p["out.bias"]

    assert parity.full_comparison(first, (wrong, values), (X,), load="first").verdict == "differs"
