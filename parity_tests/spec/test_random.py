"""Random bits: a function of (key, index), equal in NumPy, torch and JAX, and equal to JAX's own generator.

keep[i] = (bits[i] >> 9) < ceil(float32(1 - rate) * 2^23)
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attention.jax_impl import random as jax_random
from attention.spec import random
from attention.spec.errors import OptionError, ShapeError
from attention.torch_impl import random as torch_random
from parity_tests.support.absent import needs

SEEDS = (0, 7, 2**31, 2**32 - 1, 2**32 + 5, 2**64 - 1)
RATES = (0.0, 1e-9, 0.1, 0.3, 0.5, 1 - 2**-20)
SHAPE = (2, 3, 5, 7)

seeds = st.integers(0, 2**64 - 1)
words = st.integers(0, 2**32 - 1)
rates = st.floats(0, 1, exclude_max=True)


def keeps(seed: int, rate: float, shape: tuple[int, ...] = SHAPE) -> dict[str, np.ndarray]:
    """The dropout mask as each backend draws it."""
    return {
        "numpy": random.keep(seed, rate, shape),
        "torch": torch_random.keep(seed, rate, shape).numpy(),
        "jax": np.asarray(jax_random.keep(seed, rate, shape)),
    }


def key_of(seed: int) -> jax.Array:
    """JAX's own key; it reads a seed above 32 bits only in its 64-bit mode."""
    with jax.enable_x64(True):
        return jax.random.key(np.uint64(seed), impl="threefry2x32")


class TestLaws:
    @settings(max_examples=25)  # a hundred small operations each
    @given(st.tuples(words, words), st.lists(st.integers(0, 2**32 - 1), min_size=4, max_size=4))
    def test_one_text_counts_on_every_integer_type(self, key: tuple[int, int], counters: list[int]) -> None:
        wanted = [random.bits(key, n) for n in counters]
        long, short = np.asarray(counters, np.int64), np.asarray(counters, np.uint32)
        assert random.bits(key, long).tolist() == wanted
        assert random.bits(key, torch.from_numpy(long)).tolist() == wanted
        assert random.bits(tuple(map(np.uint32, key)), short).tolist() == wanted
        assert random.bits((jnp.uint32(key[0]), jnp.uint32(key[1])), jnp.asarray(short)).tolist() == wanted

    @given(seeds, rates, st.data())
    def test_a_tile_draws_what_the_whole_drew(self, seed: int, rate: float, data: st.DataObject) -> None:
        bounds = [sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in SHAPE]
        tile = tuple(slice(*bound) for bound in bounds)
        # A kernel computes the row-major index of its own elements, and nothing else.
        where = np.meshgrid(*(np.arange(*bound) for bound in bounds), indexing="ij")
        index = sum(n * stride for n, stride in zip(where, (105, 35, 7, 1), strict=True))
        kept = random.mantissa(random.key(seed), index) < random.keep_threshold(rate)
        np.testing.assert_array_equal(kept, random.keep(seed, rate, SHAPE)[tile])

    @given(seeds, st.integers(1, 30))
    def test_a_longer_draw_begins_with_the_shorter(self, seed: int, n: int) -> None:
        np.testing.assert_array_equal(random.uniform(random.key(seed), (n,)), random.uniform(random.key(seed), (31,))[:n])

    @given(rates)
    def test_the_chance_to_keep_is_the_rate_to_one_part_in_2_23(self, rate: float) -> None:
        # Of the 2^23 equally likely draws, the threshold many are kept.
        chance = random.keep_threshold(rate) * 2.0**-23
        assert 0 <= chance - float(np.float32(1 - rate)) < 2.0**-23

    @given(seeds)
    def test_a_draw_that_meets_the_threshold_is_dropped(self, seed: int) -> None:
        drawn = int(random.mantissa(random.key(seed), 0))
        if drawn:
            assert not random.keep(seed, 1 - drawn * 2.0**-23, ()).item()
            assert random.keep(seed, 1 - (drawn + 1) * 2.0**-23, ()).item()

    @given(seeds, rates, rates)
    def test_a_higher_rate_drops_more_of_the_same_weights(self, seed: int, low: float, high: float) -> None:
        low, high = sorted((low, high))
        assert not (random.keep(seed, high, (64,)) & ~random.keep(seed, low, (64,))).any()

    def test_children_of_a_key_differ_from_it_and_from_each_other(self) -> None:
        keys = [random.fold_in(random.key(3), number) for number in range(100)]
        assert len({random.key(3), *keys}) == 101

    def test_uniform_numbers_are_multiples_of_2_to_the_minus_22_from_minus_1(self) -> None:
        drawn = random.uniform(random.key(1), (10_000,))
        assert drawn.dtype == np.float32
        steps = drawn.astype(np.float64) * 2.0**22
        np.testing.assert_array_equal(steps, np.round(steps))
        assert -1 <= drawn.min() < -0.999
        assert 0.999 < drawn.max() < 1


