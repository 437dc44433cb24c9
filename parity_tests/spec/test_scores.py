"""Scores: products with grouped heads, scale, soft cap, and learned scores.

    products[h, t, s] = q[t, h] . k[s, h // (H // K)]        softcap(x) = c tanh(x / c)
    cosine[h, t, s] = exp(log_scale[h]) cos(q[t, h], k[s, h])        additive[t, s] = v . tanh(q[t] + k[s])

Small integers are used wherever the answer is then exact in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attention.spec.errors import OptionError
from attention.spec.layers.alignment_scores import Additive, AlignmentScore, Concat, General, additive, learned
from attention.spec.params import init
from attention.spec.scores import Cosine, Dot, ScaledDot, check_cap, heads_first, mix, products, soft_cap

UNIT = 2.0**-53
"""Half the distance from 1 to the next float64; tanh is good to two of these."""
STEP = 1e-200
"""The step of a complex-step derivative, Im f(x + ih) / h: no difference is taken, so no digit is lost."""

sides = st.integers(1, 4)
caps = st.floats(0.1, 100)
# Of width 32, so that none is so near zero that float64 has too few digits left.
numbers = st.floats(-1000, 1000, width=32)


@st.composite
def heads(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q, k and v of small integers, with any batch axes and any group."""
    batch = tuple(draw(st.lists(sides, max_size=2)))
    t, s, kv, group, d, e = (draw(sides) for _ in range(6))
    random = np.random.default_rng(draw(st.integers(0, 99)))
    shapes = (*batch, t, kv * group, d), (*batch, s, kv, d), (*batch, s, kv, e)
    q, k, v = (random.integers(-9, 10, shape).astype(np.float64) for shape in shapes)
    return q, k, v


