"""`dot_product_attention` with every kernel of both backends.

float32 is compared without a tolerance, on numbers whose answer is exact: zero scores (every weight is 1 / n) and
scores so far apart that one key takes all. float64 is compared with the formula, and the formula with plain loops.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from attention import spec
from attention.spec.masks.algebra import Mask
from parity_tests.support.backends import KERNELS, Kernel, close, each_kernel, numbers
from parity_tests.support.covering import pairwise
from parity_tests.support.formula import CASES, SEGMENTS, B, D, H, K, S, T, allowed_by, formula, loops, qkv, resolved

each_case = pytest.mark.parametrize("case", CASES)


def indicator(t: int, s: int, heads: int) -> tuple[np.ndarray, ...]:
    """Return zero queries and keys, and values of one hot feature a key, so that a context is its row of weights."""
    q, k = np.zeros((B, t, heads, s), np.float32), np.zeros((B, s, heads, s), np.float32)
    return q, k, np.broadcast_to(np.eye(s, dtype=np.float32)[:, None, :], k.shape).copy()


def pattern(kernel: Kernel, mask: Mask | None, t: int, s: int, heads: int = 1, **options: Any) -> np.ndarray:
    """Return the weights `(B, heads, t, s)` of zero scores, read off through v = identity: each is 0 or 1 / n."""
    return np.moveaxis(kernel.attend(*indicator(t, s, heads), mask=mask, **options), -2, -3)


def drawn(rows: str) -> np.ndarray:
    return np.array([[letter == "1" for letter in row] for row in rows.split()])


# Three queries and five keys, by hand. Causal sees 1, 2, 3 keys from the start, as torch's `is_causal` and `jax.nn` do, and 3,
# 4, 5 from the end, as FlashAttention and torch's `causal_lower_right` do.
KEYS_SEEN: dict[str, tuple[Mask, str]] = {
    "causal start": (spec.Causal(align="start"), "10000 11000 11100"),
    "causal end": (spec.Causal(align="end"), "11100 11110 11111"),
    "causal positions": (spec.Causal(query_positions=[3, 0, 4]), "11110 10000 11111"),
    "one before": (spec.Window(before=1, after=0, align="start"), "10000 11000 01100"),
    "one before, two after": (spec.Window(before=1, after=2, align="end"), "01111 00111 00011"),
    "all before, one after": (spec.Window(before=None, after=1, align="start"), "11000 11100 11110"),
    "itself": (spec.Window(before=0, after=0, query_positions=[4, 2, 4]), "00001 00100 00001"),
    "chunked": (spec.Chunked(size=2, align="end"), "00110 00110 00001"),
    "prefix": (spec.Prefix(2), "11000 11000 11000"),
    "or": (spec.Prefix(2) | spec.Causal(align="end"), "11100 11110 11111"),
    "and not": (~spec.Prefix(2) & spec.Causal(align="end"), "00100 00110 00111"),
    "segments": (spec.Segments(kv=[[7, 7, 2, -1, 2]], q=[[2, 7, -1]]), "00101 11000 00000"),
    "right padding": (spec.Lengths(kv=[2, 2], q=[1, 1]), "11000 00000 00000"),
    "left padding": (spec.Lengths(kv=[2, 2], q=[1, 1], padding="left"), "00000 00000 00011"),
    "dense": (spec.DenseMask(drawn("10010 00000 01111")), "10010 00000 01111"),
}

HIDES: dict[str, Mask] = {
    "right": spec.Lengths(kv=[4, 0], q=[5, 3]),
    "left": spec.Lengths(kv=[4, 6], q=[2, 5], padding="left") & spec.Causal(align="end"),
    "segments": SEGMENTS,
    # Nobody sees key 1 of the second key head, which the first has: heads 2 and 3.
    "heads": spec.DenseMask(np.ones((H, T, S), bool) & ~((np.arange(H) >= 2)[:, None, None] & (np.arange(S) == 1))),
}


class TestValues:
    @each_case
    def test_the_formula_is_the_loops(self, case: str) -> None:
        changed, options = CASES[case]
        given = qkv(**changed)
        intermediates = formula(*given, **options)
        context, logsumexp = loops(*given, **resolved(*given, options))
        close(intermediates["context"], context, 1e-14)
        close(intermediates["logsumexp"], logsumexp, 1e-14)

    @each_case
    @each_kernel
    def test_float64_is_the_formula_to_1e_14(self, kernel: Kernel, case: str) -> None:
        changed, options = CASES[case]
        given = qkv(**changed)
        wanted = formula(*given, **options)
        for name, intermediate in kernel.intermediates(*given, **options).items():
            close(intermediate, wanted[name], 1e-14)
        close(kernel.attend(*given, **options), wanted["context"], 1e-14)

    @pytest.mark.parametrize("name", KEYS_SEEN)
    @each_kernel
    def test_keys_seen(self, kernel: Kernel, name: str) -> None:
        mask, rows = KEYS_SEEN[name]
        seen = drawn(rows).astype(np.float32)
        weights = seen / np.maximum(seen.sum(-1, keepdims=True), 1)
        np.testing.assert_array_equal(pattern(kernel, mask, 3, 5), np.broadcast_to(weights, (B, 1, 3, 5)))

    @pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
    @each_kernel
    def test_head_h_reads_key_head_h_over_the_group(self, kernel: Kernel, dtype: str) -> None:
        # Key s of head c is 512 * e[s ^ c], so that query 512 * e[t] finds key t ^ (h // 2) and nothing else. Scores
        # reach 2^18 / sqrt(4), more than float16 holds.
        kind = spec.cast({"x": np.zeros(1)}, dtype)["x"].dtype
        eye, s, head = 512 * np.eye(4), np.arange(4)[:, None], np.arange(2)
        q = np.broadcast_to(eye[:, None, :], (4, 4, 4)).astype(kind)
        k = eye[s ^ head].astype(kind)
        v = np.broadcast_to((10.0 * head + s)[..., None], k.shape).astype(kind)
        out = kernel.attend(q, k, v)
        group = np.arange(4) // 2
        assert out.dtype == kind
        np.testing.assert_array_equal(out[..., 0].astype(float), 10.0 * group + (s ^ group))

    @each_kernel
    def test_scale_defaults_to_one_over_the_root_of_d(self, kernel: Kernel) -> None:
        given = qkv(dtype="float32")
        default = kernel.attend(*given)
        np.testing.assert_array_equal(kernel.attend(*given, scale=3**-0.5), default)
        assert not np.array_equal(kernel.attend(*given, scale=0.5774), default)

    @each_kernel
    def test_softmax_and_sums_run_in_float32(self, kernel: Kernel) -> None:
        # A sum of ones in bfloat16 stays at 256, and one in float16 at 2048.
        for kind in (jnp.bfloat16, np.float16):
            ones = np.ones((4099, 1, 2)).astype(kind)
            np.testing.assert_array_equal(kernel.attend(np.zeros((1, 1, 2), kind), ones, ones), ones[:1])

    @pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
    @each_kernel
    def test_intermediates_come_in_the_compute_dtype(self, kernel: Kernel, dtype: str) -> None:
        given = [spec.cast({"x": x}, dtype)["x"] for x in qkv()]
        intermediates = kernel.intermediates(*given)
        compute = "float64" if dtype == "float64" else "float32"
        assert {name: str(x.dtype) for name, x in intermediates.items()} == dict.fromkeys(spec.INTERMEDIATES, compute) | {
            "context": dtype
        }
        # The formula on the rounded inputs, in float64: what float32 or less gets wrong is the sums, not the inputs.
        wanted = formula(*(x.astype(np.float64) for x in given))
        np.testing.assert_allclose(intermediates["weights"], wanted["weights"], rtol=0, atol=1e-6)

    @pytest.mark.parametrize("allowed", [7, 3, 1])
    @each_kernel
    def test_logsumexp_is_the_natural_log(self, kernel: Kernel, allowed: int) -> None:
        q, k, v = qkv()
        intermediates = kernel.intermediates(0 * q, k, v, mask=spec.Prefix(allowed))
        close(intermediates["logsumexp"], np.full((B, H, T), np.log(allowed)), 1e-15)
        sunk = kernel.intermediates(0 * q, k, v, mask=spec.Prefix(allowed), sinks=np.zeros(H))
        close(sunk["logsumexp"], np.full((B, H, T), np.log(allowed + 1)), 1e-15)
        close(sunk["weights"].sum(-1), np.full((B, H, T), allowed / (allowed + 1)), 1e-15)

    @each_kernel
    def test_a_bias_of_minus_infinity_forbids(self, kernel: Kernel) -> None:
        seen = drawn("1100110 0000000 1111111 0000001 1010101")
        forbids = np.where(seen, np.float32(0), -np.inf)
        even = np.broadcast_to((seen / np.maximum(seen.sum(-1, keepdims=True), 1)).astype(np.float32), (B, 1, T, S))
        q, k, v = qkv(dtype="float32")
        for mask in (None, spec.Lengths(kv=[S, S])):
            np.testing.assert_array_equal(pattern(kernel, mask, T, S, bias=forbids), even)
        assert all(np.isfinite(g).all() for g in kernel.grads(q, k, v, q, bias=forbids))

    @pytest.mark.parametrize("shape", [(S,), (T, 1), (H, 1, S), (B, 1, T, S)], ids=str)
    @each_kernel
    def test_masks_and_biases_broadcast_to_the_scores(self, kernel: Kernel, shape: tuple[int, ...]) -> None:
        # exp(-1000) is 0 beside exp(0), so where a row has a key without it, a bias of -1000 forbids as the mask does.
        allowed = (numbers(11, *shape) > 0) | (np.arange(S) == 3)
        seen = np.broadcast_to(allowed, (B, H, T, S)).astype(np.float32)
        even = seen / seen.sum(-1, keepdims=True)
        np.testing.assert_array_equal(pattern(kernel, spec.DenseMask(allowed), T, S, H), even)
        np.testing.assert_array_equal(pattern(kernel, None, T, S, H, bias=np.where(allowed, np.float32(0), -1000)), even)

    @each_kernel
    def test_no_queries_give_no_rows(self, kernel: Kernel) -> None:
        q, k, v = qkv(dtype="float32")
        assert kernel.attend(q[:, :0], k, v).shape == (B, 0, H, D)
        assert kernel.attend(q[:0], k[:0], v[:0]).shape == (0, T, H, D)

    @each_kernel
    def test_no_keys_give_empty_rows(self, kernel: Kernel) -> None:
        q, k, v = qkv(dtype="float32")
        intermediates = kernel.intermediates(q, k[:, :0], v[:, :0])
        np.testing.assert_array_equal(kernel.attend(q, k[:, :0], v[:, :0]), np.zeros_like(q))
        np.testing.assert_array_equal(intermediates["context"], 0)
        np.testing.assert_array_equal(intermediates["logsumexp"], -np.inf)
        for gradient in kernel.grads(q, k[:, :0], v[:, :0], np.ones_like(q)):
            np.testing.assert_array_equal(gradient, 0)


class TestLaws:
    @each_kernel
    def test_weights_are_even_over_what_any_mask_allows(self, kernel: Kernel) -> None:
        # The mask is an argument, so that JAX compiles the call once for all of them.
        call = kernel.backend.whole(partial(kernel.backend.module.dot_product_attention, implementation=kernel.name))
        given_ = [kernel.backend.array(x) for x in indicator(3, 5, 2)]

        @settings(max_examples=15)
        @given(arrays(bool, (B, 2, 3, 5)))
        def holds(allowed: np.ndarray) -> None:
            even = allowed / np.maximum(allowed.sum(-1, keepdims=True), 1)
            got = kernel.backend.numpy(call(*given_, mask=spec.DenseMask(kernel.backend.array(allowed))))
            np.testing.assert_array_equal(np.moveaxis(got, -2, -3), even.astype(np.float32))

        holds()

    @each_kernel
    def test_an_empty_row_is_zero_everywhere(self, kernel: Kernel) -> None:
        given, mask = qkv(), spec.Lengths(kv=[4, 0]) & spec.DenseMask(np.arange(T)[:, None] != 2)
        empty = ~np.any(allowed_by(mask, *given), axis=-1)
        empty_rows = np.moveaxis(empty, -1, -2)
        intermediates = kernel.intermediates(*given, mask=mask)
        np.testing.assert_array_equal(intermediates["weights"][empty], 0)
        np.testing.assert_array_equal(intermediates["logsumexp"] == -np.inf, empty)
        np.testing.assert_array_equal(intermediates["context"][empty_rows], 0)
        close(intermediates["weights"].sum(-1), np.where(empty, 0.0, 1.0), 1e-15)
        for intermediate in ("context", "logsumexp", "weights"):
            along = np.where(np.isfinite(intermediates[intermediate]), numbers(8, *intermediates[intermediate].shape), 0)
            dq, dk, dv = kernel.grads(*given, along, intermediate=intermediate, mask=mask)
            assert all(np.isfinite(g).all() for g in (dq, dk, dv))
            np.testing.assert_array_equal(dq[empty_rows], 0)
            np.testing.assert_array_equal([dk[1], dv[1]], 0)

    # FlashAttention hides later keys by -inf before it multiplies by the scale.
    @each_kernel
    @pytest.mark.parametrize("scale", [-0.7, 0.0])
    @pytest.mark.parametrize("align", ["start", "end"])
    def test_a_scale_may_be_negative_or_zero_beside_a_causal_mask(self, kernel: Kernel, scale: float, align: str) -> None:
        (q, k, v), mask, along = qkv(), spec.Causal(align=align), numbers(8, B, T, H, D)
        sign = np.sign(scale)
        same = (q * sign, k, v), {"mask": mask, "scale": abs(scale) or 1.0}
        close(kernel.attend(q, k, v, mask=mask, scale=scale), kernel.attend(*same[0], **same[1]), 1e-14)
        dq, *others = kernel.grads(*same[0], along, **same[1])
        for got, wanted in zip(kernel.grads(q, k, v, along, mask=mask, scale=scale), (dq * sign, *others), strict=True):
            close(got, wanted, 1e-14)

    # `test_mask_packing.py` asks every kernel of poison in documents too.
    @pairwise("kernel, name", KERNELS, HIDES, strength=1)
    def test_what_nobody_sees_reaches_nothing(self, kernel: Kernel, name: str) -> None:
        mask, (q, k, v) = HIDES[name], qkv(dtype="float32")
        allowed = allowed_by(mask, q, k, v)
        unseen = ~np.any(allowed.reshape(B, K, -1, S), axis=-2).swapaxes(-1, -2)[..., None]
        empty = ~np.any(allowed, axis=-1).swapaxes(-1, -2)[..., None]
        assert unseen.any()
        poisons = np.array([np.nan, np.inf, -np.inf], np.float32)
        given = ((empty, q), (unseen, k), (unseen, v))
        bad_q, bad_k, bad_v = (np.where(at, np.resize(poisons, x.shape), x) for at, x in given)
        bias, along = numbers(9, H, T, S, dtype="float32"), numbers(8, B, T, H, D, dtype="float32")
        calls: tuple[dict[str, Any], ...] = ({}, {"bias": bias})
        for options in calls:
            clean = kernel.attend(q, k, v, mask=mask, **options)
            assert np.isfinite(clean).all()
            np.testing.assert_array_equal(kernel.attend(bad_q, bad_k, bad_v, mask=mask, **options), clean)
            wanted = kernel.grads(q, k, v, along, mask=mask, **options)
            got = kernel.grads(bad_q, bad_k, bad_v, along, mask=mask, **options)
            for one, other in zip(got, wanted, strict=True):
                assert np.isfinite(other).all()
                np.testing.assert_array_equal(one, other)
            for gradient, nobody in zip(got, (empty, unseen, unseen), strict=False):
                np.testing.assert_array_equal(np.where(nobody, gradient, 0), 0)
