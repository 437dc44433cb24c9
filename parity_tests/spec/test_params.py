"""Parameters: the same initial bits in both backends; weights are loaded bit for bit, or refused.

layer.load_weights(w); layer.weights() == w        kernel ~ U[-a, a), a = sqrt(6 / (fan_in + fan_out))
"""

from __future__ import annotations

import math
import re
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest

from attention import spec
from attention.jax_impl import params as jax_params
from attention.spec.axes import COMPUTE
from attention.spec.dtypes import numpy_dtype
from attention.spec.errors import DTypeError, ParamError, UnknownName
from attention.spec.params import Param, Weights, check_weights, init
from attention.torch_impl import params as torch_params
from parity_tests.support.backends import JAX, TORCH, Backend, each_backend

# No two sizes are equal, and every array has a shape of its own.
CONTRACT = spec.MultiHeadAttention(10, 6, num_kv_heads=2, head_dim=3, value_dim=5, kdim=7, vdim=11)
BARE = spec.MultiHeadAttention(8, 2, qkv_bias=False, out_bias=False)
DTYPES = tuple(COMPUTE)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


def noise(dtype: str, seed: int = 0) -> Weights:
    """Weights whose bits are drawn at random: infinities, NaN of every kind, subnormals and both zeros among them."""
    random, kind = np.random.default_rng(seed), numpy_dtype(dtype)
    shapes = {name: param.shape for name, param in CONTRACT.params.items()}
    drawn = {n: np.frombuffer(random.bytes(math.prod(s) * kind.itemsize), kind).reshape(s) for n, s in shapes.items()}
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, float(ml_dtypes.finfo(kind).smallest_subnormal)], kind)
    return drawn | {"q_proj.bias": np.resize(special, shapes["q_proj.bias"])}


def same_bits(got: Weights, wanted: Weights) -> None:
    assert list(got) == list(wanted)
    for name, array in wanted.items():
        assert isinstance(got[name], np.ndarray)
        assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape), name
        assert got[name].tobytes() == array.tobytes(), name


class TestLaws:
    @pytest.mark.parametrize("seed", [0, 7, 2**32 + 7, 2**64 - 1])
    def test_first_weights_are_the_same_bits_in_numpy_torch_and_jax(self, seed: int) -> None:
        wanted = CONTRACT.init(seed)
        same_bits({name: x.numpy() for name, x in torch_params.init(CONTRACT.params, seed).items()}, wanted)
        same_bits({name: np.asarray(x) for name, x in jax_params.init(CONTRACT.params, seed).items()}, wanted)

    @each_dtype
    @each_backend
    def test_a_new_layer_holds_the_first_weights_of_its_contract(self, backend: Backend, dtype: str) -> None:
        with jax.enable_x64(dtype == "float64"):
            same_bits(backend.layer(CONTRACT, seed=5, dtype=dtype).weights(), CONTRACT.init(5, dtype))

    @each_dtype
    @each_backend
    def test_weights_come_back_bit_for_bit(self, backend: Backend, dtype: str) -> None:
        with jax.enable_x64(dtype == "float64"):
            layer = backend.layer(CONTRACT, dtype=dtype)
            layer.load_weights(noise(dtype))
            same_bits(layer.weights(), noise(dtype))

    @each_backend
    def test_narrow_weights_fill_a_wide_layer_exactly(self, backend: Backend) -> None:
        with jax.enable_x64(True):
            layer = backend.layer(CONTRACT, dtype="float64")
            for dtype in DTYPES:
                layer.load_weights(CONTRACT.init(1, dtype))
                same_bits(layer.weights(), spec.cast(CONTRACT.init(1, dtype), "float64"))

    @pytest.mark.parametrize("backend", [TORCH, JAX], ids=str)
    def test_what_is_loaded_is_a_copy(self, backend: Backend) -> None:
        layer, given = backend.layer(CONTRACT), CONTRACT.init(1)
        layer.load_weights(given)
        for array in given.values():
            array[...] = np.nan
        same_bits(layer.weights(), CONTRACT.init(1))

    @each_backend
    def test_what_is_given_back_is_a_copy(self, backend: Backend) -> None:
        layer = backend.layer(CONTRACT, seed=1)
        for array in layer.weights().values():
            array[...] = np.nan
        same_bits(layer.weights(), CONTRACT.init(1))

    @pytest.mark.parametrize("wanted", DTYPES)
    @pytest.mark.parametrize("got", ["float16", "bfloat16"])
    def test_a_dtype_is_taken_only_if_each_of_its_numbers_is_kept(self, got: str, wanted: str) -> None:
        every = np.arange(2**16, dtype=np.uint16).view(numpy_dtype(got))
        with np.errstate(over="ignore", invalid="ignore"):
            kept = np.array_equal(every.astype(numpy_dtype(wanted)).astype(np.float64), every.astype(np.float64), True)
        weights, params = {"x": every}, {"x": Param((2**16,), "M")}
        if kept:
            check_weights(params, weights, wanted)
        else:
            with pytest.raises(DTypeError, match=f"x {got} must be {wanted}: round them with spec.cast"):
                check_weights(params, weights, wanted)

    @pytest.mark.parametrize(("got", "wanted"), [("float64", n) for n in DTYPES[1:]] + [("float32", n) for n in DTYPES[2:]])
    def test_digits_are_never_dropped(self, got: str, wanted: str) -> None:
        with pytest.raises(DTypeError, match=f"x {got} must be {wanted}"):
            check_weights({"x": Param((1,), "M")}, {"x": np.zeros(1, numpy_dtype(got))}, wanted)

    def test_first_weights_of_a_name_do_not_depend_on_its_neighbours(self) -> None:
        alone = {"k_proj.kernel": CONTRACT.params["k_proj.kernel"]}
        same_bits(init(alone, 3), {"k_proj.kernel": CONTRACT.init(3)["k_proj.kernel"]})

    def test_names_and_seeds_draw_their_own(self) -> None:
        square = Param((9, 9), "MD", inputs=1)
        one, other = init({"a": square, "b": square}, 0), init({"a": square}, 1)
        assert not (one["a"] == one["b"]).any()
        assert not (one["a"] == other["a"]).any()


