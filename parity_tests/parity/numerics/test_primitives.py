"""Primitives: each rule of evaluation in NumPy makes what JAX makes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from attention.parity.numerics.jaxpr_interpreter import JaxprInterpreter

X = np.random.default_rng(0).normal(size=(3, 4))
WHOLE = np.array([7, -7, 5, 0, -(2**31), 2**31 - 1], np.int32)
OTHER = np.array([2, 2, 0, 3, 3, 2**31 - 1], np.int32)
BITS = np.array([1, 2**31, 2**32 - 1, 12345], np.uint32)
COUNTS = np.array([0, 1, 31, 40], np.uint32)

IMAGE = np.random.default_rng(1).normal(size=(2, 5, 6, 4))
KERNEL = np.random.default_rng(2).normal(size=(3, 2, 2, 6))
WIDE = np.random.default_rng(3).normal(size=(3, 2, 4, 3))


def _grouped(x: Any, w: Any) -> Any:
    return lax.conv_general_dilated(x, w, (2, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=2)


def _convolved(x: Any, w: Any) -> Any:
    return lax.conv_general_dilated(
        x, w, (1, 2), [(1, 2), (0, 1)], lhs_dilation=(2, 1), rhs_dilation=(1, 2), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _pooled(x: Any) -> Any:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 3, 1), (1, 2, 2, 1), "SAME")


def _averaged(x: Any) -> Any:
    return lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 1, 2, 1), "VALID")


PROGRAMS: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
    "pad": (lambda x: lax.pad(x, 2.0, [(1, 2, 1), (-1, 0, 0)]), (X,)),
    "cut": (lambda x: lax.pad(x, 2.0, [(-1, -1, 0), (0, -2, 2)]), (X,)),
    "stack": (lambda x: jnp.stack([x, 2 * x], axis=1), (X,)),
    "split": (lambda x: jnp.concatenate(jnp.split(x, [1, 3], axis=1)[::-1], axis=1), (X,)),
    "iota": (lambda x: x + lax.broadcasted_iota(float, x.shape, 1), (X,)),
    "rev": (lambda x: x[::-1], (X,)),
    "cumulated": (lambda x: (jnp.cumsum(x, 0), jnp.cumprod(x, 1), lax.cumsum(x, 1, reverse=True)), (X,)),
    "curves": (lambda x: (jax.nn.sigmoid(x), lax.erf(x), lax.erfc(x), lax.rsqrt(x * x), (x * x) ** 1.5), (X,)),
    "products": (lambda x: jnp.prod(x, axis=0), (X,)),
    "whole": (lambda x, y: (x + y, x - y, x * y, -x, abs(x), jnp.sign(x), jnp.maximum(x, y), x < y, x == y), (WHOLE, OTHER)),
    "division": (lambda x, y: (lax.div(x, y), lax.rem(x, y)), (WHOLE[:4], OTHER[:4])),
    "sums": (lambda x: (jnp.sum(x, dtype=np.int32), jnp.max(x), jnp.min(x), jnp.cumsum(x, dtype=np.int32)), (WHOLE,)),
    "bits": (lambda x, y: (x & y, x | y, x ^ y, ~x, x + y, x * y), (BITS, BITS[::-1].copy())),
    "ordered": (lambda x: (jnp.ravel(x, order="F"), lax.reshape(x, (2, 6), dimensions=(1, 0)), x.reshape(-1)), (X,)),
    "grouped": (jax.grad(lambda *a: jnp.sin(_grouped(*a)).sum(), (0, 1)), (IMAGE, KERNEL)),
    "convolved": (lambda x, w: (_convolved(x, w), jax.grad(lambda *a: jnp.sin(_convolved(*a)).sum())(x, w)), (IMAGE, WIDE)),
    "pooled": (lambda x: (jax.grad(lambda a: jnp.sin(_pooled(a)).sum())(x), _averaged(x)), (IMAGE,)),
    "ranked": (
        lambda x: (jnp.sort(x, 0), jnp.argsort(x, 1), lax.top_k(x, 2), jnp.argmax(x, 0), lax.cummax(x, 1, reverse=True)),
        (X,),
    ),
    "taken": (
        lambda x: (x[:, jnp.array([2, 0])], x.at[1].add(3.0), x.at[:, 2].mul(2.0), x.at[jnp.array([0, 0])].max(1.0)),
        (X,),
    ),
    "dynamic": (
        lambda x: (lax.dynamic_slice(x, (1, 9), (2, 2)), lax.dynamic_update_slice(x, x[:1], (2, 0)), jnp.roll(x, 1, 1)),
        (X,),
    ),
    "batched": (lambda x: (jnp.einsum("ij,kj->jik", x, x), jnp.tensordot(x, x, ((0,), (0,))), jnp.tril(x)), (X,)),
    "logarithmic": (lambda x: (lax.cumlogsumexp(x, 1, reverse=True), jax.nn.logsumexp(x, 0), jnp.logaddexp(x, -x)), (X,)),
    "shifts": (lambda x, y: (lax.shift_left(x, y), lax.shift_right_logical(x, y)), (BITS, COUNTS)),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_numpy_makes_what_jax_makes(name: str) -> None:
    program, given = PROGRAMS[name]
    with jax.enable_x64(True), np.errstate(all="ignore"):
        wanted = jax.tree.leaves(jax.jit(program)(*given))
        got = JaxprInterpreter().run(jax.make_jaxpr(program)(*given), list(given))
        for x, y in zip(got, wanted, strict=True):
            assert (x.dtype, x.shape) == (y.dtype, y.shape)
            np.testing.assert_allclose(x, np.asarray(y), rtol=1e-14, atol=1e-15)
