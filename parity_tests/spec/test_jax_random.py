"""The numbers of jax.random and Flax NNX, computed in NumPy and torch without JAX.

jax_random.f(key) = jax.random.f(key)        nnx_initializers.linear(Rngs(0), n, m) = nnx.Linear(n, m, rngs=nnx.Rngs(0))
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from attention import jax_impl, torch_impl
from attention.jax_impl import random as in_jax
from attention.spec import random
from attention.spec.errors import DTypeError, OptionError, ShapeError, UnknownName
from attention.spec.random import jax_random, nnx_initializers, nnx_random
from attention.spec.random.jax_random import from_key_data
from attention.torch_impl import random as in_torch

SEEDS = (0, 7, 2**31, 2**32 - 1)
SHAPE = (7, 11)
KEY = jax_random.fold_in(jax_random.key(3), 5)
THEIRS = jax.random.wrap_key_data(jnp.asarray(KEY, jnp.uint32), impl="threefry2x32")


def same(got: np.ndarray, wanted: Any) -> None:
    """Raise unless both are the same bits."""
    wanted = np.asarray(wanted)
    assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
    np.testing.assert_array_equal(got.view(f"u{got.itemsize}"), wanted.view(f"u{got.itemsize}"))


def near(got: np.ndarray, wanted: Any, units: int = 3, least: float = 0.0) -> None:
    """Raise unless both are within so many units of the last place of the wanted numbers, or of the least if they are less."""
    wanted = np.asarray(wanted)
    assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
    assert (
        np.max(np.abs(got.astype(np.float64) - wanted) / np.spacing(np.maximum(np.abs(wanted), wanted.dtype.type(least))))
        <= units
    )


def of(typed: jax.Array) -> random.Key:
    return from_key_data(np.asarray(jax.random.key_data(typed)))


class TestKeys:
    @pytest.mark.parametrize("seed", [*SEEDS, -1, -(2**31), 2**32 + 5])
    def test_a_seed_has_the_key_of_jax(self, seed: int) -> None:
        with jax.enable_x64(True):
            assert jax_random.key(seed, wide=True) == of(jax.random.key(seed, impl="threefry2x32"))
        if seed < 2**32:
            assert jax_random.key(seed) == of(jax.random.key(np.uint32(seed % 2**32), impl="threefry2x32"))

    def test_children_are_those_of_jax(self) -> None:
        assert jax_random.split(KEY, 5) == tuple(of(child) for child in jax.random.split(THEIRS, 5))
        for number in (0, 1, 2**32 - 1):
            assert jax_random.fold_in(KEY, number) == of(jax.random.fold_in(THEIRS, np.uint32(number)))

    def test_the_words_of_a_key_go_both_ways(self) -> None:
        same(jax_random.key_data(KEY), jax.random.key_data(THEIRS))
        assert from_key_data(jax.random.key_data(THEIRS)) == KEY
        assert from_key_data(torch.tensor(KEY)) == KEY
        assert random.key(jax_random.seed_of(KEY)) == KEY


class TestNumbers:
    @pytest.mark.parametrize("width", [8, 16, 32, 64])
    def test_bits(self, width: int) -> None:
        with jax.enable_x64(width == 64):
            same(jax_random.bits(KEY, SHAPE, width), jax.random.bits(THEIRS, SHAPE, f"uint{width}"))

    @pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0)])
    @pytest.mark.parametrize("dtype", jax_random.DRAWN)
    def test_uniform(self, dtype: str, low: float, high: float) -> None:
        with jax.enable_x64(dtype == "float64"):
            same(jax_random.uniform(KEY, SHAPE, dtype, low, high), jax.random.uniform(THEIRS, SHAPE, dtype, low, high))

    @pytest.mark.parametrize("dtype", jax_random.DRAWN)
    def test_uniform_of_other_bounds_is_rounded_once_where_jax_may_round_twice(self, dtype: str) -> None:
        with jax.enable_x64(dtype == "float64"):
            wanted = np.asarray(jax.random.uniform(THEIRS, SHAPE, dtype, -0.3, 2.7)).astype(np.float64)
        got = jax_random.uniform(KEY, SHAPE, dtype, -0.3, 2.7).astype(np.float64)
        # A number of [2, 4) has its last place at 2^(1 - mantissa); the product is less than that, and so is its rounding.
        assert np.abs(got - wanted).max() <= 2.0 ** (1 - jax_random.DRAWN[dtype][1])

    @pytest.mark.parametrize("p", [0.0, 1e-9, 0.3, 0.5, 1 - 2**-24, 1.0])
    def test_bernoulli(self, p: float) -> None:
        same(jax_random.bernoulli(KEY, p, SHAPE), jax.random.bernoulli(THEIRS, p, SHAPE))
        with jax.enable_x64(True):
            same(jax_random.bernoulli(KEY, p, SHAPE, "float64"), jax.random.bernoulli(THEIRS, np.float64(p), SHAPE))

    def test_bernoulli_of_many_chances(self) -> None:
        chances = np.linspace(0, 1, 77, dtype=np.float32).reshape(SHAPE)
        same(jax_random.bernoulli(KEY, chances), jax.random.bernoulli(THEIRS, chances))

    @pytest.mark.parametrize(
        ("dtype", "low", "high"),
        [
            *(("int32", 0, 10), ("int32", -7, 2**30 + 3), ("int32", 5, 5), ("int32", -(2**31), 2**31 - 1)),
            *(("uint8", 0, 256), ("int16", -300, 299), ("uint32", 0, 2**31 + 11)),
        ],
    )
    def test_randint(self, dtype: str, low: int, high: int) -> None:
        bounds = (np.int64(low), np.int64(high)) if high > 2**31 - 1 else (low, high)
        with jax.enable_x64(high > 2**31 - 1):
            same(jax_random.randint(KEY, SHAPE, low, high, dtype), jax.random.randint(THEIRS, SHAPE, *bounds, dtype))

    def test_permutation(self) -> None:
        same(jax_random.permutation(KEY, 50).astype(np.int32), jax.random.permutation(THEIRS, 50))
        rows = np.arange(77, dtype=np.int32).reshape(SHAPE)
        same(jax_random.permutation(KEY, rows), jax.random.permutation(THEIRS, rows))

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_normal_numbers_are_within_some_units_of_the_last_place(self, dtype: str) -> None:
        # XLA's logarithm loses five bits of float64 where its formula changes, near a normal number of 0.92.
        units, least = (3, 0.0) if dtype == "float32" else (32, 1.0)
        with jax.enable_x64(dtype == "float64"):
            near(jax_random.normal(KEY, (5000,), dtype), jax.random.normal(THEIRS, (5000,), dtype), units, least)
            wanted = jax.random.truncated_normal(THEIRS, -2, 2, (5000,), dtype)
        got = jax_random.truncated_normal(KEY, -2, 2, (5000,), dtype)
        near(got, wanted, units, least)
        assert np.abs(got).max() < 2

    def test_a_scalar_is_drawn(self) -> None:
        same(jax_random.uniform(KEY), jax.random.uniform(THEIRS))
        assert jax_random.randint(KEY, (), 0, 10) == jax.random.randint(THEIRS, (), 0, 10)


class TestStreams:
    def test_streams_count_and_fall_back_as_in_nnx(self) -> None:
        ours, theirs = nnx_random.Rngs(0, params=1, dropout=KEY), nnx.Rngs(0, params=1, dropout=THEIRS)
        for name in ("params", "dropout", "params", "other", "default", "dropout"):
            assert ours[name]() == of(theirs[name]()), name
        assert ours() == of(theirs())
        assert ours.params.count == int(theirs.params.count[...])
        assert set(ours) == set(theirs)
        assert "other" not in ours

    def test_forks_and_splits_are_those_of_nnx(self) -> None:
        ours, theirs = nnx_random.Rngs(0, dropout=1), nnx.Rngs(0, dropout=1)
        fork, wanted = ours.fork(), theirs.fork()
        assert (fork.dropout(), fork()) == (of(wanted.dropout()), of(wanted()))
        stream, wanted = ours.dropout.fork(), theirs.dropout.fork()
        assert [stream(), stream()] == [of(wanted()), of(wanted())]
        members, wanted = ours.split(3), theirs.split(3)
        keys = wanted.dropout.key[...]
        assert [member.dropout.key for member in members] == [of(keys[i]) for i in range(3)]
        assert ours.dropout() == of(theirs.dropout())

    def test_a_stream_given_to_another_set_begins_again(self) -> None:
        ours, theirs = nnx_random.Rngs(4), nnx.Rngs(4)
        _ = ours(), theirs()
        assert nnx_random.Rngs(dropout=ours.default).dropout() == of(nnx.Rngs(dropout=theirs.default).dropout())

    @pytest.mark.parametrize(("rate", "axes"), [(0.1, ()), (0.5, (1,)), (0.5, (0, -1)), (0.0, ()), (1.0, ())])
    def test_a_torch_user_drops_what_nnx_dropout_drops(self, rate: float, axes: tuple[int, ...]) -> None:
        theirs = nnx.Dropout(rate, broadcast_dims=axes, rngs=nnx.Rngs(0, dropout=1))
        x = np.ones(SHAPE, np.float32)
        streams = [nnx_random.Rngs(0, dropout=1).dropout.fork() for _ in range(3)]
        for _ in range(2):
            wanted = np.asarray(theirs(jnp.asarray(x)))
            in_numpy = nnx_random.dropout_mask(streams[0], rate, SHAPE, axes)
            tensor = in_torch.dropout_mask(streams[1], rate, SHAPE, axes)
            again = in_jax.dropout_mask(streams[2], rate, SHAPE, axes)
            np.testing.assert_array_equal(in_numpy, wanted > 0)
            np.testing.assert_array_equal(tensor.numpy(), in_numpy)
            np.testing.assert_array_equal(again, in_numpy)
            if rate < 1:
                np.testing.assert_array_equal(torch.where(tensor, torch.ones(SHAPE) / (1.0 - rate), 0.0).numpy(), wanted)

    def test_the_mask_of_a_call_of_nnx_dropout(self) -> None:
        layer = nnx.Dropout(0.5)
        x = jnp.ones(SHAPE)
        for ours, theirs in ((nnx_random.Rngs(5), nnx.Rngs(5)), (KEY, THEIRS)):
            wanted = np.asarray(layer(x, rngs=theirs)) > 0
            np.testing.assert_array_equal(nnx_random.dropout_mask(ours, 0.5, SHAPE), wanted)
        for given in (nnx.Rngs(5), nnx.Rngs(5).dropout, THEIRS):
            wanted = in_jax.dropout_mask(given, 0.5, SHAPE)
            theirs = given if isinstance(given, jax.Array) else nnx.Rngs(5)
            np.testing.assert_array_equal(np.asarray(layer(x, rngs=theirs)) > 0, wanted)


class TestLayers:
    @pytest.mark.parametrize(
        "name", ["lecun_normal", "glorot_normal", "he_normal", "lecun_uniform", "glorot_uniform", "he_uniform"]
    )
    def test_initialisers(self, name: str) -> None:
        got, wanted = getattr(nnx_initializers, name)(KEY, SHAPE), getattr(nnx.initializers, name)()(THEIRS, SHAPE, jnp.float32)
        near(got, wanted, units=0 if "uniform" in name else 6)

    def test_a_program_of_layers_begins_as_in_nnx(self) -> None:
        ours, theirs = nnx_random.Rngs(0, params=9), nnx.Rngs(0, params=9)
        pairs: list[tuple[nnx_initializers.First, Any]] = [
            (nnx_initializers.linear(ours, 7, 11), nnx.Linear(7, 11, rngs=theirs)),
            (nnx_initializers.norm(ours, 11), nnx.LayerNorm(11, rngs=theirs)),
            (nnx_initializers.norm(ours, 11, use_bias=False), nnx.RMSNorm(11, rngs=theirs)),
            (nnx_initializers.linear(ours, 7, 11, use_bias=False), nnx.Linear(7, 11, use_bias=False, rngs=theirs)),
            (nnx_initializers.embed(ours, 13, 5), nnx.Embed(13, 5, rngs=theirs)),
            (nnx_initializers.conv(ours, 3, 5, (3, 2)), nnx.Conv(3, 5, (3, 2), rngs=theirs)),
            (nnx_initializers.linear_general(ours, 6, (2, 3)), nnx.LinearGeneral(6, (2, 3), rngs=theirs)),
            (
                nnx_initializers.linear_general(ours, (2, 3), 4, kernel_init=nnx_initializers.glorot_uniform),
                nnx.LinearGeneral((2, 3), 4, axis=(-2, -1), kernel_init=nnx.initializers.glorot_uniform(), rngs=theirs),
            ),
        ]
        for first, layer in pairs:
            state = {str(path[0]): np.asarray(value) for path, value in nnx.to_flat_state(nnx.state(layer, nnx.Param))}
            assert set(first) == set(state)
            for name, wanted in state.items():
                near(first[name], wanted, units=6)
        assert ours.params() == of(theirs.params())


class TestBackends:
    NAMES = ("key", "seed_of", "index", "keep", "uniform", "below", "bernoulli", "dropout_mask")

    @pytest.mark.parametrize("name", NAMES)
    def test_both_backends_have_the_same_signature(self, name: str) -> None:
        one, other = (
            [(p.name, p.kind, p.default) for p in inspect.signature(getattr(backend, name)).parameters.values()]
            for backend in (in_torch, in_jax)
        )
        assert one == other

    @pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
    def test_bernoulli_is_bit_equal(self, p: float) -> None:
        wanted = jax.random.bernoulli(THEIRS, p, SHAPE)
        np.testing.assert_array_equal(in_torch.bernoulli(KEY, p, SHAPE).numpy(), wanted)
        np.testing.assert_array_equal(in_torch.bernoulli(torch.tensor(KEY), p, SHAPE).numpy(), wanted)
        for key in (KEY, THEIRS, jax.random.key_data(THEIRS)):
            np.testing.assert_array_equal(in_jax.bernoulli(key, p, SHAPE), wanted)

    def test_a_traced_key_is_a_seed(self) -> None:
        keys = jax.random.split(THEIRS, 3)
        drawn = jax.jit(jax.vmap(lambda key: in_jax.keep(key, 0.3, SHAPE)))(keys)
        for key, got in zip(keys, drawn, strict=True):
            np.testing.assert_array_equal(got, random.keep(in_jax.seed_of(key), 0.3, SHAPE))

    def test_attention_follows_a_stream_of_nnx(self) -> None:
        rng = np.random.default_rng(0)
        q, k, v = (rng.standard_normal((2, 5, 4, 8), np.float32) for _ in range(3))
        key = nnx.Rngs(0, dropout=1).dropout()
        options: dict[str, Any] = {"dropout_rate": 0.4, "broadcast_dropout": False, "deterministic": False}
        wanted = np.asarray(
            nnx.dot_product_attention(jnp.asarray(q), jnp.asarray(k), jnp.asarray(v), dropout_rng=key, **options)
        )
        stream = nnx_random.Rngs(0, dropout=1).dropout
        seed = in_torch.seed_of(stream())
        assert seed == in_jax.seed_of(key)
        tensors = [torch.from_numpy(x) for x in (q, k, v)]
        got = torch_impl.dot_product_attention(*tensors, dropout_rate=0.4, dropout_seed=seed).numpy()
        # Another mask would move the context by its own size.
        np.testing.assert_allclose(got, wanted, atol=1e-5)
        for given in (seed, key, jax.random.key_data(key)):
            again = jax_impl.dot_product_attention(*map(jnp.asarray, (q, k, v)), dropout_rate=0.4, dropout_seed=given)
            np.testing.assert_allclose(again, wanted, atol=1e-5)

    def test_two_words_are_a_seed_in_torch(self) -> None:
        wanted = random.keep(jax_random.seed_of(KEY), 0.3, SHAPE)
        for words in (torch.tensor(KEY), torch.from_numpy(jax_random.key_data(KEY).astype(np.int32)), jax_random.key_data(KEY)):
            np.testing.assert_array_equal(in_torch.keep(words, 0.3, SHAPE).numpy(), wanted)


class TestRefusals:
    @pytest.mark.parametrize(
        ("refused", "error", "text"),
        [
            (lambda: jax_random.key(0.5), OptionError, r"seed 0\.5 must be an int"),  # type: ignore[arg-type]
            (lambda: from_key_data(np.zeros(4, np.uint32)), OptionError, r"key data uint32 \(4,\) must be two 32-bit words"),
            (lambda: jax_random.bits(KEY, SHAPE, 12), OptionError, "width 12 must be 8, 16, 32 or 64"),
            (lambda: jax_random.split(KEY, -1), OptionError, "num -1 must be an int of at least 0"),
            (lambda: jax_random.randint(KEY, (), 0, 300, "int8"), OptionError, "minval 0 and maxval 300 must fit int8"),
            (lambda: jax_random.permutation(KEY, np.zeros(())), ShapeError, r"x \(\) must be an int, or have an axis"),
            (lambda: jax_random.normal(KEY, (), "bfloat16"), DTypeError, "dtype bfloat16 must be float32 or float64"),
            (lambda: jax_random.chance(1.5), OptionError, r"p 1\.5 must be in \[0, 1\]"),
            (lambda: nnx_random.Rngs(params=0).dropout, UnknownName, "stream 'dropout' must be one of params"),
            (lambda: nnx_random.dropout_mask(KEY, 1.5, SHAPE), OptionError, r"rate 1\.5 must be in \[0, 1\]"),
            (lambda: nnx_random.dropout_mask(KEY, 0.5, SHAPE, (2,)), OptionError, r"broadcast_dims \(2,\) must be axes of"),
            (
                lambda: nnx_initializers.variance_scaling(KEY, SHAPE, scale=1.0, mode="x", distribution="normal"),
                OptionError,
                "mode 'x'",
            ),
            (
                lambda: nnx_initializers.variance_scaling(KEY, SHAPE, scale=1.0, mode="fan_in", distribution="x"),
                OptionError,
                "distribution 'x' must be one of",
            ),
            (lambda: in_jax.key(jax.random.key(0, impl="rbg")), OptionError, "must be one key of threefry2x32"),
        ],
    )
    def test_what_is_refused(self, refused: Callable[[], Any], error: type[Exception], text: str) -> None:
        with pytest.raises(error, match=text, check=lambda caught: type(caught) is error):
            _ = refused()
