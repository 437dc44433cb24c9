"""Caches: decoding in chunks equals the whole sequence, in both backends.

decode(x[:n]) ++ decode(x[n:]) = full(x)        for every split that the mask allows, and no token is lost unsaid
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attention import spec
from attention.jax_impl import cache as jax_cache
from attention.spec.attend import attend as formula
from attention.spec.axes import sizes
from attention.spec.cache import Appended
from attention.spec.errors import CacheError, DTypeError, OptionError, PositionError, ShapeError, UnknownName
from attention.spec.masks import Placed
from attention.spec.masks.algebra import Mask, evaluate
from attention.torch_impl import cache as torch_cache
from parity_tests.support.backends import BACKENDS, TORCH, Backend, close, each_backend, numbers

B, N, H, K, D, E = 2, 7, 4, 2, 3, 5
CACHES = {"torch": torch_cache, "jax": jax_cache}
TABLE = [[5, 0, 3], [2, 6, 1]]
KINDS = ("StaticCache", "RollingCache", "PagedCache")
each_kind = pytest.mark.parametrize("kind", KINDS)
# Few sizes, so that JAX compiles few shapes; in any order, and what is left one by one.
splits = st.lists(st.sampled_from([1, 2, 4, N]), min_size=1, max_size=N).map(lambda parts: cut(parts))  # noqa: PLW0108 - it is defined below


@pytest.fixture(autouse=True)
def x64() -> Iterator[None]:
    """float64 everywhere, so that agreement is to 1e-13; and of one switch and one size JAX compiles each operation once."""
    with jax.enable_x64(True):
        yield


def cut(parts: list[int]) -> list[int]:
    """Return sizes of chunks that make N tokens: the parts that fit, and ones."""
    chunks: list[int] = []
    for part in [*parts, *[1] * N]:
        chunks += [part] * (sum(chunks) + part <= N)
    return chunks


def make(backend: Backend, kind: str, heads: int = K, dtype: str = "float64") -> Any:
    """An empty cache of two rows that takes 7 tokens, or keeps 6 of them."""
    first = {"StaticCache": (B, N), "RollingCache": (B, N - 1), "PagedCache": (TABLE, 7, 3)}[kind]
    return getattr(CACHES[backend.name], kind).make(*first, heads, D, E, dtype=dtype)


def qkv(heads: int = K, n: int = N, batch: int = B) -> tuple[np.ndarray, ...]:
    return numbers(0, batch, n, H, D), numbers(1, batch, n, heads, D), numbers(2, batch, n, heads, E)


def kv(backend: Backend, n: int, dtype: str = "float64") -> tuple[Any, Any]:
    """Return keys and values of n tokens as the backend's arrays."""
    k, v = (backend.array(x) for x in qkv(n=n)[1:])
    return (
        (k.to(getattr(torch, dtype)), v.to(getattr(torch, dtype))) if backend is TORCH else (k.astype(dtype), v.astype(dtype))
    )


def attend(backend: Backend, q: np.ndarray, new: Appended, mask: Mask | None) -> np.ndarray:
    """Return the context: torch's, or, for JAX compiles each shape for seconds, that of the formula in NumPy.

    JAX's own attention to a cache is asked in `test_cache_transforms.py`, where a compiler has one shape to compile.
    """
    key, value, at, where = (backend.numpy(x) for x in (new.key, new.value, new.query_positions, new.key_positions))
    placed = Placed(mask, at, where)
    if backend is TORCH:
        return backend.numpy(backend.module.dot_product_attention(backend.array(q), new.key, new.value, mask=placed))
    allowed = evaluate(placed, sizes(q, key, value))
    return formula(np, q, key, value, scale=q.shape[-1] ** -0.5, allowed=allowed)["context"]


def step(
    backend: Backend, cache: Any, q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: Mask | None, positions: Any = None
) -> tuple[np.ndarray, Any]:
    """Append a chunk and attend: the context, and the cache with the chunk in it."""
    new = cache.append(backend.array(k), backend.array(v), positions)
    return attend(backend, q, new, mask), new.cache


def decode(
    backend: Backend, cache: Any, arrays: Any, mask: Mask | None, chunks: list[int], positions: Any = None
) -> np.ndarray:
    """Return the contexts of all chunks, one after the other."""
    contexts, start = [], 0
    for size in chunks:
        some = slice(start, start + size)
        where = None if positions is None else positions[:, some]
        context, cache = step(backend, cache, *(x[:, some] for x in arrays), mask=mask, positions=where)
        contexts.append(context)
        start += size
    return np.concatenate(contexts, axis=1)


