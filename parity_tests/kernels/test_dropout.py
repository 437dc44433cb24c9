"""Dropout of weights in every kernel: the bits are those of the spec, and kept weights are rescaled.

context = (weights * keep / (1 - rate)) v        keep[b, h, t, s] = mantissa(threefry(seed, index)) < threshold(1 - rate)
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest

from attention.spec import random
from attention.torch_impl import random as torch_random
from attention.torch_impl.kernels.blockwise import steps
from parity_tests.support.backends import TORCH, Backend, Kernel, close, each_backend, each_kernel
from parity_tests.support.formula import SEED, qkv


class TestDropout:
    OPTIONS: ClassVar[dict[str, Any]] = {"dropout_rate": 0.25, "dropout_seed": SEED}

    @each_kernel
    def test_kept_weights_are_the_specs_bits_in_every_kernel(self, kernel: Kernel) -> None:
        q, k = np.zeros((2, 3, 3, 2, 8), np.float32), np.zeros((2, 3, 8, 1, 8), np.float32)
        v = np.broadcast_to(np.eye(8, dtype=np.float32)[:, None, :], (2, 3, 8, 1, 8)).copy()
        keep = random.keep(SEED, 0.25, (2, 3, 2, 3, 8))
        kept = np.moveaxis(kernel.attend(q, k, v, **self.OPTIONS), -2, -3)
        np.testing.assert_array_equal(kept, keep * np.float32(1 / 8 / 0.75))
        # No axis shares its bits with another place on it.
        assert all(len(np.unique(np.moveaxis(keep, axis, 0), axis=0)) > 1 for axis in range(keep.ndim))

    @pytest.mark.parametrize("seed", [0, 7, 2**31 - 1])
    @each_backend
    def test_a_seed_is_its_number_whatever_holds_it(self, backend: Backend, seed: int) -> None:
        kernel = Kernel(backend, "reference")
        given = qkv()
        wanted = kernel.attend(*given, dropout_rate=0.5, dropout_seed=seed)
        holders = [np.int64(seed), np.int32(seed), np.array(seed), np.array(seed, np.int32)]
        for held in holders:
            np.testing.assert_array_equal(kernel.attend(*given, dropout_rate=0.5, dropout_seed=held), wanted)
        high, held = (kernel.attend(*given, dropout_rate=0.5, dropout_seed=kind(2**32 + seed)) for kind in (int, np.int64))
        np.testing.assert_array_equal(held, high)
        assert not np.array_equal(high, wanted)

    @each_backend
    def test_the_mean_of_many_draws_is_the_undropped_value(self, backend: Backend) -> None:
        # v = 1 and zero scores: each output is (kept of 64) / 48. 4096 outputs of variance 1 / 192 have a mean within
        # 5 standard errors, 0.0056, of 1; to forget 1 / (1 - rate) gives 0.75.
        q, ones = np.zeros((64, 64, 1, 1)), np.ones((64, 64, 1, 1))
        out = Kernel(backend, "reference").attend(q, ones, ones, **self.OPTIONS)
        assert abs(out.mean() - 1) < 0.0056
        assert 0.9 < out.var() * 192 < 1.1

    @pytest.mark.parametrize("held", [0, 40, 2**20])
    def test_a_mask_that_is_drawn_again_is_the_mask_that_was_held(self, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
        given, along = qkv(), qkv()[0]
        whole = Kernel(TORCH, "reference").grads(*given, along, **self.OPTIONS)
        monkeypatch.setattr(steps, "HELD", held)
        monkeypatch.setattr(torch_random, "PIECE", 16)
        for got, wanted in zip(Kernel(TORCH, "blockwise").grads(*given, along, **self.OPTIONS), whole, strict=True):
            close(got, wanted, 1e-12)

    @each_kernel
    def test_weights_are_those_before_dropout(self, kernel: Kernel) -> None:
        given = qkv()
        dropped, whole = kernel.intermediates(*given, **self.OPTIONS), kernel.intermediates(*given)
        for intermediate in ("scores", "weights", "logsumexp"):
            np.testing.assert_array_equal(dropped[intermediate], whole[intermediate])
        assert not np.array_equal(dropped["context"], whole["context"])

    @each_kernel
    def test_a_rate_of_zero_drops_nothing(self, kernel: Kernel) -> None:
        given = qkv(dtype="float32")
        np.testing.assert_array_equal(kernel.attend(*given, dropout_rate=0.0, dropout_seed=3), kernel.attend(*given))