class TestLaws:
    @given(heads())
    def test_head_h_reads_key_head_h_over_group(self, arrays: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
        q, k, _ = arrays
        group, got = q.shape[-2] // k.shape[-2], products(np, q, k)
        assert got.shape == (*q.shape[:-3], q.shape[-2], q.shape[-3], k.shape[-3])
        for h, t, s in np.ndindex(got.shape[-3:]):
            np.testing.assert_array_equal(got[..., h, t, s], (q[..., t, h, :] * k[..., s, h // group, :]).sum(-1))

    @given(heads())
    def test_head_h_mixes_the_values_of_its_key_head(self, arrays: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
        q, k, v = arrays
        group, weights = q.shape[-2] // k.shape[-2], products(np, q, k)
        got = mix(np, weights, v)
        assert got.shape == (*q.shape[:-1], v.shape[-1])
        for t, h in np.ndindex(q.shape[-3:-1]):
            wanted = sum(weights[..., h, t, s, None] * v[..., s, h // group, :] for s in range(v.shape[-3]))
            np.testing.assert_array_equal(got[..., t, h, :], wanted)

    @given(heads())
    def test_exchanging_axes_twice_is_nothing(self, arrays: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
        q = arrays[0]
        assert heads_first(np, q).shape == (*q.shape[:-3], q.shape[-2], q.shape[-3], q.shape[-1])
        np.testing.assert_array_equal(heads_first(np, heads_first(np, q)), q)

    @given(numbers, caps)
    def test_a_capped_score_is_bounded_odd_and_never_further_from_zero(self, x: float, cap: float) -> None:
        capped = float(soft_cap(np, np.float64(x), cap))
        assert abs(capped) <= min(cap, abs(x)) * (1 + 4 * UNIT)
        assert float(soft_cap(np, np.float64(-x), cap)) == -capped
        assert np.sign(capped) == np.sign(x)

    @given(numbers, numbers, caps)
    def test_a_cap_keeps_the_order(self, x: float, y: float, cap: float) -> None:
        low, high = soft_cap(np, np.sort([x, y]), cap)
        assert low <= high

    @given(numbers)
    def test_a_cap_that_is_far_away_is_not_felt(self, x: float) -> None:
        # tanh u = u - u^3 / 3 + ..., and u = x / 1e12 is below 1e-9.
        assert abs(float(soft_cap(np, np.float64(x), 1e12)) - x) <= 4 * UNIT * abs(x)

    @given(heads())
    def test_a_cosine_does_not_feel_lengths_and_is_bounded_by_its_temperature(self, arrays: tuple[np.ndarray, ...]) -> None:
        q, k, _ = arrays
        weights = {"log_scale": np.linspace(-1.0, 2.0, q.shape[-2])}
        scores = products(np, *Cosine().prepare(np, weights, q, k))
        most = np.exp(weights["log_scale"])[:, None, None]
        assert (np.abs(scores) <= most * (1 + 8 * UNIT)).all()
        longer = products(np, *Cosine().prepare(np, weights, 4 * q, k / 2))
        np.testing.assert_array_equal(longer, scores)

    def test_a_temperature_stops_at_its_bound(self) -> None:
        q = np.array([[[3.0, 4.0]]])
        weights = {"log_scale": np.array([9.0])}
        bounded, free = (products(np, *Cosine(most=most).prepare(np, weights, q, q)) for most in (100.0, None))
        np.testing.assert_allclose(bounded, [[[100.0]]], rtol=8 * UNIT)
        np.testing.assert_allclose(free, [[[math.exp(9)]]], rtol=8 * UNIT)

    @pytest.mark.parametrize("score", [Dot(), ScaledDot(), Cosine(), General(), Additive(), Concat(3, bias=True)], ids=repr)
    def test_a_score_is_a_key_of_its_options(self, score: AlignmentScore) -> None:
        assert len({score, replace(score)}) == 1

    def test_no_cap_is_the_same_array(self) -> None:
        x = np.arange(3.0)
        assert soft_cap(np, x, None) is x


class TestValues:
    def test_factors(self) -> None:
        assert [ScaledDot().factor(width) for width in (1, 4, 64)] == [1.0, 0.5, 0.125]
        assert [ScaledDot(scale).factor(64) for scale in (0.3, 0.0, -2.0)] == [0.3, 0.0, -2.0]
        assert Dot().factor(64) == 1.0

    def test_a_score_of_one_cap_is_capped_at_tanh_1(self) -> None:
        # tanh 1 to 17 digits, DLMF 4.28.4 with e^2.
        assert float(soft_cap(np, np.float64(50.0), 50.0)) == pytest.approx(50 * 0.76159415595576489, rel=4 * UNIT, abs=0)

    def test_what_a_score_learns(self) -> None:
        shapes = {
            repr(score): {name: param.shape for name, param in learned(score, 2, 3).items()}
            for score in (
                Dot(),
                ScaledDot(),
                Cosine(),
                General(),
                Additive(5),
                Additive(bias=True),
                Concat(5),
                Concat(bias=True),
            )
        }
        bahdanau = {"score_q_proj.kernel": (2, 2), "score_k_proj.kernel": (3, 2), "score_q_proj.bias": (2,), "score_v": (2,)}
        assert list(shapes.values()) == [
            {},
            {},
            {"log_scale": (1,)},
            {"score_proj.kernel": (2, 3)},
            {"score_q_proj.kernel": (2, 5), "score_k_proj.kernel": (3, 5), "score_v": (5,)},
            bahdanau,
            {"score_proj.kernel": (5, 5), "score_v": (5,)},
            {"score_proj.kernel": (5, 2), "score_proj.bias": (2,), "score_v": (2,)},
        ]

    def test_first_values(self) -> None:
        # Glorot's bound for each matrix, v being one of a single column; a temperature of 10.
        first = init(learned(Additive(500, bias=True), 30, 20), seed=0)
        for name, fans in (("score_q_proj.kernel", 530), ("score_k_proj.kernel", 520), ("score_v", 501)):
            assert np.abs(first[name]).max() == pytest.approx(math.sqrt(6 / fans), rel=0.02)
        assert not first["score_q_proj.bias"].any()
        assert init(Cosine().params(2), seed=0)["log_scale"].tolist() == pytest.approx([math.log(10)] * 2)

    def test_additive_scores_by_hand(self) -> None:
        # tanh(log 2) = 3 / 5 and tanh(log 3) = 4 / 5.
        q, k = np.log([[2.0, 3.0], [1.0, 1.0]]), np.log([[1.0, 1.0], [1.0, 1 / 3], [1.5, 1.0]])
        wanted = [[3 * 3 / 5 + 4 / 5, 9 / 5, 3 * 4 / 5 + 4 / 5], [0, -4 / 5, 3 * 5 / 13]]
        np.testing.assert_allclose(additive(np, q, k, np.array([3.0, 1.0])), wanted, rtol=8 * UNIT, atol=8 * UNIT)

    def test_a_cosine_by_hand(self) -> None:
        q, k = np.array([[[3.0, 4.0]]]), np.array([[[1.0, 0.0]], [[0.0, -2.0]], [[0.0, 0.0]]])
        got = products(np, *Cosine().prepare(np, {"log_scale": np.log([5.0])}, q, k))
        np.testing.assert_allclose(got, [[[3.0, -4.0, 0.0]]], rtol=8 * UNIT)

    def test_two_query_heads_share_a_key_head(self) -> None:
        q = np.array([[[1.0], [10.0], [100.0], [1000.0]]])  # (T = 1, H = 4, D = 1)
        k = np.array([[[2.0], [3.0]], [[5.0], [7.0]]])  # (S = 2, K = 2, D = 1)
        assert products(np, q, k)[:, 0].tolist() == [[2, 5], [20, 50], [300, 700], [3000, 7000]]


class TestGradients:
    @given(numbers, caps)
    def test_the_slope_of_a_cap_is_one_minus_tanh_squared(self, x: float, cap: float) -> None:
        slope = soft_cap(np, np.complex128(complex(x, STEP)), cap).imag / STEP
        # The derivative of tanh at u amplifies the rounding of u by up to 2 |u|, and 1 - tanh^2 cancels near 1.
        assert abs(slope - (1 - math.tanh(x / cap) ** 2)) <= 8 * UNIT

    @given(heads())
    def test_products_are_linear_in_each_argument(self, arrays: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
        q, k, _ = arrays
        way = np.flip(q, axis=-3)
        np.testing.assert_array_equal(products(np, q + 3 * way, k), products(np, q, k) + 3 * products(np, way, k))
        np.testing.assert_array_equal(products(np, q, 2 * k), 2 * products(np, q, k))


class TestRefusals:
    @pytest.mark.parametrize(
        ("make", "text"),
        [
            (lambda: ScaledDot(math.inf), "scale inf must be a finite number in float32, or None for 1 / sqrt"),
            (lambda: ScaledDot(math.nan), "scale nan must be a finite number in float32"),
            (lambda: check_cap(0.0), r"softcap 0\.0 must be a positive finite number in float32, or None"),
            (lambda: check_cap(-50.0), r"softcap -50\.0 must be a positive finite number in float32"),
            (lambda: check_cap(math.inf), "softcap inf must be a positive finite number in float32"),
            (lambda: check_cap(math.nan), "softcap nan must be a positive finite number in float32"),
        ],
    )
    def test_an_option_outside_its_range(self, make: Callable[[], object], text: str) -> None:
        with pytest.raises(OptionError, match=text, check=lambda caught: type(caught) is OptionError):
            _ = make()

    @pytest.mark.parametrize(
        ("make", "text"),
        [
            (lambda: Additive(0), "Additive hidden 0 must be a positive int, or None"),
            (lambda: Concat(hidden=2.0), r"Concat hidden 2\.0 must be a positive int, or None"),  # type: ignore[arg-type]
            (lambda: Additive(chunk_size=True), "Additive chunk_size True must be a positive int, or None"),
            (lambda: Concat(chunk_size=-1), "Concat chunk_size -1 must be a positive int, or None"),
            (lambda: Additive(bias=1), "Additive bias 1 must be True or False"),  # type: ignore[arg-type]
            (lambda: Cosine(initial=0.0), r"Cosine initial 0\.0 must be a positive finite number"),
            (lambda: Cosine(most=math.inf), "Cosine most inf must be a positive finite number"),
            (lambda: Cosine(eps=-1.0), r"Cosine eps -1\.0 must be a positive finite number"),
        ],
    )
    def test_a_learned_score_that_cannot_be(self, make: Callable[[], object], text: str) -> None:
        with pytest.raises(OptionError, match=f"^{text}$", check=lambda caught: type(caught) is OptionError):
            _ = make()

    @pytest.mark.parametrize("make", [ScaledDot, check_cap])
    def test_an_option_that_is_no_number(self, make: Callable[[str], object]) -> None:
        with pytest.raises(OptionError, match="'half' must be a"):
            _ = make("half")