def decoded(
    backend: Backend, kind: str, arrays: Any, mask: Mask | None, chunks: list[int], positions: Any = None
) -> np.ndarray:
    """Return `decode` from an empty cache."""
    return decode(backend, make(backend, kind, arrays[1].shape[-2]), arrays, mask, chunks, positions)


def full(arrays: Any, mask: Mask | None) -> np.ndarray:
    """Return the context of the whole sequence, by the formula."""
    q, k, v = arrays
    return formula(np, q, k, v, scale=q.shape[-1] ** -0.5, allowed=evaluate(mask, sizes(q, k, v)))["context"]


CAUSAL = spec.Causal()
MASKS = [CAUSAL, CAUSAL & spec.Window(2, 0), CAUSAL & spec.Chunked(3)]


class TestLaws:
    @each_backend
    @pytest.mark.parametrize("kind", ["StaticCache", "PagedCache"])
    @pytest.mark.parametrize("mask", MASKS, ids=["causal", "window", "chunked"])
    @settings(max_examples=8)
    @given(chunks=splits)
    def test_chunks_are_the_sequence(self, backend: Backend, kind: str, mask: Mask, chunks: list[int]) -> None:
        close(decoded(backend, kind, qkv(), mask, chunks), full(qkv(), mask), 1e-13)

    @each_backend
    @pytest.mark.parametrize("mask", MASKS[1:], ids=["window", "chunked"])
    @settings(max_examples=8)
    @given(chunks=splits)
    def test_a_window_that_covers_the_reach_is_enough(self, backend: Backend, mask: Mask, chunks: list[int]) -> None:
        assert mask.reach == 2
        cache = CACHES[backend.name].RollingCache.make(B, 2, K, D, E, dtype="float64")
        cache.check(mask)
        got = decode(backend, cache, qkv(), mask, chunks)
        close(got, full(qkv(), mask), 1e-13)

    @each_backend
    def test_a_window_one_shorter_is_not(self, backend: Backend) -> None:
        cache = CACHES[backend.name].RollingCache.make(B, 1, K, D, E, dtype="float64")
        got = decode(backend, cache, qkv(), MASKS[1], [4, 1, 1, 1])
        wanted = full(qkv(), MASKS[1])
        close(got[:, :4], wanted[:, :4], 1e-13)
        assert np.abs(got - wanted)[:, 4:].max(axis=(0, 2, 3)).min() > 1e-3

    @each_backend
    @pytest.mark.parametrize("kind", ["StaticCache", "PagedCache"])
    def test_a_prefix_in_the_first_chunk_is_seen_by_all(self, backend: Backend, kind: str) -> None:
        mask = CAUSAL | spec.Prefix(3)
        for chunks in ([4, 1, 2], [7]):
            close(decoded(backend, kind, qkv(), mask, chunks), full(qkv(), mask), 1e-13)
        late = decoded(backend, kind, qkv(), mask, [2, 4, 1])
        assert np.abs(late - full(qkv(), mask))[:, :2].max() > 1e-3

    @each_backend
    def test_a_latent_of_one_head_with_wide_values(self, backend: Backend) -> None:
        got = decoded(backend, "StaticCache", qkv(1), CAUSAL, [4, 1, 2])
        close(got, full(qkv(1), CAUSAL), 1e-13)

    @each_backend
    @each_kind
    def test_appending_leaves_the_old_cache_as_it_was(self, backend: Backend, kind: str) -> None:
        chunks = [[x[:, some] for x in qkv()] for some in (slice(0, 4), slice(4, 6), slice(6, 7))]
        _, cache = step(backend, make(backend, kind), *chunks[0], mask=CAUSAL)
        first, _ = step(backend, cache, *chunks[1], mask=CAUSAL)
        second, after = step(backend, cache, *chunks[1], mask=CAUSAL)
        _ = step(backend, after, *chunks[2], mask=CAUSAL)
        third, _ = step(backend, cache, *chunks[1], mask=CAUSAL)
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(first, third)

    @each_backend
    @pytest.mark.parametrize(("kind", "batch"), [("StaticCache", ()), ("RollingCache", (2, 1))])
    def test_any_batch_axes(self, backend: Backend, kind: str, batch: tuple[int, ...]) -> None:
        arrays = [x[:1].reshape(*x.shape[1:]) if not batch else x[:, None] for x in qkv()]
        cache = getattr(CACHES[backend.name], kind).make(batch, N, K, D, E, dtype="float64")
        outs = []
        for some in (slice(0, 4), slice(4, 6)):
            out, cache = step(backend, cache, *(x[..., some, :, :] for x in arrays), mask=CAUSAL)
            outs.append(out)
        close(np.concatenate(outs, axis=-3), full([x[..., :6, :, :] for x in arrays], CAUSAL), 1e-13)

    @pytest.mark.parametrize(
        ("kind", "dtype"), [("StaticCache", "float32"), ("RollingCache", "bfloat16"), ("PagedCache", "float16")]
    )
    def test_both_backends_hold_the_same_bits(self, kind: str, dtype: str) -> None:
        held = []
        for backend in BACKENDS:
            cache = make(backend, kind, dtype=dtype)
            for size in (4, 2):
                new = cache.append(*kv(backend, size, dtype))
                cache = new.cache
            held.append([backend.numpy(x) for x in (new.key, new.value, new.key_positions, new.query_positions)])
            assert str(new.key.dtype).removeprefix("torch.") == dtype
        for one, other in zip(*held, strict=True):
            np.testing.assert_array_equal(one, other)