class TestValues:
    def test_the_tree(self) -> None:
        assert {name: param.shape for name, param in CONTRACT.params.items()} == {
            "q_proj.kernel": (10, 6, 3),
            "q_proj.bias": (6, 3),
            "k_proj.kernel": (7, 2, 3),
            "k_proj.bias": (2, 3),
            "v_proj.kernel": (11, 2, 5),
            "v_proj.bias": (2, 5),
            "out_proj.kernel": (6, 5, 10),
            "out_proj.bias": (10,),
        }
        assert list(BARE.params) == ["q_proj.kernel", "k_proj.kernel", "v_proj.kernel", "out_proj.kernel"]

    def test_limits_are_glorots(self) -> None:
        # Glorot and Bengio 2010, equation 16: sqrt(6 / (fan_in + fan_out)), heads joined.
        fans = {
            "q_proj.kernel": (10, 18),
            "k_proj.kernel": (7, 6),
            "v_proj.kernel": (11, 10),
            "out_proj.kernel": (30, 10),
        }
        drawn = CONTRACT.init(0)
        for name, (fan_in, fan_out) in fans.items():
            limit = float(np.float32(math.sqrt(6 / (fan_in + fan_out))))
            assert CONTRACT.params[name].limit == limit
            # Of 42 uniform numbers or more, the largest is beyond 0.8 but once in ten thousand seeds.
            assert 0.8 * limit < np.abs(drawn[name]).max() <= limit
        assert not any(drawn[name].any() for name in drawn if name.endswith("bias"))

    def test_first_numbers(self) -> None:
        # 0x26F60747 is the CRC-32 of the name, and the numbers are those of jax.random.
        key = jax.random.fold_in(jax.random.key(0), np.uint32(0x26F60747))
        wanted = jax.random.uniform(key, (4,), np.float32, -1, 1) * np.float32(math.sqrt(6 / 40))
        np.testing.assert_array_equal(CONTRACT.init(0)["out_proj.kernel"].ravel()[:4], wanted)

    def test_cast_rounds_to_the_nearest_even(self) -> None:
        ties = {"x": np.array([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20])}
        assert spec.cast(ties, "bfloat16")["x"].tolist() == [1, 1 + 2**-6, 1 + 2**-7]

    def test_torch_stores_rows_of_outputs_and_jax_the_kernel_itself(self) -> None:
        torch_layer, jax_layer, weights = TORCH.layer(CONTRACT), JAX.layer(CONTRACT), CONTRACT.init(2)
        for layer in (torch_layer, jax_layer):
            layer.load_weights(weights)
        q, out = weights["q_proj.kernel"], weights["out_proj.kernel"]
        assert torch_layer.q_proj.weight[5 * 3 + 2, 7] == q[7, 5, 2]
        assert torch_layer.out_proj.weight[9, 4 * 5 + 3] == out[4, 3, 9]
        np.testing.assert_array_equal(jax_layer.q_proj.kernel[...], q)
        np.testing.assert_array_equal(jax_layer.out_proj.kernel[...], out)