class TestBackends:
    @pytest.mark.parametrize("rate", RATES)
    @pytest.mark.parametrize("seed", SEEDS)
    def test_dropout_is_bit_equal_and_that_of_jax(self, seed: int, rate: float) -> None:
        drawn = keeps(seed, rate)
        bernoulli = jax.random.bernoulli(key_of(seed), np.float32(1 - rate), SHAPE)
        for backend, kept in drawn.items():
            assert kept.dtype == bool
            np.testing.assert_array_equal(kept, bernoulli, err_msg=backend)

    def test_every_backend_drops_a_draw_that_meets_the_threshold(self) -> None:
        drawn = int(random.mantissa(random.key(7), 0))
        for above in (0, 1):
            kept = keeps(7, 1 - (drawn + above) * 2.0**-23, (1,))
            assert {backend: mask.item() for backend, mask in kept.items()} == dict.fromkeys(kept, bool(above))

    @pytest.mark.parametrize("seed", SEEDS)
    def test_bits_are_those_of_jax(self, seed: int) -> None:
        index = np.arange(math.prod(SHAPE)).reshape(SHAPE)
        np.testing.assert_array_equal(random.bits(random.key(seed), index), jax.random.bits(key_of(seed), SHAPE))

    @pytest.mark.parametrize("number", [0, 1, 2**32 - 1])
    @pytest.mark.parametrize("seed", SEEDS)
    def test_children_are_those_of_jax(self, seed: int, number: int) -> None:
        child = jax.random.fold_in(key_of(seed), np.uint32(number))
        assert random.fold_in(random.key(seed), number) == tuple(jax.random.key_data(child).tolist())

    @pytest.mark.parametrize("seed", SEEDS)
    def test_uniform_numbers_are_bit_equal_and_those_of_jax(self, seed: int) -> None:
        wanted = 2 * np.asarray(jax.random.uniform(key_of(seed), SHAPE, np.float32)) - 1
        key = random.key(seed)
        np.testing.assert_array_equal(random.uniform(key, SHAPE), wanted)
        np.testing.assert_array_equal(torch_random.uniform(key, SHAPE).numpy(), wanted)
        np.testing.assert_array_equal(jax_random.uniform(jax_random.key(seed), SHAPE), wanted)

    @pytest.mark.parametrize("seed", [0, 7, 2**31 - 1])
    def test_a_seed_may_be_an_array_and_traced(self, seed: int) -> None:
        wanted = random.keep(seed, 0.3, SHAPE)
        compiled = jax.jit(lambda seed: jax_random.keep(seed, 0.3, SHAPE))
        for dtype in (jnp.int32, jnp.uint32):
            np.testing.assert_array_equal(compiled(jnp.asarray(seed, dtype)), wanted)
        for dtype in (torch.int32, torch.int64):
            np.testing.assert_array_equal(torch_random.keep(torch.tensor(seed, dtype=dtype), 0.3, SHAPE).numpy(), wanted)
        np.testing.assert_array_equal(random.keep(np.asarray(seed), 0.3, SHAPE), wanted)

    def test_a_negative_array_is_its_low_word(self) -> None:
        wanted = random.keep(2**32 - 3, 0.3, SHAPE)
        np.testing.assert_array_equal(jax_random.keep(jnp.int32(-3), 0.3, SHAPE), wanted)
        np.testing.assert_array_equal(torch_random.keep(torch.tensor(-3), 0.3, SHAPE).numpy(), wanted)
        np.testing.assert_array_equal(torch_random.keep(torch.tensor(-3, dtype=torch.int32), 0.3, SHAPE).numpy(), wanted)

    def test_the_64_bit_mode_of_jax_changes_nothing(self) -> None:
        with jax.enable_x64(True):
            np.testing.assert_array_equal(jax_random.keep(2**32 + 5, 0.3, SHAPE), random.keep(2**32 + 5, 0.3, SHAPE))

    def test_a_numpy_integer_is_the_int_it_is(self) -> None:
        for kept in keeps(np.int64(2**32 + 5), 0.3).values():  # pyright: ignore[reportArgumentType]
            np.testing.assert_array_equal(kept, random.keep(2**32 + 5, 0.3, SHAPE))