class TestPadding:
    @each_backend
    @each_kind
    def test_left_padding_is_absent_and_its_nan_goes_nowhere(self, backend: Backend, kind: str) -> None:
        # Row 1 has two tokens fewer; what stands in their place is NaN.
        arrays, positions = qkv(), np.array([[0, 1, 2, 3], [-1, -1, 0, 1]])
        for x in arrays:
            x[1, :2] = np.nan
        first, cache = step(backend, make(backend, kind), *(x[:, :4] for x in arrays), mask=CAUSAL, positions=positions)
        got = np.concatenate([first, decode(backend, cache, [x[:, 4:] for x in arrays], CAUSAL, [1, 2])], axis=1)
        close(got[0], full([x[0] for x in arrays], CAUSAL), 1e-13)
        close(got[1, 2:], full([x[1, 2:] for x in arrays], CAUSAL), 1e-13)
        np.testing.assert_array_equal(got[1, :2], 0)

    @each_backend
    @each_kind
    def test_rows_append_different_numbers_of_tokens(self, backend: Backend, kind: str) -> None:
        arrays = qkv(n=6)
        rows = np.array([[0, 1, 2, 3, -1, 4], [0, -1, -1, 1, 2, -1]])
        got = decoded(backend, kind, arrays, CAUSAL, [2, 2, 2], rows)
        for b in range(B):
            here = rows[b] >= 0
            close(got[b, here], full([x[b, here] for x in arrays], CAUSAL), 1e-13)
            np.testing.assert_array_equal(got[b, ~here], 0)

    @each_backend
    def test_absent_tokens_push_none_out_of_the_window(self, backend: Backend) -> None:
        _, k, _ = qkv(n=4)
        cache = CACHES[backend.name].RollingCache.make(B, 2, K, D, E, dtype="float64")
        cache = cache.append(*kv(backend, 4), [[0, 1, -1, -1]]).cache
        order = np.argsort(backend.numpy(cache.positions), axis=1)
        np.testing.assert_array_equal(np.take_along_axis(backend.numpy(cache.key), order[:, :, None, None], axis=1), k[:, :2])
        assert backend.numpy(cache.append(*kv(backend, 1)).query_positions).tolist() == [[2], [2]]

    @each_backend
    @pytest.mark.parametrize("kind", ["StaticCache", "RollingCache"])
    def test_positions_may_leave_gaps(self, backend: Backend, kind: str) -> None:
        cache = make(backend, kind).append(*kv(backend, 2), [[3, 10], [-7, -7]]).cache
        # Every negative one is absent, and a row without a token counts from 0.
        assert backend.numpy(cache.append(*kv(backend, 2)).query_positions).tolist() == [[11, 12], [0, 1]]


