"""Budgets: sigma is what the model of `error_budget.py` says, and correct programs stay within it where wrong ones do not.

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

from attention.parity.numerics import error_budget
from attention.parity.numerics.comparison import judge
from attention.parity.numerics.dtype_rounding import ROUNDINGS, rounding, stored, stored_gradient
from attention.parity.numerics.error_budget import budget, differentiated
from attention.spec.errors import DTypeError, OptionError

# The RMS of N sigmas of 8 runs each is known to 1 / (4 sqrt(N)): to 0.6 %, so 3 % is out of reach of chance.
N, W, NEAR = 2000, 8, 0.03
ONES = np.ones(N, np.float32)
THREES = np.full((N, W), 3.0, np.float32)
F32, BF16 = 2.0**-24, 2.0**-8


def rms(x: Any) -> float:
    return float(np.hypot.reduce(np.ravel(x)) / np.size(x) ** 0.5)


def near(wanted: Any, rel: float = NEAR) -> Any:
    return pytest.approx(wanted, rel=rel, abs=0)


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


def in_float32(program: Any, arguments: tuple[Any, ...], cotangents: Any) -> Any:
    return jax.jit(differentiated(program))(arguments, cotangents)


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


def narrow(x: Any) -> tuple[Any, Any]:
    return x.astype(jnp.bfloat16), x.astype(jnp.bfloat16)


def twice(x: Any, one: Any) -> Any:
    return x * one * one


def tripled(x: Any) -> Any:
    return x * 3.0


QKV = (normal(0, 13, 3, 8), normal(1, 13, 3, 8), normal(2, 13, 3, 8))
D_OUTPUT = normal(9, 13, 3, 8)
XS_W = (normal(3, 5, 8), normal(4, 8, 8))

by_jvp = jax.custom_jvp(twice)
_ = by_jvp.defjvp(lambda primals, tangents: (twice(*primals), tangents[0]))
by_vjp = jax.custom_vjp(twice)
_ = by_vjp.defvjp(lambda x, one: (twice(x, one), None), lambda _, g: (g, g))

# Each primitive at x = 3, and its spread in units of u.
ROUNDED = {
    "add": (lambda x: x + x, 6.0),
    "divide": (lambda x: x / 2.0, 1.5),
    "tanh": (jnp.tanh, 2.4 * np.tanh(3.0)),
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
    "extreme": lambda x: jnp.max(x, -1),
    "sorted": lambda x: jnp.sort(jnp.concatenate([x, x]), axis=-1),
    "signed": lambda x: jnp.clip(-abs(lax.stop_gradient(x)), -5.0, 5.0),
    "sliced": lambda x: lax.dynamic_slice(x, (jnp.argmax(x[:, 0]), 0), (1, 4)),
    "replaced": lambda x: x.at[0].set(1.0),
    "constant": lambda _: jnp.arange(5.0),
}


def branch(x: Any, one: Any) -> Any:
    return lax.cond(one > 0, times, lambda x, _: x, x, one)


def loop(x: Any, one: Any, turns: int = 16) -> Any:
    return lax.while_loop(lambda s: s[1] < turns, lambda s: (s[0] * one, s[1] + 1), (x, 0))[0]


def scan(x: Any, one: Any, turns: int = 16) -> Any:
    return lax.scan(lambda c, _: (c * one, c), x, length=turns)


# How many independent roundings of x = 1 each construct makes.
WRAPPED = {
    "jit": (jax.jit(twice), 2),
    "checkpoint": (jax.checkpoint(twice), 2),
    "custom jvp": (by_jvp, 2),
    "custom vjp": (by_vjp, 2),
    "vmap": (jax.vmap(twice, (0, None)), 2),
    "branch": (branch, 1),
    "other branch": (lambda x, one: branch(x, -one), 0),
    "while": (loop, 16),
    "scan": (lambda x, one: scan(x, one)[0], 16),
    "output of scan": (lambda x, one: scan(x, one)[1][-1], 15),
    "scan in scan": (lambda x, one: lax.scan(lambda c, _: (scan(c, one, 4)[0], None), x, length=4)[0], 16),
    "one after another": (
        lambda x, one: scan(scan(loop(loop(branch(branch(x, one), one), one, 1), one, 1), one, 1)[0], one, 1)[0],
        6,
    ),
}


LAWS = {"sum": lambda x, xp: xp.sum(x, -1), "matmul": lambda x, _: x @ x.T, "exp": lambda x, xp: xp.exp(x / 9)}


def laws(x: Any) -> dict[str, Any]:
    return {name: program(x, jnp) for name, program in LAWS.items()}


def all_of(table: dict[str, Any]) -> Any:
    """One program for a whole table, because each program is compiled for itself."""

    def program(*arguments: Any) -> dict[str, Any]:
        return {name: (row[0] if isinstance(row, tuple) else row)(*arguments) for name, row in table.items()}

    return program


@pytest.fixture(scope="module")
def rounded() -> dict[str, np.ndarray]:
    return budget(all_of(ROUNDED), (THREES,), dtype="float32").sigma


@pytest.fixture(scope="module")
def exact() -> dict[str, np.ndarray]:
    return budget(all_of(EXACT), (THREES,), dtype="float32").sigma


@pytest.fixture(scope="module")
def wrapped() -> dict[str, np.ndarray]:
    return budget(all_of(WRAPPED), (ONES, np.float32(1)), dtype="float32").sigma


@pytest.fixture(scope="module")
def attention() -> Any:
    return budget(differentiated(attend), (QKV, D_OUTPUT), dtype="float32")


class TestValues:
    @pytest.mark.parametrize("name", ROUNDED)
    def test_primitive_is_rounded_as_the_table_says(self, rounded: dict[str, np.ndarray], name: str) -> None:
        assert spread(rounded[name]) == near(ROUNDED[name][1])

    @pytest.mark.parametrize("name", EXACT)
    def test_moving_and_choosing_is_exact(self, exact: dict[str, np.ndarray], name: str) -> None:
        np.testing.assert_array_equal(exact[name], 0.0)

    @pytest.mark.parametrize("name", WRAPPED)
    def test_inner_roundings_are_counted_and_independent(self, wrapped: dict[str, np.ndarray], name: str) -> None:
        assert spread(wrapped[name]) == near(WRAPPED[name][1] ** 0.5)

    @pytest.mark.parametrize("dtype", ROUNDINGS)
    def test_unit_is_that_of_the_dtype(self, dtype: str) -> None:
        bits = {"float64": 53, "float32": 24, "tensorfloat32": 11, "bfloat16": 8, "float16": 11}
        # Noise of float64 is itself rounded to float64.
        rel = 0.2 if dtype == "float64" else NEAR
        assert rounding(dtype).unit == 2.0 ** -bits[dtype]
        assert spread(budget(tripled, (ONES,), dtype=dtype).sigma, 2.0 ** -bits[dtype]) == near(3, rel)

    def test_underflow_may_lose_a_float32_but_half_a_subnormal_of_float16(self) -> None:
        float32 = budget(tripled, (np.full(N, 1e-42),), dtype="float32").sigma
        float16 = budget(tripled, (np.full(N, 3e-6),), dtype="float16").sigma
        assert spread(float32, unit=1.0) == near(3e-42)
        assert spread(float16, unit=1.0) == near(2.0**-25)

    def test_sigma_outlives_its_square(self) -> None:
        made = budget(tripled, (np.full(N, 1e-200),), dtype="float32")
        assert spread(made.sigma, unit=1.0) == near(3e-200)

    def test_lucky_element_shares_the_spread_of_its_row(self) -> None:
        sigma = budget(tripled, (ONES,), dtype="float32", runs=1).sigma
        assert sigma.min() / rms(sigma) == near(0.3)

    def test_of_a_million_elements_the_luckiest_condemns_no_program_whose_errors_are_three_times_the_budget(self) -> None:
        # As those of a correct Llama of 134 M parameters in float32 are: RMS z 2.93; one of its logits stood at 34.
        rng = np.random.default_rng(0)
        value = np.zeros((32, 2**14))
        sigma = error_budget.spread(value, *rng.normal(size=(8, *value.shape)))
        assert judge("logits", 2.9 * rng.normal(size=value.shape), value, sigma).worst < 25

    def test_stored_rounds_as_storage_both_ways(self) -> None:
        program = differentiated(lambda x, given: (stored(x), stored_gradient(given)))
        made = budget(program, ((ONES, ONES), (ONES, ONES)), dtype="float32", storage="bfloat16")
        (output, given), (d_x, d_given) = made.sigma
        assert [spread(sigma, BF16) for sigma in (output, d_x, d_given)] == near([1, 1, 1])
        np.testing.assert_array_equal(given, 0.0)

    def test_stored_rounds_as_the_compute_dtype_unless_told(self) -> None:
        assert spread(budget(stored, (ONES,), dtype="float32").sigma) == near(1)

    def test_narrowing_inside_the_program_costs_the_oracle_nothing(self) -> None:
        third = np.full((1, 1, 1), 1 / 3)
        for product in (jnp.matmul, lambda x, y, **options: lax.conv_general_dilated(x, y, (1,), "VALID", **options)):
            made = budget(lambda x, f=product: f(*narrow(x), preferred_element_type=jnp.float32), (third,), dtype="float32")
            np.testing.assert_array_equal(made.value, third * third)


class TestLaws:
    @settings(max_examples=10)
    @given(seed=st.integers(0, 2**32 - 1), scale=st.floats(1e-3, 30.0))
    def test_correct_programs_stay_within_the_budget(self, seed: int, scale: float) -> None:
        x = normal(seed, 31, 97) * np.float32(scale)
        made = budget(laws, (x,), dtype="float32", seed=seed)
        for xp, array in ((np, x), (jnp, jnp.asarray(x))):
            found = strays({name: program(array, xp) for name, program in LAWS.items()}, made)
            assert all(0.05 < z < 4 for z in found), found

    def test_linear_noise_scales_with_the_unit(self) -> None:
        float32, bfloat16 = (budget(tripled, (ONES,), dtype=dtype).sigma for dtype in ("float32", "bfloat16"))
        np.testing.assert_allclose(bfloat16 / float32, 2.0**16, rtol=1e-6)

    def test_value_is_the_program_in_float64(self) -> None:
        with jax.enable_x64(True):
            wanted = recur(*(jnp.asarray(x, jnp.float64) for x in XS_W))
            made = budget(recur, XS_W, dtype="float64")
            assert max(strays(wanted, made)) < 4
        assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves((made.value, made.sigma)))

    def test_same_seed_same_budget(self) -> None:
        first, again, other = (budget(tripled, (ONES,), dtype="float32", seed=seed).sigma for seed in (5, 5, 6))
        np.testing.assert_array_equal(first, again)
        assert np.mean(first != other) > 0.99

    def test_every_dtype_seed_and_equal_program_shares_one_compilation(self) -> None:
        traces: list[int] = []

        def program(x: Any) -> Any:
            traces.append(len(x))
            return jnp.sin(x)

        for dtype, seed in (("float32", 0), ("bfloat16", 0), ("float16", 1)):
            _ = budget(differentiated(program), ((ONES[:5],), ONES[:5]), dtype=dtype, storage="float16", seed=seed, runs=3)
        assert traces == [5]
        _ = budget(differentiated(program), ((ONES[:6],), ONES[:6]), dtype="float32")
        assert traces == [5, 6]

    def test_masked_score_is_minus_inf_without_a_budget(self) -> None:
        made = budget(scores, QKV[:2], dtype="float32")
        np.testing.assert_array_equal(np.isneginf(made.value[0]), np.triu(np.ones((13, 13), bool)))
        np.testing.assert_array_equal(made.sigma[:, 0], 0.0)
        assert np.isfinite(made.sigma).all()

    def test_lost_run_leaves_no_budget(self) -> None:
        sigma = budget(lambda x: jnp.sqrt(x * 3 - 3), (ONES,), dtype="float32").sigma
        assert np.isnan(sigma).all()

    def test_x64_stays_off_outside(self) -> None:
        _ = budget(tripled, (ONES,), dtype="float32")
        assert jnp.ones(1).dtype == jnp.float32


class TestGradients:
    def test_correct_attention_stays_within_the_budget(self, attention: Any) -> None:
        found = strays(in_float32(attend, QKV, D_OUTPUT), attention)
        assert len(found) == 4
        assert all(0.05 < z < 4 for z in found), found

    def test_scale_wrong_by_three_in_a_hundred_thousand_does_not(self, attention: Any) -> None:
        assert min(strays(in_float32(mistaken, QKV, D_OUTPUT), attention)) > 4

    def test_empty_row_is_exactly_zero(self, attention: Any) -> None:
        output, (d_query, d_key, d_value) = attention.sigma
        for sigma in (output[0], d_query[0], d_key[-1], d_value[-1]):
            np.testing.assert_array_equal(sigma, 0.0)
        assert (output[1:] > 0).all()

    def test_loops_and_recomputation_stay_within_the_budget(self) -> None:
        cotangents = normal(5, 8), normal(6, 5, 8)
        made = budget(differentiated(recur), (XS_W, cotangents), dtype="float32")
        found = strays(in_float32(recur, XS_W, cotangents), made)
        assert len(found) == 4
        assert all(0.05 < z < 4 for z in found), found

    def test_integers_are_constants(self) -> None:
        table, rows = {"rows": normal(0, 5, 3)}, np.array([4, 0])
        made = budget(differentiated(lambda t, i: t["rows"][i] * 3), ((table, rows), np.ones((2, 3))), dtype="float32")
        outputs, (d_table, d_rows) = made.value
        np.testing.assert_array_equal(outputs, table["rows"][rows].astype(np.float64) * 3)
        np.testing.assert_array_equal(d_table["rows"][:, 0], [3, 0, 0, 0, 3])
        assert d_rows is None

    @pytest.mark.parametrize("mark", [stored, stored_gradient])
    def test_marks_are_the_identity_outside_a_budget(self, mark: Any) -> None:
        x = normal(0, 4, 3)
        for program in (mark, jax.jit(mark), jax.vmap(mark), jax.vmap(jax.jit(mark), 1, 1)):
            np.testing.assert_array_equal(program(x), x)
        np.testing.assert_array_equal(jax.jacobian(mark)(x[0]), np.eye(3))
        assert jax.grad(jax.grad(lambda x: mark(x) ** 3))(2.0) == 12.0


class TestRefusals:
    NAMES = "float64, float32, tensorfloat32, bfloat16, float16"

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"dtype": "int8"}, DTypeError, f"dtype 'int8' must be one of {NAMES}"),
            ({"storage": "int8"}, DTypeError, f"dtype 'int8' must be one of {NAMES}"),
            (
                {"arguments": (np.array(["a"]),)},
                DTypeError,
                "arguments <U1 must be numbers, bools or random keys",
            ),
            ({"arguments": ONES}, OptionError, "arguments ndarray must be a tuple"),
            ({"runs": 0}, OptionError, "runs 0 must be an int >= 1"),
            ({"seed": -1}, OptionError, "seed -1 must be an int >= 0"),
            ({"seed": 0.5}, OptionError, "seed 0.5 must be an int >= 0"),
        ],
    )
    def test_bad_input_is_named(self, options: dict[str, Any], error: type[Exception], message: str) -> None:
        with pytest.raises(error) as caught:
            _ = budget(tripled, **({"arguments": (ONES,), "dtype": "float32"} | options))
        assert caught.type is error
        assert str(caught.value) == message
