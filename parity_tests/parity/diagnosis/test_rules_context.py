"""Names that depend on more than two arrays: a gradient that one side stops, a mask that the other side applies later."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from attention import parity

RNG = np.random.default_rng(0)
X, W = RNG.normal(size=(5, 5)).astype(np.float32), RNG.normal(size=(5, 5)).astype(np.float32)
HIDDEN = np.triu(np.ones((5, 5), bool), 1)


def named(first: Any, second: Any) -> str:
    return "\n".join(map(str, parity.full_comparison(first, second, (X, W)).named))


def test_a_gradient_that_one_side_stops_has_a_name() -> None:
    def stopped(x: Any, w: Any) -> Any:
        y = torch.tanh(x @ w)
        return y * torch.sigmoid(y.detach())

    def through(x: Any, w: Any) -> Any:
        y = jnp.tanh(x @ w)
        return y * jax.nn.sigmoid(y)

    assert named(stopped, through).startswith("the gradient is stopped on torch and not on jax")


def test_a_mask_that_is_applied_later_is_not_missing() -> None:
    def first(x: Any, w: Any) -> Any:
        scores = x @ w / 2.0 + torch.where(torch.from_numpy(HIDDEN), torch.finfo(torch.float32).min, 0.0).to(x.dtype)
        return torch.softmax(scores, -1)

    def later(x: Any, w: Any) -> Any:
        scores = jnp.where(HIDDEN, -1e30, x @ w / 3.0)
        return jax.nn.softmax(scores, -1)

    assert "mask" not in named(first, later)


def test_a_mask_that_nobody_applies_is_missing() -> None:
    def first(x: Any, w: Any) -> Any:
        scores = x @ w + torch.where(torch.from_numpy(HIDDEN), -1e9, 0.0).to(x.dtype)
        return torch.softmax(scores, -1)

    def never(x: Any, w: Any) -> Any:
        return jax.nn.softmax(x @ w, -1)

    assert "mask" in named(first, never)
