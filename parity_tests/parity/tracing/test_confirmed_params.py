"""Parameters whose layout the trace of both programs shows, whatever else is wrong."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

from attention.parity import program
from attention.parity.adapters.inputs import call_of
from attention.parity.tracing.confirmed_params import confirmed
from attention.parity.tracing.locate import record
from attention.parity.tracing.trace_alignment import Alignment

RNG = np.random.default_rng(2)
X = RNG.normal(size=(3, 4)).astype(np.float32)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.second(torch.relu(self.first(x)))) * self.scale)


def port(p: dict[str, Any], x: Any) -> Any:
    x = jax.nn.relu(x @ p["first"] + p["b_first"])
    x = jax.nn.sigmoid(x @ p["second"] + p["b_second"])
    return (x * p["scale"]) @ p["last"] + p["b_last"]


def shown(**changed: Any) -> frozenset[str]:
    _ = torch.manual_seed(0)
    net = Net()
    kernels = {name: getattr(net, name).weight.detach().numpy().T for name in ("first", "second", "last")}
    biases = {f"b_{name}": getattr(net, name).bias.detach().numpy() for name in kernels}
    params = {**kernels, **biases, "scale": np.ones(4, np.float32), **{k: f(kernels[k]) for k, f in changed.items()}}
    sides = program(net, "torch"), program((port, jax.tree.map(jnp.asarray, params)), "jax")
    first, second = (record(side, call_of(X), "float64") for side in sides)
    return confirmed(Alignment(first, second))


def test_what_is_used_before_the_mistake_is_confirmed_and_what_comes_after_is_not() -> None:
    # A sigmoid in the place of tanh: nothing after it agrees.
    assert shown() == {"first", "b_first", "second", "b_second"}


def test_another_layout_is_not_confirmed() -> None:
    assert shown(second=lambda w: w.T) == {"first", "b_first"}


def test_a_scale_of_ones_confirms_nothing() -> None:
    assert "scale" not in shown()
