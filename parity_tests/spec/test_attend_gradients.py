"""Gradients of the attention formula in JAX and torch equal finite differences in NumPy.

d f / d x = Im f(x + ih) / h        over every intermediate at once, so that each has its say
"""

from __future__ import annotations

from typing import Any

import array_api_compat.torch
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from attention.spec.attend import attend
from parity_tests.support.calls import FULL, Call, Intermediates, call, close, formula, poisoned, unseen

STEP = 1e-200
"""The step of a complex-step derivative, Im f(x + ih) / h: no difference is taken, so no digit is lost."""


def split(of: Call) -> tuple[Call, Call]:
    """The arrays of a call that are differentiated, and the rest."""
    floats = ("q", "k", "v", "bias", "sinks")
    return {n: x for n, x in of.items() if n in floats}, {n: x for n, x in of.items() if n not in floats}


def jax_pull(of: Call, cotangents: Intermediates) -> tuple[Intermediates, Intermediates]:
    """The intermediates, and the gradient of sum(intermediate * cotangent) over all of them, by JAX in float64."""
    arrays, rest = split(of)

    def both(arrays: Call, along: Intermediates) -> tuple[Intermediates, Intermediates]:
        intermediates, pull = jax.vjp(lambda x: attend(jnp, **rest, **x, constant=jax.lax.stop_gradient), arrays)
        return intermediates, pull(along)[0]

    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, jax.jit(both)(arrays, cotangents))


def torch_pull(of: Call, cotangents: Intermediates) -> tuple[Intermediates, Intermediates]:
    """The same by torch and its autograd."""
    native: Call = {n: torch.from_numpy(x.copy()) if isinstance(x, np.ndarray) else x for n, x in of.items()}
    leaves = {name: native[name].requires_grad_() for name in split(of)[0]}
    intermediates = attend(array_api_compat.torch, **native, constant=torch.Tensor.detach)
    along = [torch.from_numpy(cotangents[name]) for name in intermediates]
    slopes = torch.autograd.grad(list(intermediates.values()), list(leaves.values()), along)
    values = {name: x.detach().numpy() for name, x in intermediates.items()}
    return values, {name: slope.numpy() for name, slope in zip(leaves, slopes, strict=True)}


def complex_step(of: Call, cotangents: Intermediates) -> Intermediates:
    """The gradient by finite differences of the NumPy formula, one number at a time, with an imaginary step."""
    slopes: Intermediates = {}
    for name, array in split(of)[0].items():
        slopes[name] = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            moved = array.astype(np.complex128)
            moved[index] += 1j * STEP
            intermediates = formula(of, **{name: moved})
            slopes[name][index] = sum((np.imag(intermediates[n]) * c).sum() for n, c in cotangents.items()) / STEP
    return slopes


CALLS = {
    "full": FULL,
    "masked": call(2, (2,), 3, 5, 2, 2, 7, 4, "allowed"),
    "open": call(3, (2,), 3, 5, 2, 2, 7, 4, "bias", "softcap"),
}
MASKED = CALLS["masked"]


def cotangents(of: Call) -> Intermediates:
    random = np.random.default_rng(5)
    return {name: random.standard_normal(x.shape) for name, x in formula(of).items()}


@pytest.mark.parametrize("pull", [jax_pull, torch_pull])
class TestGradients:
    @pytest.mark.parametrize("of", CALLS.values(), ids=CALLS)
    def test_the_same_text_elsewhere_gives_the_values_and_the_finite_differences(self, pull: Any, of: Call) -> None:
        along = cotangents(of)
        intermediates, slopes = pull(of, along)
        for name, value in formula(of).items():
            close(intermediates[name], value)
        wanted = complex_step(of, along)
        assert slopes.keys() == wanted.keys()
        for name, slope in wanted.items():
            assert slope.any()
            close(slopes[name], slope)

    def test_what_may_not_be_read_has_no_gradient_and_spoils_none(self, pull: Any) -> None:
        along, (rows, keys) = cotangents(MASKED), unseen(MASKED["allowed"], 2)
        (_, clean), (_, dirty) = pull(MASKED, along), pull(poisoned(MASKED), along)
        for name, where in (("q", rows), ("k", keys), ("v", keys)):
            assert where.any()
            assert not clean[name][where].any()
            np.testing.assert_array_equal(dirty[name], clean[name])

    def test_the_gradient_of_logsumexp_is_the_weights(self, pull: Any) -> None:
        of: Call = MASKED | {"bias": np.zeros(MASKED["allowed"].shape)}
        along = {name: np.full_like(x, name == "logsumexp") for name, x in formula(of).items()}
        close(pull(of, along)[1]["bias"], formula(of)["weights"])