class TestTransforms:
    def test_torch_draws_in_pieces_what_it_draws_whole(self, monkeypatch: pytest.MonkeyPatch) -> None:
        wanted = random.keep(2**32 + 5, 0.3, SHAPE)
        for piece in (1, 8, 64, 210, 2**16):
            monkeypatch.setattr(torch_random, "PIECE", piece)
            np.testing.assert_array_equal(torch_random.keep(2**32 + 5, 0.3, SHAPE).numpy(), wanted)

    def test_an_index_counts_modulo_2_to_the_32(self) -> None:
        of, index = random.key(2**40 + 3), np.array([0, 1, 2**31 - 1, 2**31, 2**32 - 1])
        wanted = random.mantissa(of, index) < 2**22
        for tensor in (torch.from_numpy(index), torch.from_numpy(index.astype(np.int32))):
            np.testing.assert_array_equal(torch_random.below(of, 2**22, tensor.clone()).numpy(), wanted)

    def test_torch_vmap_draws_by_each_seed(self) -> None:
        drawn = torch.func.vmap(lambda seed: torch_random.keep(seed, 0.3, SHAPE))(torch.tensor([3, 7]))
        for got, seed in zip(drawn, (3, 7), strict=True):
            np.testing.assert_array_equal(got.numpy(), random.keep(seed, 0.3, SHAPE))

    # Inductor's own imports still write TorchScript.
    @pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
    def test_torch_compiled_draws_the_same_bits(self) -> None:
        torch.compiler.reset()
        compiled = torch.compile(lambda seed: torch_random.keep(seed, 0.3, SHAPE), fullgraph=True, dynamic=True)
        for seed in (7, 2**31 - 1):
            np.testing.assert_array_equal(compiled(torch.tensor(seed)).numpy(), random.keep(seed, 0.3, SHAPE))

    @needs("jax")
    def test_devices_of_jax_draw_their_own_part_of_the_same_mask(self) -> None:
        # The number of devices is fixed when JAX begins, and its compiler is as users run it.
        flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
        path = [str(Path(__file__).parents[2])]
        done = subprocess.run(
            [sys.executable, "-c", SHARDED], env={**os.environ, **flags, "PYTHONPATH": os.pathsep.join(path)}, check=False
        )
        assert done.returncode == 0


SHARDED = """
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from attention.jax_impl import random as in_jax
from attention.spec.random import jax_random
from attention.spec import random

shape = (2, 4, 6, 8)
mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("b", "h"))
wanted = random.keep(2**32 + 5, 0.3, shape)
for spec in (PartitionSpec("b", "h"), PartitionSpec(None, "h", "b"), PartitionSpec()):
    placed = NamedSharding(mesh, PartitionSpec(*spec))
    made = jax.jit(lambda seed: in_jax.keep(seed, 0.3, shape), out_shardings=placed)(jax.numpy.uint32([1, 5]))
    assert len(made.addressable_shards) == 4
    np.testing.assert_array_equal(made, wanted)
# Bounds whose product and sum are rounded as one.
key = jax_random.key(3)
np.testing.assert_array_equal(
    jax_random.uniform(key, (999,), "float32", -0.3, 2.7), jax.random.uniform(jax.random.key(3), (999,), "float32", -0.3, 2.7)
)
"""


