"""Cost model: equal to counts by hand on the tiles of a kernel, and an upper bound for traced masks.

forward FLOPs = 2 pairs (D + E)        backward FLOPs = 2 pairs (2 D + 2 E), and 2 pairs D where no weights were kept
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf, nan
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attention import spec
from attention.spec.axes import Sizes
from attention.spec.errors import OptionError
from attention.spec.kernels import Request
from attention.spec.kernels.auto_rules import STRUCTURES
from attention.spec.kernels.cost import Cost, Machine, Prediction, Traits, predict
from attention.spec.masks.algebra import Mask, evaluate

B, T, S, H, K, D, E = 2, 12, 20, 6, 3, 8, 5
SIZES = Sizes((B,), T, S, H, K, D, E)
EVERY = Traits(follows=STRUCTURES, tile=(1, 1))
FUSED = Traits()
MASKS = [
    None,
    spec.Causal(align="end"),
    spec.Window(before=3, after=0, align="end"),
    spec.Lengths([7, 20]),
    spec.Segments(np.arange(S) // 7, np.arange(T) // 7),
    spec.Causal(align="start") & spec.Lengths([7, 0]),
    spec.DenseMask(np.arange(T)[:, None] % 3 < np.arange(S) % 4),
    spec.Prefix(0),
]


def request(mask: Mask | None = None, sizes: Sizes = SIZES, dtype: str = "float32", **options: Any) -> Request:
    return Request(None, None, None, sizes, dtype, 1.0, mask, **options)


class TestValues:
    def test_a_call_counted_by_hand(self) -> None:
        made = predict(request(), FUSED)
        pairs = 2 * 6 * 12 * 20
        q, k, v, context = 2 * 12 * 6 * 8, 2 * 20 * 3 * 8, 2 * 20 * 3 * 5, 2 * 12 * 6 * 5
        assert made.least == made.most == Cost(2 * pairs * (8 + 5), 4 * (q + k + v + context))
        both = predict(request(), FUSED, backward=True).most
        # Forward; then q k^T, dq, dk with D and d weights, dv with E.
        assert both.flops == made.most.flops + 2 * pairs * (3 * 8 + 2 * 5)
        statistics = 2 * 12 * 6
        assert both.bytes == 4 * (3 * q + 3 * (k + v) + 3 * context + 2 * statistics)

    def test_kept_weights_save_a_product_and_cost_memory(self) -> None:
        written, fused = (predict(request(), traits, backward=True).most for traits in (Traits(writes_scores=True), FUSED))
        pairs = 2 * 6 * 12 * 20
        assert fused.flops - written.flops == 2 * pairs * 8
        assert written.bytes - fused.bytes == 4 * (9 * pairs - 2 * 2 * 12 * 6)

    @pytest.mark.parametrize(("dtype", "size"), [("float64", 8), ("float32", 4), ("bfloat16", 2), ("float16", 2)])
    def test_bytes_follow_the_dtype_and_arithmetic_does_not(self, dtype: str, size: int) -> None:
        one, four = predict(request(dtype=dtype)).most, predict(request()).most
        assert (one.flops, one.bytes) == (four.flops, four.bytes * size / 4)

    def test_flash_attention_counts_the_same(self) -> None:
        # 4 T S D H forward, 2.5 times that backward: Dao, arXiv:2307.08691, section 4.1.
        sizes = Sizes((1,), 512, 512, 16, 16, 128, 128)
        forward, both = (predict(request(sizes=sizes), FUSED, backward=x).most.flops for x in (False, True))
        assert (forward, both) == (4 * 512 * 512 * 128 * 16, 3.5 * forward)

    def test_a_bias_and_a_mask_as_an_array_are_read(self) -> None:
        plain = predict(request()).most
        assert predict(request(bias=np.zeros((H, T, S), np.float32))).most.bytes - plain.bytes == 4 * H * T * S
        # One for each row of the batch, in bytes; a kernel that follows it has none.
        mask = spec.Lengths([7, 20])
        assert predict(request(mask)).most.bytes - plain.bytes == B * T * S
        assert predict(request(mask), EVERY).most.bytes < plain.bytes

    def test_a_machine_is_bound_by_the_slower_of_two(self) -> None:
        machine = Machine(peak=100.0, bandwidth=10.0)
        assert (machine.ridge, Cost(30.0, 2.0).intensity, Cost(1.0, 0.0).intensity) == (10.0, 15.0, inf)
        assert (machine.seconds(Cost(300.0, 20.0)), machine.limit(Cost(300.0, 20.0))) == (3.0, "arithmetic")
        assert (machine.seconds(Cost(100.0, 20.0)), machine.limit(Cost(100.0, 20.0))) == (2.0, "memory")
        assert Cost(1.0, 2.0) + Cost(3.0, 5.0) == Cost(4.0, 7.0)


class TestLaws:
    @pytest.mark.parametrize("mask", MASKS, ids=repr)
    def test_tiles_of_one_score_count_the_mask_itself(self, mask: Mask | None) -> None:
        allowed = evaluate(mask, SIZES)
        full = np.ones(SIZES.scores, bool) if allowed is None else np.broadcast_to(allowed, SIZES.scores)
        made = predict(request(mask), EVERY)
        assert made.density == (pytest.approx(full.mean(), abs=1e-12),) * 2
        assert made.most.flops == pytest.approx(2 * full.sum() * (D + E), abs=1e-6)
        # A key that nobody of its row may attend to is not read.
        keys = full.any((1, 2)).mean() * B * S * K * (D + E)
        assert made.most.bytes == pytest.approx(4 * (B * T * H * (D + E) + keys), abs=1e-6)

    @pytest.mark.parametrize("mask", MASKS[1:], ids=repr)
    @given(tile=st.tuples(st.integers(1, 16), st.integers(1, 24)))
    def test_larger_tiles_never_do_less_and_no_tiles_do_all(self, mask: Mask, tile: tuple[int, int]) -> None:
        exact, tiled, dense = (predict(request(mask), x) for x in (EVERY, replace(EVERY, tile=tile), FUSED))
        assert exact.most.flops <= tiled.most.flops <= dense.most.flops == predict(request()).most.flops
        assert exact.most.bytes <= tiled.most.bytes <= dense.most.bytes

    def test_a_kernel_skips_what_it_follows_alone(self) -> None:
        for mask, less in ((spec.Causal(align="end"), True), (spec.Window(before=1, after=0, align="end"), False)):
            made = predict(request(mask), replace(EVERY, follows=("causal",))).most
            assert (made.flops < predict(request()).most.flops) == less

    def test_traced_numbers_give_bounds_between_which_the_known_cost_lies(self) -> None:
        seen: list[Prediction] = []
        causal = spec.Causal(align="start")

        def traced(lengths: jax.Array) -> jax.Array:
            seen.append(predict(request(causal & spec.Lengths(lengths)), EVERY))
            return lengths

        _ = jax.eval_shape(traced, np.array([7, 3], np.int32))
        (bounds,) = seen
        assert bounds.density == (0.0, predict(request(causal), EVERY).density[1])
        for lengths in ([7, 3], [0, 0], [S, S]):
            known = predict(request(causal & spec.Lengths(lengths)), EVERY)
            assert known.least == known.most
            assert bounds.least.flops <= known.most.flops <= bounds.most.flops
            assert bounds.least.bytes <= known.most.bytes <= bounds.most.bytes

    @pytest.mark.parametrize("native", [torch.tensor, jnp.asarray])
    def test_a_frameworks_own_arrays_cost_the_same(self, native: Callable[[np.ndarray], Any]) -> None:
        mask = spec.Causal(align="start") & spec.Lengths([7, 3])
        assert predict(request(mask.map(native)), EVERY) == predict(request(mask), EVERY)

    def test_nothing_costs_nothing(self) -> None:
        for sizes in (Sizes((2,), 0, 5, 2, 2, 4, 4), Sizes((2,), 5, 0, 2, 2, 4, 4), Sizes((0,), 5, 5, 2, 2, 4, 4)):
            assert predict(request(spec.Prefix(0), sizes), EVERY, backward=True).most.flops == 0


class TestRefusals:
    @pytest.mark.parametrize("value", [0.0, -1.0, inf, nan])
    @pytest.mark.parametrize("name", ["peak", "bandwidth"])
    def test_a_machine_is_made_of_positive_numbers(self, name: str, value: float) -> None:
        with pytest.raises(OptionError, match=f"Machine {name} .* must be a positive finite number"):
            _ = Machine(**{"peak": 1.0, "bandwidth": 1.0, name: value})

    def test_traits_follow_known_structures(self) -> None:
        with pytest.raises(OptionError, match="Traits follows 'triangle' must be among window, documents"):
            _ = Traits(follows=("causal", "triangle"))
