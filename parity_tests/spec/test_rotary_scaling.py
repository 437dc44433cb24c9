"""Rotary scalings: the frequencies and the attention factor of transformers, in float64 and in both backends.

f_i = scaled(base^(-2i / R), L)        rotate(x, p)_i = amplitude x_i e^(i p f_i), L the largest position + 1
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from attention.spec.errors import OptionError
from attention.spec.positions import (
    STYLES,
    DynamicNTKScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    Rotary,
    Scaling,
    YarnScaling,
    shared_length,
)
from parity_tests.support.backends import JAX, TORCH, Backend, each_backend, wide

UNIT = 2.0**-53
SINGLE = 2.0**-24
SHORT, LONG = (1.0, 1.1, 1.2, 1.5, 1.9, 2.0, 2.5, 3.0), (1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0, 34.0)
# A rotated width of 16; in a head of 24 features, eight are left alone.
DEEPSEEK = {"factor": 40.0, "beta_fast": 32, "beta_slow": 1, "mscale": 0.707, "mscale_all_dim": 1.0}
LONGROPE = {"short_factor": SHORT, "long_factor": LONG, "original_max_position_embeddings": 64}


@dataclass(frozen=True)
class Case:
    """A scaling and what transformers calls it."""

    scaling: Scaling
    kind: str
    theirs: dict[str, Any]
    base: float = 10_000.0
    longest: int = 64
    lengths: tuple[int, ...] = (5,)

    def expected(self, length: int) -> tuple[np.ndarray, float]:
        config = SimpleNamespace(
            rope_parameters={"rope_theta": self.base, "partial_rotary_factor": 0.5, **self.theirs},
            head_dim=32,
            hidden_size=64,
            num_attention_heads=2,
            max_position_embeddings=self.longest,
            standardize_rope_params=lambda: None,
        )
        function: Callable[..., Any] = ROPE_INIT_FUNCTIONS[self.kind]
        frequencies, factor = function(config, torch.device("cpu"), seq_len=length)
        return frequencies.numpy(), factor


CASES = {
    "linear": Case(LinearScaling(4.0), "linear", {"factor": 4.0}),
    "dynamic": Case(DynamicNTKScaling(3.0, 64), "dynamic", {"factor": 3.0}, lengths=(1, 64, 65, 300)),
    # The slow end of the ramp lies between R / 2 and R.
    "yarn": Case(YarnScaling(4.0, 131_072), "yarn", {"factor": 4.0, "original_max_position_embeddings": 131_072}),
    "yarn of DeepSeek": Case(
        YarnScaling(40.0, 4096, mscale=0.707, mscale_all_dim=1.0),
        "yarn",
        {**DEEPSEEK, "original_max_position_embeddings": 4096},
    ),
    "yarn not truncated": Case(
        YarnScaling(32.0, 4096, truncate=False),
        "yarn",
        {"factor": 32.0, "original_max_position_embeddings": 4096, "truncate": False},
        base=150_000.0,
    ),
    "yarn of a given factor": Case(
        YarnScaling(2.0, 100, beta_fast=8, beta_slow=2, attention_factor=1.5),
        "yarn",
        {"factor": 2.0, "original_max_position_embeddings": 100, "beta_fast": 8, "beta_slow": 2, "attention_factor": 1.5},
    ),
    "yarn of a short training": Case(YarnScaling(2.0, 6), "yarn", {"factor": 2.0, "original_max_position_embeddings": 6}),
    "llama3": Case(
        Llama3Scaling(8.0, 1.0, 4.0, 8192),
        "llama3",
        {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
        base=500_000.0,
    ),
    "longrope": Case(
        LongRopeScaling(SHORT, LONG, 64, max_positions=2048), "longrope", LONGROPE, longest=2048, lengths=(1, 64, 65, 300)
    ),
    "longrope of a given factor": Case(
        LongRopeScaling(SHORT, LONG, 64, factor=4.0), "longrope", {**LONGROPE, "factor": 4.0}, lengths=(64, 65)
    ),
    "longrope of a given attention factor": Case(
        LongRopeScaling(SHORT, LONG, 64, attention_factor=1.25), "longrope", {**LONGROPE, "attention_factor": 1.25}
    ),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
# Left padding repeats a position; the second row is longer than any training, so that what grows has grown.
WHERE = np.array([[0, 0, 0, 1, 2], [296, 297, 298, 299, 131_071]])
NEAR = WHERE[:1]
X = np.random.default_rng(3).uniform(-1, 1, (2, 5, 3, 24))


def rotate(backend: Backend, rotary: Rotary, x: np.ndarray, *where: Any, **options: Any) -> np.ndarray:
    module = importlib.import_module(f"{backend.module.__name__}.positions")
    with wide(x):
        return backend.numpy(module.rotate(rotary, backend.array(x), *where, **options))


class TestValues:
    @each_case
    def test_frequencies_are_those_of_transformers(self, case: Case) -> None:
        rotary = Rotary(base=case.base, rotary_dim=16, scaling=case.scaling)
        for length in case.lengths:
            wanted, factor = case.expected(length)
            got = rotary.frequencies(24, length)
            assert got.dtype == np.float64
            # Theirs are float32: the exponent's rounding is multiplied by ln base, and some ten operations follow.
            np.testing.assert_allclose(got, wanted, rtol=SINGLE * (12 - np.log(got[-1])))
            assert case.scaling.amplitude == pytest.approx(factor, rel=4 * UNIT)

    @each_case
    def test_the_scaling_changes_something(self, case: Case) -> None:
        plain = Rotary(base=case.base).frequencies(16)
        changed = np.abs(Rotary(base=case.base, scaling=case.scaling).frequencies(16, case.lengths[-1]) / plain - 1)
        assert changed.max() > 0.1

    def test_frequencies_by_hand(self) -> None:
        assert Rotary(base=16.0, scaling=LinearScaling(2.0)).frequencies(8).tolist() == [0.5, 0.25, 0.125, 0.0625]
        # 1 + 3 (128/64 - 1) = 4, to the powers 0, -2/6, -4/6, -1.
        grown = Rotary(base=16.0, scaling=DynamicNTKScaling(3.0, 64)).frequencies(8, 128)
        np.testing.assert_allclose(grown * [1, 2, 4, 8], 4.0 ** -(np.arange(4) / 3), rtol=4 * UNIT)
        assert Rotary(scaling=DynamicNTKScaling(3.0, 4)).frequencies(2, 100).tolist() == [1.0]


class TestLaws:
    @each_case
    @pytest.mark.parametrize("style", STYLES)
    def test_a_score_knows_only_the_distance(self, case: Case, style: str) -> None:
        rotary = Rotary(case.base, style, 16, case.scaling)
        q, k = X[:, :, :1], X[:, :, 1:2]

        def score(shift: int) -> np.ndarray:
            # One length for all, or the frequencies would move with the positions.
            turned = [rotary.rotate(np, x, *rotary.tables(p + shift, 24, 400)) for x, p in ((q, NEAR + 7), (k, NEAR))]
            return np.sum(turned[0] * turned[1], axis=-1)

        np.testing.assert_allclose(score(0), score(391), rtol=0, atol=UNIT * 24 * 16 * 400)
        assert np.abs(score(0) - np.sum(q * k, axis=-1)).max() > 1e-3

    @each_case
    def test_at_position_zero_only_the_attention_factor_is_left(self, case: Case) -> None:
        rotary = Rotary(rotary_dim=16, scaling=case.scaling)
        got = rotary.rotate(np, X, *rotary.tables(np.zeros((1, 5), int), 24))
        np.testing.assert_array_equal(got[..., :16], X[..., :16] * case.scaling.amplitude)
        np.testing.assert_array_equal(got[..., 16:], X[..., 16:])

    @pytest.mark.parametrize("scaling", [DynamicNTKScaling(3.0, 8), LongRopeScaling(SHORT, LONG, 8, factor=2.0)], ids=repr)
    @each_backend
    def test_a_token_is_turned_as_in_its_sequence(self, backend: Backend, scaling: Scaling) -> None:
        # The last query of 12, alone with a cache of keys: it needs their length, and they need its.
        rotary, x, where = Rotary(scaling=scaling), X[:1, :, :, :16], np.arange(8, 13)
        whole = rotate(backend, rotary, x, where)
        module = importlib.import_module(f"{backend.module.__name__}.positions")
        length = module.shared_length(rotary, where[:1], where)
        assert int(length) == int(shared_length(np, rotary, where[:1], where)) == 13
        np.testing.assert_array_equal(rotate(backend, rotary, x[:, :1], where[:1], length=length), whole[:, :1])
        np.testing.assert_array_equal(rotate(backend, rotary, x[:, :1], where[:1], length=13), whole[:, :1])
        short = rotate(backend, rotary, x[:, :1], np.array([7]))
        assert not np.allclose(short, rotate(backend, rotary, x[:, :1], np.array([7]), length=13))

    def test_a_length_is_shared_only_where_one_is_asked_for(self) -> None:
        grows, where = Rotary(scaling=DynamicNTKScaling(2.0, 4)), np.arange(3)
        assert shared_length(np, Rotary(), where, where) is None
        assert shared_length(np, None, where, where) is None
        assert shared_length(np, grows, None, None) is None
        assert int(shared_length(np, grows, where[:0], where)) == 3


class TestBackends:
    @each_case
    @each_backend
    def test_float64_is_the_formula(self, backend: Backend, case: Case) -> None:
        for style, where in ((STYLES[0], WHERE), (STYLES[1], NEAR)):
            rotary = Rotary(case.base, style, 16, case.scaling)
            wanted = rotary.rotate(np, X, *rotary.tables(where, 24))
            np.testing.assert_allclose(rotate(backend, rotary, X, where), wanted, rtol=0, atol=16 * UNIT * WHERE.max())

    @each_case
    @each_backend
    def test_float32_has_angles_of_float64(self, backend: Backend, case: Case) -> None:
        rotary, x = Rotary(case.base, rotary_dim=16, scaling=case.scaling), X.astype(np.float32)
        wanted = rotary.rotate(np, x.astype(np.float64), *rotary.tables(WHERE, 24))
        got = rotate(backend, rotary, x, WHERE)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, wanted, rtol=0, atol=6 * SINGLE * case.scaling.amplitude)

    @pytest.mark.parametrize("name", ["dynamic", "longrope"])
    def test_positions_may_be_traced(self, name: str) -> None:
        rotary, x = Rotary(rotary_dim=16, scaling=CASES[name].scaling), X.astype(np.float32)
        module = importlib.import_module("attention.jax_impl.positions")
        traced = jax.jit(lambda x, where: module.rotate(rotary, x, where))
        for where in (WHERE, np.broadcast_to(NEAR, WHERE.shape)):
            np.testing.assert_allclose(traced(x, where), rotate(TORCH, rotary, x, where), rtol=0, atol=8 * SINGLE)
        sized = jax.jit(lambda x, length: module.rotate(rotary, x, NEAR, length=length))
        np.testing.assert_allclose(
            sized(x, jnp.asarray(300)), rotate(JAX, rotary, x, NEAR, length=300), rtol=0, atol=8 * SINGLE
        )

    @each_case
    def test_everything_lies_where_the_heads_do(self, case: Case) -> None:
        # Nothing that was left on the host can meet a tensor of the meta device.
        module = importlib.import_module("attention.torch_impl.positions")
        got = module.rotate(Rotary(rotary_dim=16, scaling=case.scaling), torch.from_numpy(X).to("meta"), WHERE)
        assert (got.device.type, got.shape) == ("meta", X.shape)

    @each_backend
    def test_no_tokens_are_turned_to_no_tokens(self, backend: Backend) -> None:
        rotary = Rotary(rotary_dim=16, scaling=CASES["dynamic"].scaling)
        assert rotate(backend, rotary, X[:, :0]).shape == (2, 0, 3, 24)


class TestRefusals:
    @pytest.mark.parametrize(
        ("make", "text"),
        [
            (
                lambda: Rotary(scaling="yarn"),  # pyright: ignore[reportArgumentType]
                "Rotary scaling 'yarn' must be one of LinearScaling, DynamicNTKScaling, YarnScaling, Llama3Scaling, Long",
            ),
            (lambda: LinearScaling(0.0), r"LinearScaling factor 0\.0 must be a positive finite number"),
            (lambda: LinearScaling(True), "LinearScaling factor True must be a positive finite number"),
            (lambda: DynamicNTKScaling(2.0, 0), "DynamicNTKScaling max_positions 0 must be an int of at least 1"),
            (lambda: YarnScaling(float("nan"), 8), "YarnScaling factor nan must be"),
            (lambda: YarnScaling(2.0, 8, mscale=0.0), r"YarnScaling mscale 0\.0 must be"),
            (lambda: YarnScaling(2.0, 8, beta_fast=1), "YarnScaling beta_fast 1 must be above beta_slow = 1"),
            (
                lambda: Llama3Scaling(8.0, 4.0, 4.0, 8),
                r"Llama3Scaling high_freq_factor 4\.0 must be above low_freq_factor = 4\.0",
            ),
            (lambda: Llama3Scaling(8.0, 1.0, 4.0, 8.5), r"Llama3Scaling original_max_positions 8\.5 must be an int"),  # pyright: ignore[reportArgumentType]
            (
                lambda: LongRopeScaling((1.0, 0.0), LONG, 8, 2.0),
                r"LongRopeScaling short_factor \(1\.0, 0\.0\) must be a tuple of positive",
            ),
            (
                lambda: LongRopeScaling(SHORT, LONG, 8),
                "LongRopeScaling must have factor or max_positions, one of them, or an attention_factor",
            ),
            (
                lambda: LongRopeScaling(SHORT, LONG, 8, 2.0, 16),
                "LongRopeScaling must have factor or max_positions, one of them",
            ),
            (
                lambda: Rotary(scaling=LongRopeScaling(SHORT, LONG, 8, 2.0)).width(8),
                "LongRopeScaling short_factor has 8 numbers but must have R / 2 = 4",
            ),
        ],
    )
    def test_an_option_outside_its_range(self, make: Callable[[], object], text: str) -> None:
        with pytest.raises(OptionError, match=text, check=lambda caught: type(caught) is OptionError):
            _ = make()

    def test_a_scaling_is_hashable_though_a_file_holds_lists(self) -> None:
        listed: Any = LongRopeScaling(list(SHORT), list(LONG), 8, 2.0)  # pyright: ignore[reportArgumentType]
        assert hash(listed) == hash(LongRopeScaling(SHORT, LONG, 8, 2.0))
