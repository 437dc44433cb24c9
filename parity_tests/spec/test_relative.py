"""Score biases: what is added to a score for the distance of query and key.

Alibi -slope_h |t - s|        RelativeBias b[bucket(s - t), h]        RelativeKeys scale q[t] . a[clip(s - t, -k, k) + k]
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
import torch
from transformers.models.t5.modeling_t5 import T5Attention

from attention.spec.axes import Sizes
from attention.spec.errors import OptionError, PositionError
from attention.spec.params import init
from attention.spec.positions import Alibi, RelativeBias, RelativeKeys, ScoreBias
from parity_tests.support.backends import TORCH, Backend, each_backend, wide

UNIT = 2.0**-53
SINGLE = 2.0**-24
B, T, S, H, D = 2, 5, 7, 3, 4
SCALE = 0.3
t5_bucket = T5Attention._relative_position_bucket  # noqa: SLF001 - transformers has no public name for it
CALL = Sizes((B,), T, S, H, H, D, D)
Q = np.random.default_rng(7).uniform(-1, 1, (B, T, H, D))
# Both directions, equal positions and far ones; each row of the batch its own.
TO = np.array([[3, 0, 90, 4, 4], [0, 1, 2, 3, 150]])
FROM = np.array([0, 1, 2, 3, 4, 60, 200])
KINDS: list[ScoreBias] = [
    Alibi(),
    Alibi(slopes=(0.5, 0.0, 2.0)),
    RelativeBias(),
    RelativeBias(8, 20, bidirectional=False),
    RelativeKeys(3),
]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=repr)


def learned(kind: ScoreBias, seed: int = 1) -> dict[str, np.ndarray]:
    numbers = np.random.default_rng(seed)
    return {name: numbers.standard_normal(param.shape) for name, param in kind.params(H, D).items()}


def by_hand(kind: ScoreBias, weights: dict[str, np.ndarray], q: np.ndarray, to: np.ndarray, froms: np.ndarray) -> np.ndarray:
    """The formulas, one element at a time."""
    to, froms = (np.broadcast_to(x, (B, x.shape[-1])) for x in (to, froms))
    out = np.empty((B, H, to.shape[-1], froms.shape[-1]))
    for b, h, t, s in np.ndindex(out.shape):
        away = int(froms[b, s]) - int(to[b, t])
        if isinstance(kind, Alibi):
            out[b, h, t, s] = -abs(away) * kind.rates(H)[h]
        elif isinstance(kind, RelativeBias):
            options = (kind.bidirectional, kind.num_buckets, kind.max_distance)
            bucket = t5_bucket(torch.tensor(away), *options)
            out[b, h, t, s] = weights["relative_bias"][int(bucket), h]
        else:
            k = kind.max_distance
            out[b, h, t, s] = SCALE * (q[b, t, h] @ weights["relative_keys"][min(max(away, -k), k) + k])
    return out


def bias(
    backend: Backend, kind: ScoreBias, weights: dict[str, np.ndarray], q: np.ndarray, *where: Any, sizes: Sizes = CALL
) -> Any:
    module = importlib.import_module(f"{backend.module.__name__}.positions")
    with wide(q):
        native = {name: backend.array(x) for name, x in weights.items()}
        return backend.numpy(module.bias(kind, native, backend.array(q), *where, scale=SCALE, sizes=sizes))


class TestValues:
    def test_slopes_of_the_paper(self) -> None:
        # Press et al., section 3: eight heads have 1/2 to 1/2^8, sixteen have 1/2^0.5 to 1/2^8.
        assert Alibi().rates(8) == tuple(2.0**-h for h in range(1, 9))
        assert Alibi().rates(16) == tuple(2.0 ** (-h / 2) for h in range(1, 17))
        assert Alibi().rates(1) == (2.0**-8,)
        # `get_slopes` of the paper's code: twelve heads have those of eight, and every other one of sixteen.
        assert Alibi().rates(12) == tuple(2.0**-h for h in range(1, 9)) + tuple(2.0**-h for h in (0.5, 1.5, 2.5, 3.5))

    def test_linear_biases_by_hand(self) -> None:
        got = Alibi((1.0, 0.5)).bias(np, {}, np.zeros((3, 2, 4)), np.arange(3), np.arange(3), 1.0)
        assert got.tolist() == [[[0, -1, -2], [-1, 0, -1], [-2, -1, 0]], [[0, -0.5, -1], [-0.5, 0, -0.5], [-1, -0.5, 0]]]

    @pytest.mark.parametrize("bidirectional", [True, False])
    @pytest.mark.parametrize(("buckets", "most"), [(32, 128), (16, 64), (8, 20), (64, 256), (4, 9)])
    def test_buckets_are_those_of_transformers(self, buckets: int, most: int, bidirectional: bool) -> None:
        distance = np.arange(-1000, 1001)
        wanted = t5_bucket(torch.from_numpy(distance), bidirectional, buckets, most)
        got = RelativeBias(buckets, most, bidirectional).buckets(np, distance)
        np.testing.assert_array_equal(got, wanted.numpy())
        assert got.max() == buckets - 1 if bidirectional else got[0] == buckets - 1

    def test_thresholds_are_exact_integers(self) -> None:
        # 16 = 8 * 16^(2/8), 32 and 64 lie on a threshold, where a rounded logarithm may fall below it.
        assert RelativeBias().thresholds == (12, 16, 23, 32, 46, 64, 91)
        for kind in (RelativeBias(), RelativeBias(64, 10**6), RelativeBias(32, 2**31 - 1)):
            e, n = kind.num_buckets // 4, kind.num_buckets // 4
            for j, d in enumerate(kind.thresholds, 1):
                assert (d - 1) ** n < e ** (n - j) * kind.max_distance**j <= d**n

    @each_kind
    @each_backend
    def test_float64_is_the_formula(self, backend: Backend, kind: ScoreBias) -> None:
        weights = learned(kind)
        got = bias(backend, kind, weights, Q, TO, FROM)
        assert got.dtype == np.float64
        np.testing.assert_allclose(
            np.broadcast_to(got, (B, H, T, S)), by_hand(kind, weights, Q, TO, FROM), rtol=8 * UNIT, atol=8 * UNIT
        )

    @each_kind
    @each_backend
    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    def test_a_narrow_query_is_answered_in_the_compute_dtype(self, backend: Backend, kind: ScoreBias, dtype: str) -> None:
        weights, q = {name: x.astype(dtype) for name, x in learned(kind).items()}, Q.astype(dtype)
        got = bias(backend, kind, weights, q, TO, FROM)
        assert got.dtype == np.float32
        wanted = by_hand(kind, {name: x.astype(np.float64) for name, x in weights.items()}, q.astype(np.float64), TO, FROM)
        np.testing.assert_allclose(np.broadcast_to(got, (B, H, T, S)), wanted, rtol=2 * SINGLE, atol=16 * SINGLE)


class TestLaws:
    @each_kind
    @each_backend
    def test_only_the_distance_counts(self, backend: Backend, kind: ScoreBias) -> None:
        weights = learned(kind)
        np.testing.assert_array_equal(
            bias(backend, kind, weights, Q, TO, FROM), bias(backend, kind, weights, Q, TO + 999, FROM + 999)
        )
        assert not np.array_equal(bias(backend, kind, weights, Q, TO, FROM), bias(backend, kind, weights, Q, TO + 1, FROM))

    @each_kind
    @each_backend
    def test_no_positions_count_from_zero(self, backend: Backend, kind: ScoreBias) -> None:
        square, weights = Sizes((B,), T, T, H, H, D, D), learned(kind)
        counted = bias(backend, kind, weights, Q, np.arange(T), np.arange(T), sizes=square)
        np.testing.assert_array_equal(bias(backend, kind, weights, Q, sizes=square), counted)

    @each_kind
    @each_backend
    def test_narrow_positions_do_not_wrap_around(self, backend: Backend, kind: ScoreBias) -> None:
        weights = learned(kind)
        got = bias(backend, kind, weights, Q, TO.astype(np.uint8), FROM.astype(np.uint8))
        np.testing.assert_array_equal(got, bias(backend, kind, weights, Q, TO, FROM))

    @each_kind
    def test_positions_may_be_traced(self, kind: ScoreBias) -> None:
        weights, q = {name: x.astype(np.float32) for name, x in learned(kind).items()}, Q.astype(np.float32)
        module = importlib.import_module("attention.jax_impl.positions")
        traced = jax.jit(lambda w, q, t, s: module.bias(kind, w, q, t, s, scale=SCALE, sizes=CALL))(weights, q, TO, FROM)
        np.testing.assert_allclose(traced, bias(TORCH, kind, weights, q, TO, FROM), rtol=2 * SINGLE, atol=4 * SINGLE)

    @each_kind
    def test_everything_lies_where_the_query_does(self, kind: ScoreBias) -> None:
        # Nothing that was left on the host can meet a tensor of the meta device.
        module = importlib.import_module("attention.torch_impl.positions")
        weights = {name: torch.from_numpy(x).to("meta") for name, x in learned(kind).items()}
        got = module.bias(kind, weights, torch.from_numpy(Q).to("meta"), TO, FROM, scale=SCALE, sizes=CALL)
        assert (got.device.type, got.shape[-2:]) == ("meta", (T, S))

    @each_backend
    def test_no_bias_is_none(self, backend: Backend) -> None:
        module = importlib.import_module(f"{backend.module.__name__}.positions")
        assert module.bias(None, {}, backend.array(Q), scale=1.0, sizes=CALL) is None

    @pytest.mark.parametrize(
        ("kind", "name", "shape", "axes"),
        [(RelativeBias(), "relative_bias", (32, 8), "PH"), (RelativeKeys(3), "relative_keys", (7, 64), "PD")],
    )
    def test_first_values(self, kind: RelativeBias | RelativeKeys, name: str, shape: tuple[int, int], axes: str) -> None:
        (param,) = kind.params(8, 64).values()
        assert (list(kind.params(8, 64)), param.shape, param.axes) == ([name], shape, axes)
        first = init(kind.params(8, 64), seed=0)[name]
        # T5 draws with variance 1 / (H D); Shaw et al.'s code as Glorot does, with 2 / (rows + columns).
        wanted = 1 / (8 * 64) if name == "relative_bias" else 2 / (7 + 64)
        assert abs(first.std() - math.sqrt(wanted)) < 0.1 * math.sqrt(wanted)
        assert Alibi().params(8, 64) == {}


class TestGradients:
    @pytest.mark.parametrize("kind", [RelativeBias(), RelativeKeys(3)], ids=repr)
    @each_backend
    def test_gradients_are_finite_differences(self, backend: Backend, kind: ScoreBias) -> None:
        weights, pull = learned(kind), np.random.default_rng(9).standard_normal((B, H, T, S))
        (name,) = weights
        module = importlib.import_module(f"{backend.module.__name__}.positions")

        def scalar(table: np.ndarray, q: np.ndarray) -> float:
            return float((np.broadcast_to(by_hand(kind, {name: table}, q, TO, FROM), pull.shape) * pull).sum())

        with wide(Q):

            def answer(w: Any, q: Any) -> Any:
                return (module.bias(kind, {name: w}, q, TO, FROM, scale=SCALE, sizes=CALL) * backend.array(pull)).sum()

            got = [backend.numpy(g) for g in backend.grad(answer, [backend.array(weights[name]), backend.array(Q)])]
        for place, slope in enumerate(got):
            step = np.random.default_rng(11).standard_normal(slope.shape)
            # The bias is linear in each, so that a step of any size has no error but rounding.
            ends = [
                scalar(*(x + sign * step if i == place else x for i, x in enumerate((weights[name], Q)))) for sign in (1, -1)
            ]
            assert abs((ends[0] - ends[1]) / 2 - (slope * step).sum()) <= 1e-13 * np.abs(pull).sum() * 4


class TestRefusals:
    @pytest.mark.parametrize(
        ("make", "text"),
        [
            (lambda: Alibi((1.0, math.inf)), r"Alibi slopes \(1\.0, inf\) must be a tuple of finite numbers, or None"),
            (lambda: Alibi((1.0,)).params(2, 4), "Alibi slopes has 1 numbers but must have H = 2"),
            (lambda: RelativeBias(3), "RelativeBias num_buckets 3 must be an int of at least 4"),
            (lambda: RelativeBias(5), "RelativeBias num_buckets 5 must be even where bidirectional"),
            (lambda: RelativeBias(32, 8), "RelativeBias max_distance 8 must be an int of at least 9"),
            (lambda: RelativeBias(32, 2**31), r"RelativeBias max_distance 2147483648 must be .* below 2\*\*31"),
            (lambda: RelativeBias(bidirectional=1), "RelativeBias bidirectional 1 must be True or False"),  # pyright: ignore[reportArgumentType]
            (lambda: RelativeKeys(0), "RelativeKeys max_distance 0 must be an int of at least 1"),
            (lambda: RelativeKeys(2.0), r"RelativeKeys max_distance 2\.0 must be an int"),  # pyright: ignore[reportArgumentType]
        ],
    )
    def test_an_option_outside_its_range(self, make: Callable[[], object], text: str) -> None:
        with pytest.raises(OptionError, match=text, check=lambda caught: type(caught) is OptionError):
            _ = make()

    @each_backend
    def test_one_of_both_positions_is_refused(self, backend: Backend) -> None:
        square = Sizes((B,), T, T, H, H, D, D)
        with pytest.raises(PositionError, match="key_positions None must be given as query_positions are"):
            _ = bias(backend, Alibi(), {}, Q, TO, sizes=square)

    def test_slopes_are_hashable_though_a_file_holds_lists(self) -> None:
        assert hash(Alibi([1.0, 2.0])) == hash(Alibi((1.0, 2.0)))  # pyright: ignore[reportArgumentType]