class TestPages:
    @each_backend
    def test_rows_share_the_blocks_of_a_common_prefix(self, backend: Backend) -> None:
        q, k, v = qkv(n=6)
        for x in (q, k, v):
            x[1, :3] = x[0, :3]
        _, cache = step(backend, make(backend, "PagedCache"), *(x[:, :4] for x in (q, k, v)), mask=CAUSAL)
        # Row 1 forgets what it wrote and reads the first block of row 0.
        cache = cache.assign([[5, 0, 3], [5, 6, 1]], [3, 3])
        got = decode(backend, cache, [x[:, 3:] for x in (q, k, v)], CAUSAL, [2, 1])
        close(got, full((q, k, v), CAUSAL)[:, 3:], 1e-13)

    @each_backend
    def test_a_row_that_ends_makes_place_for_another(self, backend: Backend) -> None:
        arrays = qkv()
        _, cache = step(backend, make(backend, "PagedCache"), *(x[:, :4] for x in arrays), mask=CAUSAL)
        got = decode(backend, cache.assign(TABLE, [4, 0]), [x[:, 4:] for x in arrays], CAUSAL, [1, 2])
        close(got[:1], full(arrays, CAUSAL)[:1, 4:], 1e-13)
        close(got[1:], full([x[1:, 4:] for x in arrays], CAUSAL), 1e-13)

    @each_backend
    def test_a_token_lies_where_the_table_says(self, backend: Backend) -> None:
        _, k, v = qkv(n=4)
        cache = make(backend, "PagedCache").append(*kv(backend, 4)).cache
        for pool, new in ((cache.key, k), (cache.value, v)):
            wanted = np.zeros((7, 3, *new.shape[2:]))
            wanted[5], wanted[0, 0], wanted[2], wanted[6, 0] = new[0, :3], new[0, 3], new[1, :3], new[1, 3]
            np.testing.assert_array_equal(backend.numpy(pool)[:7], wanted)