def faulty() -> dict[str, tuple[dict[str, Any], type[Exception], str]]:
    """Weights that must be refused as a whole: the fault comes last, so that a careless loader has loaded the rest."""
    good = CONTRACT.init(9)
    less = {name: x for name, x in good.items() if name not in ("k_proj.bias", "out_proj.bias")}
    more = {
        **less,
        "q_proj.scale": good["q_proj.bias"],
        "out_proj.bias": good["out_proj.bias"][:4],
        "k_proj.bias": [0.0],
    }
    return {
        "missing": (less, ParamError, "missing k_proj.bias (2, 3); missing out_proj.bias (10,)"),
        "unexpected": ({**good, "a": good["q_proj.bias"], "b": 3}, ParamError, "unexpected a; unexpected b"),
        "misshapen": (
            {**good, "v_proj.bias": good["v_proj.bias"].T, "out_proj.bias": np.zeros((1, 10), np.float32)},
            ParamError,
            "v_proj.bias (5, 2) must be (2, 5); out_proj.bias (1, 10) must be (10,)",
        ),
        "all at once": (
            {name: x for name, x in more.items() if name != "v_proj.bias"},
            ParamError,
            "missing v_proj.bias (2, 5); unexpected q_proj.scale; k_proj.bias …list must be …; out_proj.bias (4,) must be",
        ),
        "lossy": (
            {**good, "k_proj.bias": np.zeros((2, 3)), "out_proj.bias": np.zeros(10, np.int32)},
            DTypeError,
            "k_proj.bias float64; out_proj.bias int32 must be float32: round them with spec.cast",
        ),
        "nothing": ({}, ParamError, "missing q_proj.kernel (10, 6, 3); missing q_proj.bias (6, 3); missing k_proj"),
    }


FAULTY = faulty()


class Unreadable:
    """It has the shape and dtype of an array, and cannot be read."""

    shape, dtype = (10,), np.dtype("float32")

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise RuntimeError("the disk is gone")


class TestRefusals:
    @pytest.mark.parametrize("fault", FAULTY)
    @each_backend
    def test_every_fault_is_named_and_nothing_is_loaded(self, backend: Backend, fault: str) -> None:
        weights, error, text = FAULTY[fault]
        layer = backend.layer(CONTRACT, seed=1)
        with pytest.raises(error, match=re.escape(text).replace("…", ".*"), check=lambda caught: type(caught) is error):
            layer.load_weights(weights)
        same_bits(layer.weights(), CONTRACT.init(1))

    @each_backend
    def test_an_array_that_cannot_be_read_leaves_nothing_half_loaded(self, backend: Backend) -> None:
        layer = backend.layer(CONTRACT, seed=1)
        with pytest.raises(ParamError, match="Unreadable must be ndarray or"):
            layer.load_weights(CONTRACT.init(9) | {"out_proj.bias": Unreadable()})
        same_bits(layer.weights(), CONTRACT.init(1))

    @pytest.mark.parametrize("make", [CONTRACT.init, lambda _seed, dtype: spec.cast({}, dtype) or numpy_dtype(dtype)])
    def test_an_unknown_dtype(self, make: Any) -> None:
        text = "dtype 'float8' must be one of float64, float32, bfloat16, float16"
        with pytest.raises(UnknownName, match=text, check=lambda caught: type(caught) is UnknownName):
            _ = make(0, "float8")
