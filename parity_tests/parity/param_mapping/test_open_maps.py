"""Ports whose parameter map is open until the trace shows the doubtful layouts at work."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

from attention import parity

WIDTH = 6
X = np.random.default_rng(0).normal(size=(5, WIDTH)).astype(np.float32)


class Mixer(nn.Module):
    """Four projections, which the port holds in one array, and a head behind what they are made into."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.g_proj = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = torch.sigmoid(self.q_proj(x) @ self.k_proj(x).T)
        return self.head(torch.tanh(scores @ self.v_proj(x)) * nn.functional.silu(self.g_proj(x)))


def params() -> dict[str, Any]:
    """Values of the port's own: the tool has to say which of torch's they are."""
    rng = np.random.default_rng(1)
    shapes = {"qkvg.kernel": (WIDTH, 4 * WIDTH), "out.kernel": (WIDTH, 3), "out.bias": (3,)}
    return {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}


def ported(last: Any) -> Any:
    """The port; `last` stands in the place of tanh."""

    def run(p: dict[str, Any], x: Any) -> Any:
        q, k, v, g = jnp.split(x @ p["qkvg.kernel"], 4, -1)
        return (last(jax.nn.sigmoid(q @ k.T) @ v) * jax.nn.silu(g)) @ p["out.kernel"] + p["out.bias"]

    return run, params()


def examined(port: Any) -> parity.FullComparison:
    _ = torch.manual_seed(0)
    return parity.full_comparison(Mixer(), port, (X,), load="first")


def test_a_right_port_agrees() -> None:
    assert examined(ported(jnp.tanh)).verdict == "agrees"


def test_a_mistake_behind_the_doubtful_layout_is_one_of_the_program() -> None:
    found = examined(ported(lambda x: jnp.cos(9 * x)))
    assert found.verdict == "differs"
    assert found.report is not None
    assert any("is shown by the trace" in note for note in found.report.notes)
    assert found.divergence is not None
    assert found.divergence.torch is not None
    assert "torch.tanh" in found.divergence.torch.text


def test_a_layout_that_nobody_tried_condemns_no_port() -> None:
    def interleaved(p: dict[str, Any], x: Any) -> Any:
        q, k, v, g = jnp.moveaxis((x @ p["qkvg.kernel"]).reshape(len(x), WIDTH, 4), -1, 0)
        return (jnp.tanh(jax.nn.sigmoid(q @ k.T) @ v) * jax.nn.silu(g)) @ p["out.kernel"] + p["out.bias"]

    assert examined((interleaved, params())).verdict != "differs"
