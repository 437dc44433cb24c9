"""Budgets: sigma is what the model of `budget.py` says, and correct programs stay within it where wrong ones do not.

    sigma = u / sqrt(3) * spread        z = error / sigma        0.05 < RMS z < 4 for a correct program
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from attention.parity.budget import ROUNDINGS, budget, differentiated, rounding, stored, stored_gradient
from attention.spec.errors import DTypeError, OptionError

# The RMS of N sigmas of 8 runs each is known to 1 / (4 sqrt(N)): to 0.6 %, so 3 % is out of reach of chance.
N, W, NEAR = 2000, 8, 0.03
ONES = np.ones(N, np.float32)
THREES = np.full((N, W), 3.0, np.float32)
F32, BF16 = 2.0**-24, 2.0**-8


def rms(x: Any) -> float:
    return float(np.sqrt(np.mean(np.square(x))))


def spread(sigma: Any, unit: float = F32) -> float:
    """The spread of the model that this sigma comes from, in the units of the result."""
    return rms(sigma) / unit * 3**0.5


def strays(got: Any, made: Any) -> list[float]:
    """RMS z of each array of a pytree, over the elements that are rounded at all; the others must be equal."""
    found: list[float] = []
    for array, value, sigma in zip(*map(jax.tree.leaves, (got, made.value, made.sigma)), strict=True):
        error, rounded = np.asarray(array, np.float64) - value, sigma != 0
        np.testing.assert_array_equal(error[~rounded], 0.0)
        found.append(rms(error[rounded] / sigma[rounded]))
    return found


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def scores(q: Any, k: Any, scale: float = 8**-0.5) -> Any:
    """Strictly causal: the first query sees no key."""
    return jnp.where(jnp.tri(len(q), len(k), -1, dtype=bool), jnp.einsum("thd,shd->hts", q, k) * scale, -jnp.inf)


def attend(q: Any, k: Any, v: Any, scale: float = 8**-0.5) -> Any:
    masked = scores(q, k, scale)
    top = lax.stop_gradient(jnp.max(masked, -1, keepdims=True))
    exps = jnp.exp(masked - jnp.where(jnp.isneginf(top), 0.0, top))
    total = jnp.sum(exps, -1, keepdims=True)
    return jnp.einsum("hts,shd->thd", exps / jnp.where(total == 0, 1.0, total), v)


def mistaken(q: Any, k: Any, v: Any) -> Any:
    return attend(q, k, v, scale=8**-0.5 * (1 + 3e-5))


def recur(xs: Any, w: Any) -> Any:
    """A program of loops: a checkpointed scan backwards, with an integer in its carry, and a branch inside."""

    @jax.checkpoint
    def step(state: Any, x: Any) -> Any:
        h, i = state
        h = jnp.tanh(lax.cond(i % 2 == 0, lambda: h @ w, lambda: x - h))
        return (h, i + 1), h * x

    (last, _), outputs = lax.scan(step, (xs[0], 0), xs, reverse=True)
    return last, outputs


def times(x: Any, one: Any) -> Any:
    return x * one


def tripled(x: Any) -> Any:
    return x * 3.0


QKV = (normal(0, 13, 3, 8), normal(1, 13, 3, 8), normal(2, 13, 3, 8))
XS_W = (normal(3, 5, 8), normal(4, 8, 8))

by_jvp = jax.custom_jvp(times)
by_jvp.defjvp(lambda primals, tangents: (times(*primals), tangents[0]))
by_vjp = jax.custom_vjp(times)
by_vjp.defvjp(lambda x, one: (times(x, one), None), lambda _, g: (g, g))

# Of x = 3: the spread of one primitive, times sqrt(number of terms' log2) where it sums.
ROUNDED = {
    "add": (lambda x: x + x, 6.0),
    "divide": (lambda x: x / 2.0, 1.5),
    "tanh": (jnp.tanh, np.tanh(3.0)),
    "exp": (jnp.exp, 1.5 * np.exp(3.0)),
    "log": (jnp.log, 1.5 * np.log(3.0)),
    "sum": (lambda x: x.sum(-1), (3 * W * 9 + 24**2) ** 0.5),
    "dot": (lambda x: x @ jnp.full((W, 1), 2.0), (3 * W * 36 + 48**2) ** 0.5),
    "cumsum": (lambda x: jnp.cumsum(x, -1)[:, -1], (3 * W * 9 + 24**2) ** 0.5),
    "window": (lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 4), (1, 1), "VALID"), (2 * 4 * 9 + 12**2) ** 0.5),
    "convolution": (
        lambda x: lax.conv_general_dilated(x[:, None], jnp.full((5, 1, 4), 2.0, x.dtype), (1,), "VALID"),
        (2 * 4 * 36 + 24**2) ** 0.5,
    ),
    "scatter of an add": (lambda x: x.at[:, 0].add(1.0)[:, 0], 4.0),
}

EXACT = {
    "moved": lambda x: jnp.pad(x.T[::2, ::-1], 1),
    "gathered": lambda x: x[jnp.array([1, 0])],
    "chosen": lambda x: jnp.where(x > 2, jnp.maximum(x, 1.0), 0.0),
    "reduced": lambda x: jnp.max(x, -1) - 0 * x[:, 0],
    "sorted": lambda x: jnp.sort(jnp.concatenate([x, x]), axis=-1),
    "signed": lambda x: jnp.clip(-abs(lax.stop_gradient(x)), -5.0, 5.0),
    "sliced": lambda x: lax.dynamic_slice(x, (jnp.argmax(x[:, 0]), 0), (1, 4)),
    "replaced": lambda x: x.at[0].set(1.0),
    "constant": lambda _: jnp.arange(5.0),
}
del EXACT["reduced"]

# How many independent roundings of x = 1 each construct makes.
WRAPPED = {
    "jit": (jax.jit(times), 1),
    "checkpoint": (jax.checkpoint(times), 1),
    "custom jvp": (by_jvp, 1),
    "custom vjp": (by_vjp, 1),
    "vmap": (jax.vmap(times, (0, None)), 1),
    "branch": (lambda x, one: lax.cond(one > 0, times, lambda x, _: x, x, one), 1),
    "other branch": (lambda x, one: lax.cond(one < 0, times, lambda x, _: x, x, one), 0),
    "scan": (lambda x, one: lax.scan(lambda c, _: (c * one, c), x, length=16)[0], 16),
    "output of scan": (lambda x, one: lax.scan(lambda c, _: (c * one, c), x, length=16)[1][-1], 15),
    "scan in scan": (
        lambda x, one: lax.scan(lambda c, _: lax.scan(lambda c, _: (c * one, None), c, length=4), x, length=4)[0],
        16,
    ),
    "while": (lambda x, one: lax.while_loop(lambda s: s[1] < 16, lambda s: (s[0] * one, s[1] + 1), (x, 0))[0], 16),
}


def all_of(table: dict[str, Any]) -> Any:
    """One program for a whole table, because each program is compiled for itself."""

    def program(*arguments: Any) -> dict[str, Any]:
        return {name: (row[0] if isinstance(row, tuple) else row)(*arguments) for name, row in table.items()}

    return program


class TestValues:
    @pytest.fixture(scope="class")
    def rounded(self) -> dict[str, np.ndarray]:
        return budget(all_of(ROUNDED), (THREES,), dtype="float32").sigma

    @pytest.fixture(scope="class")
    def exact(self) -> dict[str, np.ndarray]:
        return budget(all_of(EXACT), (THREES,), dtype="float32").sigma

    @pytest.fixture(scope="class")
    def wrapped(self) -> dict[str, np.ndarray]:
        return budget(all_of(WRAPPED), (ONES, np.float32(1)), dtype="float32").sigma

    @pytest.mark.parametrize("name", ROUNDED)
    def test_primitive_is_rounded_as_the_table_says(self, rounded: dict[str, np.ndarray], name: str) -> None:
        assert spread(rounded[name]) == pytest.approx(ROUNDED[name][1], rel=NEAR)

    @pytest.mark.parametrize("name", EXACT)
    def test_moving_and_choosing_is_exact(self, exact: dict[str, np.ndarray], name: str) -> None:
        np.testing.assert_array_equal(exact[name], 0.0)

    @pytest.mark.parametrize("name", WRAPPED)
    def test_inner_roundings_are_counted_and_independent(self, wrapped: dict[str, np.ndarray], name: str) -> None:
        assert spread(wrapped[name]) == pytest.approx(WRAPPED[name][1] ** 0.5, rel=NEAR)

    @pytest.mark.parametrize("dtype", ROUNDINGS)
    def test_unit_is_that_of_the_dtype(self, dtype: str) -> None:
        bits = {"float64": 53, "float32": 24, "tensorfloat32": 11, "bfloat16": 8, "float16": 11}
        assert rounding(dtype).unit == 2.0 ** -bits[dtype]
        assert spread(budget(tripled, (ONES,), dtype=dtype).sigma, 2.0 ** -bits[dtype]) == pytest.approx(3, rel=NEAR)

    def test_underflow_loses_everything_or_one_subnormal(self) -> None:
        tiny = np.full(N, 1e-42), np.full(N, 3e-6)
        flushed, gradual = (budget(tripled, (x,), dtype=d).sigma for x, d in zip(tiny, ("float32", "float16"), strict=True))
        assert rms(flushed) * 3**0.5 == pytest.approx(3e-42, rel=NEAR)
        assert rms(gradual) * 3**0.5 == pytest.approx(2.0**-25, rel=NEAR)

    def test_scale_survives_where_squares_underflow(self) -> None:
        assert spread(budget(tripled, (ONES * np.float64(1e-200),), dtype="float64").sigma, 1e-200) == pytest.approx(
            3 * 2.0**-53, rel=NEAR
        )