class TestValues:
    # Random123's known-answer file kat_vectors, "threefry 2x32 20", which JAX's own tests quote too.
    KNOWN = (
        (0x00000000, 0x00000000, 0x00000000, 0x00000000, 0x6B200159, 0x99BA4EFE),
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0x1CB996FC, 0xBB002BE7),
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xC4923A9C, 0x483DF7A0),
    )

    @pytest.mark.parametrize(("x0", "x1", "k0", "k1", "y0", "y1"), KNOWN)
    def test_threefry_known_answers(self, x0: int, x1: int, k0: int, k1: int, y0: int, y1: int) -> None:
        assert random.threefry2x32((k0, k1), x0, x1) == (y0, y1)
        for array in (lambda x: np.asarray([x], np.uint32), lambda x: torch.tensor([x]), lambda x: jnp.uint32([x])):
            got = random.threefry2x32((array(k0), array(k1)), array(x0), array(x1))
            assert [word.tolist() for word in got] == [[y0], [y1]]

    def test_a_label_is_the_crc_32_of_the_name(self) -> None:
        # The check value of CRC-32 in the RevEng catalogue.
        assert random.label("123456789") == 0xCBF43926

    @pytest.mark.parametrize(("rate", "wanted"), [(0.0, 2**23), (0.5, 2**22), (0.75, 2**21), (1 - 2**-23, 1)])
    def test_thresholds(self, rate: float, wanted: int) -> None:
        assert random.keep_threshold(rate) == wanted

    @pytest.mark.parametrize("keep", [random.keep, torch_random.keep, jax_random.keep], ids=lambda keep: keep.__module__)
    def test_a_scalar_of_numpy_keeps_its_high_word(self, keep: Callable[..., Any]) -> None:
        seed = 2**32 + 5
        for number in (np.array(seed), np.int64(seed)):
            np.testing.assert_array_equal(np.asarray(keep(number, 0.3, SHAPE)), random.keep(seed, 0.3, SHAPE))

    def test_torch_draws_where_it_is_told_to_and_not_where_tensors_are_made(self) -> None:
        with torch.device("meta"):
            drawn = torch_random.keep(0, 0.3, SHAPE, torch.device("cpu"))
        np.testing.assert_array_equal(drawn.numpy(), random.keep(0, 0.3, SHAPE))


class TestRefusals:
    @pytest.mark.parametrize("rate", [1.0, -0.1, 1.5, math.nan, math.inf])
    @pytest.mark.parametrize("keep", [random.keep, torch_random.keep, jax_random.keep], ids=lambda keep: keep.__module__)
    def test_a_rate_outside_0_to_1(self, keep: Callable[..., Any], rate: float) -> None:
        text = rf"dropout_rate {rate} must be in \[0, 1\)"
        with pytest.raises(OptionError, match=text, check=lambda caught: type(caught) is OptionError):
            _ = keep(0, rate, SHAPE)

    @pytest.mark.parametrize("seed", [-1, 2**64])
    @pytest.mark.parametrize("keep", [random.keep, torch_random.keep, jax_random.keep], ids=lambda keep: keep.__module__)
    def test_a_seed_of_more_than_64_bits(self, keep: Callable[..., Any], seed: int) -> None:
        text = rf"seed {seed} must be in \[0, 2\*\*64\)"
        with pytest.raises(OptionError, match=text, check=lambda caught: type(caught) is OptionError):
            _ = keep(seed, 0.5, SHAPE)

    @pytest.mark.parametrize("keep", [random.keep, torch_random.keep, jax_random.keep], ids=lambda keep: keep.__module__)
    def test_more_numbers_than_a_word_can_index(self, keep: Callable[..., Any]) -> None:
        text = r"shape \(65536, 65536\) must hold fewer than 2\*\*32 random numbers, not 4294967296"
        with pytest.raises(ShapeError, match=text, check=lambda caught: type(caught) is ShapeError):
            _ = keep(0, 0.5, (65536, 65536))

    @pytest.mark.parametrize("keep", [random.keep, torch_random.keep, jax_random.keep], ids=lambda keep: keep.__module__)
    def test_a_seed_that_is_no_integer(self, keep: Callable[..., Any]) -> None:
        with pytest.raises(OptionError, match=r"seed 1\.5 must be an int in"):
            _ = keep(1.5, 0.5, SHAPE)
