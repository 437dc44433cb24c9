"""Packed, cached and per-head masks in attention: no leaks, and every call is a slice of the whole.

attend(packed)[document] = attend(document alone)        attend(Placed(mask, q, k)) = rows q, columns k of attend(mask)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from attention.spec.masks import Causal, Chunked, Lengths, Mask, PerHead, PerRow, Placed, Segments, Window
from parity_tests.support.backends import Backend, Kernel, close, each_backend, each_kernel, numbers
from parity_tests.support.drawn_masks import of, table

H, K, D = 4, 2, 3
CU_SEQLENS = [0, 2, 2, 5, 6]
SIZE = 8
DOCUMENTS = [slice(0, 2), slice(2, 5), slice(5, 6)]
WITHIN = 1e-5


def qkv(seed: int, size: int = SIZE) -> list[np.ndarray]:
    return [numbers(seed + i, 1, size, heads, D, dtype="float32") for i, heads in enumerate((H, K, K))]


def attend(backend: Backend, arrays: Iterable[np.ndarray], mask: Mask | None) -> np.ndarray:
    call = backend.whole(lambda *inputs: backend.module.dot_product_attention(*inputs, mask=mask))
    return backend.numpy(call(*map(backend.array, arrays)))


def grads(backend: Backend, arrays: list[np.ndarray], mask: Mask, rows: slice) -> list[np.ndarray]:
    """The gradients of the outputs of some rows."""

    def scalar(q: Any, k: Any, v: Any) -> Any:
        return (backend.module.dot_product_attention(q, k, v, mask=mask)[:, rows] ** 2).sum()

    return [backend.numpy(g) for g in backend.grad(scalar, [backend.array(x) for x in arrays])]


class TestPacking:
    @pytest.mark.parametrize("inside", [None, Causal()], ids=repr)
    @each_backend
    def test_a_packed_document_is_the_document_alone(self, backend: Backend, inside: Mask | None) -> None:
        arrays = qkv(0)
        packed = Segments.from_cu_seqlens(CU_SEQLENS, SIZE)
        out = attend(backend, arrays, packed if inside is None else packed & inside)
        for document in DOCUMENTS:
            close(out[:, document], attend(backend, (x[:, document] for x in arrays), inside), WITHIN)
        np.testing.assert_array_equal(out[:, 6:], 0)

    @each_backend
    def test_another_document_changes_neither_output_nor_gradient(self, backend: Backend) -> None:
        mask, arrays = Segments.from_cu_seqlens(CU_SEQLENS, SIZE), qkv(0)
        for document in DOCUMENTS:
            changed = [10 * x + 3 for x in arrays]
            for new, old in zip(changed, arrays, strict=True):
                new[:, document] = old[:, document]
            np.testing.assert_array_equal(
                attend(backend, changed, mask)[:, document], attend(backend, arrays, mask)[:, document]
            )
            for got, wanted in zip(
                grads(backend, changed, mask, document), grads(backend, arrays, mask, document), strict=True
            ):
                np.testing.assert_array_equal(got[:, document], wanted[:, document])
                outside = np.delete(got, np.r_[document], axis=1)
                np.testing.assert_array_equal(outside, 0)

    @pytest.mark.parametrize("poison", [np.nan, np.inf])
    @each_kernel
    def test_nan_in_a_neighbour_that_attends_to_itself_stays_there(self, kernel: Kernel, poison: float) -> None:
        mask, arrays = Segments.from_cu_seqlens(CU_SEQLENS, SIZE), qkv(0)
        along = numbers(7, 1, SIZE, H, D, dtype="float32")
        for document in DOCUMENTS:
            inside = np.isin(np.arange(SIZE), np.r_[document])[:, None, None]
            poisoned = [np.where(inside, x, np.float32(poison)) for x in arrays]
            out = kernel.attend(*poisoned, mask=mask)
            np.testing.assert_array_equal(out[:, document], kernel.attend(*arrays, mask=mask)[:, document])
            others = np.delete(np.arange(6), np.r_[document])
            assert np.isnan(out[:, others]).all(), "the neighbours' own rows must not look healthy"
            asked = np.where(inside, along, np.float32(0))
            wanted = kernel.grads(arrays[0], arrays[1], arrays[2], asked, mask=mask)
            for got, clean in zip(kernel.grads(poisoned[0], poisoned[1], poisoned[2], asked, mask=mask), wanted, strict=True):
                np.testing.assert_array_equal(got, clean)

    @pytest.mark.parametrize("poison", [np.nan, np.inf])
    @each_backend
    def test_nan_in_documents_that_nobody_asks_about_goes_nowhere(self, backend: Backend, poison: float) -> None:
        # Only the second document has queries; the others, and the tail, are full of poison.
        document, arrays = DOCUMENTS[1], qkv(0)
        mask = Segments.from_cu_seqlens(CU_SEQLENS, SIZE, cu_seqlens_q=[0, 0, 0, 3, 3])
        arrays[0] = arrays[0][:, document]
        poisoned = [
            arrays[0],
            *(np.where(np.isin(np.arange(SIZE), np.r_[document])[:, None, None], x, poison) for x in arrays[1:]),
        ]
        poisoned = [x.astype(np.float32) for x in poisoned]
        everything = slice(None)
        np.testing.assert_array_equal(attend(backend, poisoned, mask), attend(backend, arrays, mask))
        for got, wanted in zip(
            grads(backend, poisoned, mask, everything), grads(backend, arrays, mask, everything), strict=True
        ):
            np.testing.assert_array_equal(got, wanted)

    @each_backend
    def test_nan_in_the_tail_goes_nowhere(self, backend: Backend) -> None:
        mask, arrays = Segments.from_cu_seqlens(CU_SEQLENS, SIZE), qkv(0)
        poisoned = [np.where(np.arange(SIZE)[:, None, None] < 6, x, np.float32(np.nan)) for x in arrays]
        np.testing.assert_array_equal(attend(backend, poisoned, mask), attend(backend, arrays, mask))
        for got, wanted in zip(grads(backend, poisoned, mask, slice(6)), grads(backend, arrays, mask, slice(6)), strict=True):
            np.testing.assert_array_equal(got, wanted)


WHOLE = [Causal(), Causal(align="end"), Causal() & Window(before=2, after=0), Causal() & Chunked(size=3)]
WHOLE += [PerHead((Causal(), Causal() & Window(before=1, after=0)) * 2)]


class TestPlaced:
    @pytest.mark.parametrize("mask", WHOLE, ids=repr)
    @each_kernel
    def test_some_tokens_of_a_sequence_are_a_slice_of_it(self, kernel: Kernel, mask: Mask) -> None:
        q, k, v = qkv(3)
        # The slots of a rolling cache: in any order, with one that is empty and poisoned.
        asked, slots = np.array([6, 2]), np.array([4, 5, 6, -1, 0, 1, 2, 3])
        whole = kernel.attend(q, k, v, mask=mask)
        k, v = k[:, slots], v[:, slots]
        k[:, 3] = v[:, 3] = np.nan
        got = kernel.attend(q[:, asked], k, v, mask=Placed(mask, asked, slots))
        close(got, whole[:, asked], WITHIN)

    @pytest.mark.parametrize("mask", WHOLE, ids=repr)
    def test_the_table_is_rows_and_columns_of_the_whole(self, mask: Mask) -> None:
        rng = np.random.default_rng(0)
        q, k = rng.integers(-1, SIZE, (2, 5)), rng.integers(-1, SIZE, (2, 7))
        whole = table(mask, of(SIZE, SIZE, (), heads=H))
        got = table(Placed(mask, q, k), of(5, 7, (2,), heads=H))
        for b in range(2):
            wanted = whole[:, q[b]][:, :, k[b]] & (q[b] >= 0)[:, None] & (k[b] >= 0)
            np.testing.assert_array_equal(got[b], wanted)

    @each_kernel
    def test_an_absent_query_gives_zero_and_an_absent_key_takes_no_gradient(self, kernel: Kernel) -> None:
        q, k, v = qkv(3)
        mask = Placed(None, [0, 1, -1, 3, 4, 5, 6, 7], [0, 1, 2, -1, 4, 5, 6, 7])
        out = kernel.attend(q, k, v, mask=mask)
        np.testing.assert_array_equal(out[:, 2], 0)
        assert np.abs(out[:, [0, 1, 3]]).min() > 0
        for got, token in zip(kernel.grads(q, k, v, np.ones_like(out), mask=mask), (2, 3, 3), strict=True):
            np.testing.assert_array_equal(got[:, token], 0)


class TestSeveral:
    @each_kernel
    def test_each_head_and_row_has_its_own_mask(self, kernel: Kernel) -> None:
        q, k, v = (np.concatenate([x, x[::-1]]) for x in qkv(5))
        alone = (Causal(), Causal() & Window(before=1, after=0), Lengths([3, 8]), Chunked(size=3))
        whole = [kernel.attend(q, k, v, mask=mask) for mask in alone]
        out = kernel.attend(q, k, v, mask=PerHead(alone))
        close(out, np.stack([whole[h][:, :, h] for h in range(H)], axis=2), WITHIN)
        out = kernel.attend(q, k, v, mask=PerRow(alone[1:3]))
        close(out, np.stack([whole[1 + b][b] for b in range(2)]), WITHIN)

    @each_backend
    def test_gradients_of_one_head_know_nothing_of_the_other_head_s_keys(self, backend: Backend) -> None:
        q, _, _ = arrays = qkv(5)
        arrays = [q, q.copy(), q + 1]
        mask = PerHead((Segments.from_cu_seqlens([0, 2], SIZE),) * 2 + (Segments.from_cu_seqlens([0, 5], SIZE),) * 2)
        for got in grads(backend, arrays, mask, slice(None)):
            np.testing.assert_array_equal(got[:, 2:, :2], 0)
            np.testing.assert_array_equal(got[:, 5:], 0)
            assert np.abs(got[:, 2:5, 2:]).max() > 0