class TestRefusals:
    @each_backend
    def test_overflow_of_slots(self, backend: Backend) -> None:
        cache = make(backend, "StaticCache").append(*kv(backend, 4)).cache
        with pytest.raises(CacheError, match=r"^cache holds 4 of 7 tokens and cannot take 4 more$"):
            _ = cache.append(*kv(backend, 4))
        cache = cache.append(*kv(backend, 2)).cache
        with pytest.raises(CacheError, match=r"^cache holds 6 of 7 tokens and cannot take 2 more$"):
            _ = cache.append(*kv(backend, 2))
        assert backend.numpy(cache.append(*kv(backend, 1)).cache.length) == N

    @each_backend
    def test_overflow_of_pages(self, backend: Backend) -> None:
        cache = make(backend, "PagedCache").append(*kv(backend, 4)).cache
        cache = cache.append(*kv(backend, 4), [[4, 5, 6, -1], [4, 5, 6, 7]]).cache
        with pytest.raises(CacheError, match=r"^row 1 of the cache holds 8 of 9 tokens and cannot take 2 more$"):
            _ = cache.append(*kv(backend, 2))
        _ = cache.append(*kv(backend, 2), [[7, 8], [-1, 8]])
        with pytest.raises(CacheError, match=r"^cache holds 0 of 9 tokens and cannot take 10 more$"):
            _ = cache.append(*kv(backend, 10))

    @each_backend
    @pytest.mark.parametrize(
        ("table", "row", "wanted"),
        [
            ([[0, -1, -1], [2, 3, -1]], 0, "be in 0..6"),
            ([[0, 1, -1], [2, 7, -1]], 1, "be in 0..6"),
            ([[0, 1, -1], [2, 1, -1]], 0, "share no block that is written"),
            ([[0, 1, -1], [2, 2, -1]], 1, "share no block that is written"),
        ],
    )
    def test_a_block_that_is_not_there_or_not_its_own(self, backend: Backend, table: Any, row: int, wanted: str) -> None:
        cache = make(backend, "PagedCache").assign(table).append(*kv(backend, 2)).cache
        with pytest.raises(CacheError) as caught:
            _ = cache.append(*kv(backend, 2))
        assert str(caught.value) == f"block_table row {row} {table[row]} must {wanted} for 4 tokens"
        _ = cache.append(*kv(backend, 2), [[2, -1]])

    @each_backend
    @pytest.mark.parametrize("kind", ["StaticCache", "RollingCache"])
    def test_positions_that_do_not_rise(self, backend: Backend, kind: str) -> None:
        cache = make(backend, kind).append(*kv(backend, 2)).cache
        for positions, shown in (([[2, 3], [3, 3]], "[3, 3]"), ([[1, 2]], "[1, 2]"), ([[2, -1], [-1, 0]], "[-1, 0]")):
            with pytest.raises(PositionError) as caught:
                _ = cache.append(*kv(backend, 2), positions)
            assert str(caught.value) == f"positions {shown} must rise from 1 on, -1 for an absent token aside"

    @each_backend
    def test_positions_that_leave_gaps_in_pages(self, backend: Backend) -> None:
        cache = make(backend, "PagedCache").append(*kv(backend, 2)).cache
        with pytest.raises(PositionError, match=r"^positions of row 1 must continue its count at 2 without gaps$"):
            _ = cache.append(*kv(backend, 2), [[2, 3], [3, 4]])

    @each_backend
    @each_kind
    def test_arrays_that_do_not_fit(self, backend: Backend, kind: str) -> None:
        cache, (k, v) = make(backend, kind), kv(backend, 2)

        def refused(error: type[Exception], text: str, *args: Any) -> None:
            with pytest.raises(error) as caught:
                _ = cache.append(*args)
            assert str(caught.value) == text
            assert type(caught.value) is error

        given = "with batch = (2,), K = 2,"
        refused(ShapeError, f"k (2, 2, 2, 5) must be (*batch, T, K, D) {given} D = 3 as the cache has", v, v)
        refused(ShapeError, f"v (2, 2, 2, 3) must be (*batch, T, K, E) {given} E = 5 as the cache has", k, k)
        refused(ShapeError, f"k (2, 2, 3) must be (*batch, T, K, D) {given} D = 3 as the cache has", k[0], v)
        refused(ShapeError, "v (2, 1, 2, 5) must be (*batch, T, K, E) with T = 2 as k has", k, v[:, :1])
        refused(DTypeError, "k numpy.ndarray must be an array as the cache's are", backend.numpy(k), v)
        refused(DTypeError, "v float16 must be float64 as cache is", k, kv(backend, 2, "float16")[1])
        refused(PositionError, "positions float64 must be integers", k, v, np.zeros((B, 2)))
        refused(PositionError, "positions 3 must be integers: a list or an array", k, v, 3)
        refused(PositionError, "positions 2147483648 must be below 2**31, which JAX counts to", k, v, [[0, 2**31]])
        refused(ShapeError, "positions (3,) must broadcast to (*batch, T) = (2, 2)", k, v, [0, 1, 2])

    @each_backend
    def test_sizes_out_of_range(self, backend: Backend) -> None:
        kinds = CACHES[backend.name]
        for call, text in (
            (lambda: kinds.StaticCache.make(1, 0, 1, 1), "capacity 0 must be ints >= 1, and below 2**31"),
            (lambda: kinds.StaticCache.make((2, -1), 1, 1, 1), "batch 2, -1 must be ints >= 0, and below 2**31"),
            (lambda: kinds.RollingCache.make(1, 2.0, 1, 1), "window 2.0 must be ints >= 1, and below 2**31"),
            (
                lambda: kinds.RollingCache.make(1, 2, True, 1),
                "num_kv_heads, head_dim, value_dim True, 1, 1 must be ints >= 1, and below 2**31",
            ),
            (
                lambda: kinds.PagedCache.make([[0]], 0, 3, 1, 1),
                "num_blocks, block_size, num_kv_heads, head_dim, value_dim 0, 3, 1, 1, 1 must be ints >= 1, and below 2**31",
            ),
        ):
            with pytest.raises(OptionError) as caught:
                _ = call()
            assert str(caught.value) == text
        with pytest.raises(ShapeError, match=r"^block_table \(2,\) must be \(B, M\) with B, M >= 1$"):
            _ = kinds.PagedCache.make([0, 1], 2, 3, 1, 1)
        with pytest.raises(DTypeError, match=r"^block_table float64 must be integers$"):
            _ = kinds.PagedCache.make([[0.5]], 2, 3, 1, 1)
        with pytest.raises(ShapeError, match=r"^lengths \(2,\) must be \(B,\) = \(1,\) as block_table has$"):
            _ = kinds.PagedCache.make([[0]], 2, 3, 1, 1).assign([[1]], [0, 0])
        with pytest.raises(UnknownName):
            _ = kinds.StaticCache.make(1, 1, 1, 1, dtype="int8")

    def test_float64_waits_for_jax(self) -> None:
        with jax.enable_x64(False), pytest.raises(DTypeError, match=r"^dtype float64 must wait for JAX's 64-bit mode"):
            _ = jax_cache.StaticCache.make(1, 1, 1, 1, dtype="float64")

    @each_backend
    def test_a_mask_that_reaches_behind_the_window(self, backend: Backend) -> None:
        cache = CACHES[backend.name].RollingCache.make(1, 4, 1, 1)
        for mask, seen in (
            (CAUSAL & spec.Window(5, 0), "5 keys"),
            (CAUSAL, "any number of keys"),
            (None, "any number of keys"),
        ):
            with pytest.raises(OptionError) as caught:
                cache.check(mask)
            assert str(caught.value) == f"mask {mask!r} lets a query see {seen} before its own; a cache of window 4 keeps fewer"
        for mask in (CAUSAL & spec.Window(4, 0), CAUSAL & spec.Chunked(5)):
            cache.check(mask)
        for kind in ("StaticCache", "PagedCache"):
            make(backend, kind).check(CAUSAL)
