"""Edits: one change of the JAX program mends the outputs and is the mistake's name; where it takes several, nothing is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from attention.parity import locate
from attention.parity.diagnosis import edits

RNG = np.random.default_rng(7)
X = RNG.normal(size=(3, 5, 4))
Y = RNG.normal(size=(3, 5, 4))
W = RNG.normal(size=(4, 4))
IMAGE = RNG.normal(size=(2, 9, 3))
KERNEL = RNG.normal(size=(3, 3, 4))
T = torch.as_tensor
Side = Callable[..., Any]


def convolved(x: Any, low: int, high: int, dilation: int = 1) -> Any:
    """Return a convolution along the middle axis."""
    numbers = ("NWC", "WIO", "NWC")
    return jax.lax.conv_general_dilated(
        x, jnp.asarray(KERNEL), (1,), [(low, high)], rhs_dilation=(dilation,), dimension_numbers=numbers
    )


def torch_convolved(x: torch.Tensor, low: int, high: int, dilation: int = 1) -> torch.Tensor:
    """Return the same in torch."""
    x = torch.nn.functional.pad(x.transpose(1, 2), (low, high))
    return torch.nn.functional.conv1d(x, T(KERNEL).permute(2, 1, 0), dilation=dilation).transpose(1, 2)


def with_loop(count: int) -> Side:
    """Return some turns of a loop in JAX."""

    def side(x: Any) -> Any:
        for _ in range(count):
            x = jnp.tanh(x @ W) + 0.1
        return jnp.cos(x)

    return side


def torch_loop(x: torch.Tensor) -> torch.Tensor:
    """Return two turns in torch."""
    for _ in range(2):
        x = torch.tanh(x @ T(W)) + 0.1
    return torch.cos(x)


CASES: dict[str, tuple[Side, Side, tuple[np.ndarray, ...], str]] = {
    "the minimum for the maximum": (
        lambda x, y: torch.maximum(x, y) @ T(W),
        lambda x, y: jnp.minimum(x, y) @ W,
        (X, Y),
        "the maximum on torch, the minimum on jax",
    ),
    "activation and sum exchanged": (
        lambda x, y: (torch.relu(x @ T(W)) + y) @ T(W),
        lambda x, y: jax.nn.relu(x @ W + y) @ W,
        (X, Y),
        "in another order",
    ),
    "sine and cosine": (lambda x: torch.sin(x @ T(W)), lambda x: jnp.cos(x @ W), (X,), "sine on torch, cosine on jax"),
    "another residual": (
        lambda x: torch.tanh(x @ T(W)) @ T(W) + x,
        lambda x: jnp.tanh(x @ W) @ W + jnp.tanh(x @ W),
        (X,),
        "tanh of the matrix product",
    ),
    "a norm before the mean": (
        lambda x: torch.nn.functional.layer_norm(x.mean(1), (4,)),
        lambda x: ((x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)).mean(1),
        (X,),
        "a mean over axis 1 of (3, 5, 4) is taken before what follows on torch",
    ),
    "padding at one end": (
        lambda x: torch_convolved(x, 1, 1),
        lambda x: convolved(x, 2, 0),
        (IMAGE,),
        "padding of 1 on either side on torch, 2 before and 0 after on jax",
    ),
    "dilation": (
        lambda x: torch_convolved(x, 2, 2, 2),
        lambda x: convolved(x, 1, 1),
        (IMAGE,),
        "dilation 2 on torch, 1 on jax",
    ),
    "rows off by one": (
        lambda x: torch.tanh(x[:, 1:4] @ T(W)),
        lambda x: jnp.tanh(x[:, 0:3] @ W),
        (X,),
        "elements from 1 on torch, from 0 on jax",
    ),
    "one turn too many": (torch_loop, with_loop(3), (X,), "iterations too many on jax"),
    "another axis": (
        lambda x: x / torch.sqrt((x * x).sum(1, keepdim=True) + 1e-6),
        lambda x: x / jnp.sqrt((x * x).sum(2, keepdims=True) + 1e-6),
        (X,),
        "over axis 1 on torch, over axis 2 on jax",
    ),
    "a sum without the element itself": (
        lambda x: torch.cos(torch.cumsum(x, 1) - x) @ T(W),
        lambda x: jnp.cos(jnp.cumsum(x, 1)) @ W,
        (X,),
        "without the element itself on torch",
    ),
}


def parted(first: Side, second: Side, given: tuple[np.ndarray, ...]) -> Any:
    """Return where the two part."""
    found = locate(first, second, given)
    assert found.found
    return found


@pytest.mark.parametrize("case", CASES)
def test_an_edit_is_named(case: str) -> None:
    first, second, given, wanted = CASES[case]
    [place] = parted(first, second, given).all
    [finding] = edits.name(place)
    assert wanted in finding.name, finding


def test_two_mistakes_at_once_have_no_edit() -> None:
    """One edit does not mend two mistakes of one expression."""
    found = parted(
        lambda x, y: torch.sin(torch.maximum(x, y) * 1.7 + 0.3),
        lambda x, y: jnp.cos(jnp.minimum(x, y) * 0.9 - 0.2),
        (X, Y),
    )
    assert not [each for place in found.all for each in edits.name(place)]


def test_one_magnitude_is_no_evidence() -> None:
    """Through two numbers many functions go."""
    given = np.array([1.0, -1.0, 1.0], np.float32)
    found = parted(lambda x: torch.relu(x) * 0.2, lambda x: jnp.abs(x) * 0.9, (given,))
    assert not [each for place in found.all for each in edits.name(place) if "another function" in each.name]


def test_the_bound_of_a_clip_is_no_eps() -> None:
    found = parted(lambda x: torch.clamp(x, min=0.3) * 2, lambda x: jnp.maximum(x, 0.0) * 2, (X,))
    named = [each.name for place in found.all for each in edits.name(place)]
    assert not [name for name in named if "eps" in name], named
