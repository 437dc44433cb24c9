"""Rotary positions: a rotation by p * base^(-2i / R) radians, so that a score depends on distances alone.

(rotate(x, p))_i = x_i e^(i p f_i)        pairs of features read as complex numbers
rotate(q, p) . rotate(k, r) = rotate(q, p + n) . rotate(k, r + n)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attention.jax_impl import positions as jax_positions
from attention.spec.axes import Sizes
from attention.spec.errors import OptionError, PositionError, ShapeError
from attention.spec.positions import STYLES, Rotary, check_positions
from attention.torch_impl import positions as torch_positions

UNIT = 2.0**-53
SINGLE = 2.0**-24
styles = st.sampled_from(STYLES)
positions = st.integers(0, 2**25)  # from 2^24 on, float32 does not hold every position
CALL = Sizes((2,), 3, 5, 4, 2, 6, 6)


@st.composite
def rotaries(draw: st.DrawFn) -> tuple[Rotary, int]:
    """A rotary and the width of a head, wider than what rotates or not."""
    rotated, more = 2 * draw(st.integers(1, 4)), draw(st.integers(0, 3))
    given_dim = rotated if more else draw(st.sampled_from([None, rotated]))
    base = draw(st.sampled_from([10_000.0, 500.0, 1.5]))
    return Rotary(base=base, style=draw(styles), rotary_dim=given_dim), rotated + more


def rotate(rotary: Rotary, x: np.ndarray, where: Any) -> np.ndarray:
    """Heads `(..., D)` at one position, in float64."""
    cos, sin = rotary.tables(np.asarray(where), x.shape[-1])
    return rotary.rotate(np, x[None, None], cos[None], sin[None])[0, 0]


def head(width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, width)


class TestLaws:
    @given(rotaries(), positions, st.integers(0, 99))
    def test_a_pair_is_a_complex_number_that_turns(self, drawn: tuple[Rotary, int], p: int, seed: int) -> None:
        # Su et al., arXiv:2104.09864, equation 13: f(x, m) = W x e^(i m theta).
        rotary, width = drawn
        rotated, x = rotary.rotary_dim or width, head(width, seed)
        half = rotated // 2
        pairs = [(i, i + half) if rotary.style == "half" else (2 * i, 2 * i + 1) for i in range(half)]
        wanted = x.copy()
        for i, (a, b) in enumerate(pairs):
            # In Python's own arithmetic; the base to a power first, the position last, as one would by hand.
            turned = complex(x[a], x[b]) * np.exp(1j * (p * rotary.base ** (-2 * i / rotated)))
            wanted[a], wanted[b] = turned.real, turned.imag
        # The power is good to two units and the product to half of one, which p then multiplies.
        np.testing.assert_allclose(rotate(rotary, x, p), wanted, rtol=0, atol=8 * UNIT * (1 + p))
        np.testing.assert_array_equal(rotate(rotary, x, p)[rotated:], x[rotated:])

    @given(rotaries(), st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 1000))
    def test_a_score_knows_only_the_distance(self, drawn: tuple[Rotary, int], p: int, r: int, n: int) -> None:
        rotary, width = drawn
        q, k = head(width, 1), head(width, 2)
        near, far = (rotate(rotary, q, p + m) @ rotate(rotary, k, r + m) for m in (0, n))
        assert abs(near - far) <= 8 * UNIT * width * (1 + p + r + 2 * n)

    @given(rotaries(), positions)
    def test_lengths_are_kept(self, drawn: tuple[Rotary, int], p: int) -> None:
        rotary, width = drawn
        x = head(width)
        assert abs(np.linalg.norm(rotate(rotary, x, p)) - np.linalg.norm(x)) <= 8 * UNIT * width

    @given(rotaries(), positions)
    def test_the_styles_differ_by_the_order_of_features_alone(self, drawn: tuple[Rotary, int], p: int) -> None:
        rotary, width = drawn
        rotated, x = rotary.rotary_dim or width, head(width)
        order = np.r_[0:rotated:2, 1:rotated:2, rotated:width]
        half, pairs = (Rotary(rotary.base, style, rotary.rotary_dim) for style in STYLES)
        np.testing.assert_array_equal(rotate(half, x[order], p), rotate(pairs, x, p)[order])

    @given(rotaries())
    def test_position_zero_stays(self, drawn: tuple[Rotary, int]) -> None:
        rotary, width = drawn
        np.testing.assert_array_equal(rotate(rotary, head(width), 0), head(width))


ROTARY = Rotary(style="interleaved", rotary_dim=4)
WHERE = np.array([[0, 1, 8190, 131_071, 2**24 + 1], [7, 6, 5, 4, 3]])


def torch_rotate(rotary: Rotary | None, x: np.ndarray, where: Any = None) -> np.ndarray:
    return torch_positions.rotate(rotary, torch.from_numpy(x), where).numpy()


def jax_rotate(rotary: Rotary | None, x: np.ndarray, where: Any = None) -> np.ndarray:
    with jax.enable_x64(x.dtype == np.float64):
        return np.asarray(jax_positions.rotate(rotary, jnp.asarray(x), where))


@pytest.mark.parametrize("backend", [torch_rotate, jax_rotate])
class TestBackends:
    x = np.random.default_rng(3).uniform(-1, 1, (2, 5, 3, 6))

    @pytest.mark.parametrize("rotary", [ROTARY, Rotary(style="half")], ids=["interleaved", "half"])
    def test_float64_is_the_formula(self, backend: Callable[..., np.ndarray], rotary: Rotary) -> None:
        cos, sin = rotary.tables(WHERE, 6)
        got = backend(rotary, self.x, WHERE)
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, rotary.rotate(np, self.x, cos, sin), rtol=0, atol=8 * UNIT * WHERE.max())

    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    def test_angles_are_float64_even_for_far_positions(self, backend: Callable[..., np.ndarray], dtype: str) -> None:
        # In float32, the angle of position 2^24 + 1 would be off by a radian.
        x = self.x.astype(dtype)
        wanted = ROTARY.rotate(np, x.astype(np.float64), *ROTARY.tables(WHERE, 6))
        got = backend(ROTARY, x, WHERE)
        assert got.dtype == dtype
        # Cosine and sine rounded, two products and a sum of numbers below 1; then the result in its own dtype.
        stored = np.abs(wanted) * float(np.finfo(dtype).eps) / 2 if dtype == "float16" else 0
        assert (np.abs(got - wanted) <= 6 * SINGLE + stored).all()

    def test_no_positions_count_from_zero(self, backend: Callable[..., np.ndarray]) -> None:
        np.testing.assert_array_equal(backend(ROTARY, self.x), backend(ROTARY, self.x, np.arange(5)))

    def test_no_rotary_changes_nothing(self, backend: Callable[..., np.ndarray]) -> None:
        np.testing.assert_array_equal(backend(None, self.x), self.x)


class TestValues:
    def test_frequencies(self) -> None:
        # base^(-2i/R): Su et al., section 3.2.2, theta_i = 10000^(-2(i - 1)/d).
        assert Rotary().frequencies(4).tolist() == [1.0, 0.01]
        assert Rotary(base=16.0).frequencies(8).tolist() == [1.0, 0.5, 0.25, 0.125]
        assert Rotary(base=16.0, rotary_dim=4).frequencies(8).tolist() == [1.0, 0.25]

    def test_a_quarter_turn(self) -> None:
        # No position is at a quarter turn exactly, but a table may be.
        cos, sin, x = np.zeros((1, 2)), np.ones((1, 2)), np.array([[[1.0, 2.0, 3.0, 4.0, 5.0]]])
        assert Rotary(style="half").rotate(np, x, cos, sin).tolist() == [[[-3, -4, 1, 2, 5]]]
        assert Rotary(style="interleaved").rotate(np, x, cos, sin).tolist() == [[[-2, 1, -4, 3, 5]]]

    def test_one_radian(self) -> None:
        turned = rotate(Rotary(), np.array([1.0, 0.0]), 1)
        np.testing.assert_allclose(turned, [math.cos(1), math.sin(1)], rtol=2 * UNIT)


class TestGradients:
    @pytest.mark.parametrize("style", STYLES)
    def test_the_gradient_turns_back(self, style: str) -> None:
        # A rotation is orthogonal: pulling back is rotating the other way.
        rotary, x, pull = Rotary(style=style, rotary_dim=4), TestBackends.x, np.flip(TestBackends.x)
        cos, sin = rotary.tables(WHERE, 6)
        wanted = rotary.rotate(np, pull, cos, -sin)
        leaf = torch.from_numpy(x).requires_grad_()
        _ = torch_positions.rotate(rotary, leaf, WHERE).backward(torch.from_numpy(pull.copy()))
        with jax.enable_x64(True):
            (slope,) = jax.vjp(lambda y: jax_positions.rotate(rotary, y, WHERE), jnp.asarray(x))[1](jnp.asarray(pull))
        assert leaf.grad is not None
        for got in (leaf.grad.numpy(), np.asarray(slope)):
            np.testing.assert_allclose(got, wanted, rtol=0, atol=8 * UNIT * WHERE.max())


class TestRefusals:
    @pytest.mark.parametrize(
        ("make", "text"),
        [
            (lambda: Rotary(style="gptj"), "Rotary style 'gptj' must be one of 'half', 'interleaved'"),
            (lambda: Rotary(base=1.0), r"Rotary base 1\.0 must be a finite number above 1"),
            (lambda: Rotary(base=math.nan), "Rotary base nan must be a finite number above 1"),
            (lambda: Rotary(base=math.inf), "Rotary base inf must be a finite number above 1"),
            (lambda: Rotary(rotary_dim=3), "Rotary rotary_dim 3 must be an even number >= 2, or None"),
            (lambda: Rotary(rotary_dim=0), "Rotary rotary_dim 0 must be an even number >= 2"),
            (lambda: Rotary().width(7), "Rotary rotary_dim 7 must be even and at most head_dim = 7"),
            (lambda: Rotary(rotary_dim=8).width(6), "Rotary rotary_dim 8 must be even and at most head_dim = 6"),
        ],
    )
    def test_an_option_outside_its_range(self, make: Callable[[], object], text: str) -> None:
        with pytest.raises(OptionError, match=text, check=lambda caught: type(caught) is OptionError):
            _ = make()

    @pytest.mark.parametrize(
        ("query", "key", "error", "text"),
        [
            (
                None,
                np.arange(5),
                PositionError,
                "query_positions None must be given: T = 3 queries and S = 5 keys differ",
            ),
            (
                np.arange(3),
                None,
                PositionError,
                "key_positions None must be given: T = 3 queries and S = 5 keys differ",
            ),
            (np.arange(3.0), np.arange(5), PositionError, "query_positions float64 must be an array of integers"),
            (np.arange(3), np.arange(5) > 2, PositionError, "key_positions bool must be an array of integers"),
            (
                np.arange(5),
                np.arange(5),
                ShapeError,
                r"query_positions \(5,\) must broadcast to \(\*batch, T\) = \(2, 3\)",
            ),
            (
                np.arange(3),
                np.zeros((3, 5), int),
                ShapeError,
                r"key_positions \(3, 5\) must broadcast to \(\*batch, S\)",
            ),
        ],
    )
    def test_positions_that_do_not_fit(self, query: Any, key: Any, error: type[Exception], text: str) -> None:
        with pytest.raises(error, match=text, check=lambda caught: type(caught) is error):
            check_positions(query, key, CALL)

    @pytest.mark.parametrize(("query", "key"), [(np.arange(3) + 2, None), (None, np.arange(3))], ids=["key", "query"])
    def test_one_of_both_is_a_trap(self, query: Any, key: Any) -> None:
        # Left padding given for the queries alone would turn the keys as if there were none.
        absent, given = ("key", "query") if key is None else ("query", "key")
        with pytest.raises(PositionError, match=f"{absent}_positions None must be given as {given}_positions are"):
            check_positions(query, key, Sizes((2,), 3, 3, 4, 2, 6, 6))

    def test_positions_that_fit(self) -> None:
        check_positions(np.arange(3), np.zeros((2, 5), np.int32), CALL)
        check_positions(None, None, Sizes((2,), 3, 3, 4, 2, 6, 6))
        check_positions(torch.arange(3), jnp.arange(5), CALL)

    def test_positions_may_be_lists_or_are_refused_by_us(self) -> None:
        with pytest.raises(PositionError, match="query_positions list must be an array of integers"):
            check_positions([0, 1, 2], np.arange(5), CALL)

    @pytest.mark.parametrize("options", [{"base": "large"}, {"rotary_dim": "all"}, {"rotary_dim": 2.0}], ids=repr)
    def test_an_option_of_another_type(self, options: dict[str, Any]) -> None:
        with pytest.raises(OptionError, match=r"Rotary (base|rotary_dim) .* must be"):
            _ = Rotary(**options)
