"""Caches: a sequence that comes in chunks is the sequence, in both rooms.

decode(x[:n]) ++ decode(x[n:]) = full(x)        for every split that the mask allows, and no token is lost unsaid
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attention import spec
from attention.jax_impl import cache as jax_cache
from attention.spec.algebra import Mask
from attention.spec.errors import DTypeError, OptionError, PositionError, ShapeError, UnknownName
from attention.spec.masks import Placed
from attention.torch_impl import cache as torch_cache
from parity_tests.rooms import ROOMS, TORCH, Room, close, each_room, numbers, wide

B, N, H, K, D, E = 2, 7, 4, 2, 3, 5
CACHES = {"torch": torch_cache, "jax": jax_cache}
TABLE = [[5, 0, 3], [2, 6, 1]]
KINDS = ("StaticCache", "RollingCache", "PagedCache")
each_kind = pytest.mark.parametrize("kind", KINDS)
splits = st.lists(st.integers(1, N), min_size=1, max_size=N).map(lambda parts: cut(*parts))


def cut(*parts: int) -> list[int]:
    """Sizes of chunks that make N tokens: as many of the parts as fit, and what is left."""
    sizes: list[int] = []
    for part in (*parts, N):
        sizes.append(min(part, N - sum(sizes)))
    return [size for size in sizes if size]


def make(room: Room, kind: str, heads: int = K, **options: Any) -> Any:
    """An empty cache of two rows that takes 7 tokens, or keeps 6 of them."""
    first = {"StaticCache": (B, N), "RollingCache": (B, N - 1), "PagedCache": (TABLE, 7, 3)}[kind]
    return getattr(CACHES[room.name], kind).make(*first, heads, D, E, **{"dtype": "float64", **options})


def qkv(heads: int = K, n: int = N, batch: int = B) -> tuple[np.ndarray, ...]:
    return numbers(0, batch, n, H, D), numbers(1, batch, n, heads, D), numbers(2, batch, n, heads, E)


def step(room: Room, cache: Any, q: Any, k: Any, v: Any, mask: Mask | None, positions: Any = None) -> tuple[Any, Any]:
    """Append a chunk and attend: the context, and the cache with the chunk in it."""
    new = cache.append(k, v, positions)
    placed = Placed(mask, new.query_positions, new.key_positions)
    return room.module.dot_product_attention(q, new.key, new.value, mask=placed), new.cache


def decode(room: Room, cache: Any, arrays: Any, mask: Mask | None, sizes: list[int], positions: Any = None) -> Any:
    """The contexts of all chunks, one after the other."""
    contexts, start = [], 0
    for size in sizes:
        chunk = [x[:, start : start + size] for x in arrays]
        where = None if positions is None else positions[:, start : start + size]
        context, cache = step(room, cache, *chunk, mask, where)
        contexts.append(context)
        start += size
    return cache.memory.xp.concat(contexts, axis=1)


def decoded(room: Room, kind: str, arrays: Any, mask: Mask | None, sizes: list[int], positions: Any = None) -> np.ndarray:
    """`decode` from an empty cache, in NumPy."""
    with wide(*arrays):
        native = [room.array(x) for x in arrays]
        return room.numpy(decode(room, make(room, kind, arrays[1].shape[-2]), native, mask, sizes, positions))


def full(room: Room, arrays: Any, mask: Mask | None) -> np.ndarray:
    with wide(*arrays):
        return room.numpy(room.module.dot_product_attention(*(room.array(x) for x in arrays), mask=mask))


CAUSAL = spec.Causal()
MASKS = [CAUSAL, CAUSAL & spec.Window(2, 0), CAUSAL & spec.Chunked(3)]


class TestLaws:
    @each_room
    @pytest.mark.parametrize("kind", ["StaticCache", "PagedCache"])
    @pytest.mark.parametrize("mask", MASKS, ids=["causal", "window", "chunked"])
    @settings(max_examples=8)
    @given(sizes=splits)
    def test_chunks_are_the_sequence(self, room: Room, kind: str, mask: Mask, sizes: list[int]) -> None:
        close(decoded(room, kind, qkv(), mask, sizes), full(room, qkv(), mask), 1e-13)

    @each_room
    @pytest.mark.parametrize("mask", MASKS[1:], ids=["window", "chunked"])
    @settings(max_examples=8)
    @given(sizes=splits)
    def test_a_window_that_covers_the_reach_is_enough(self, room: Room, mask: Mask, sizes: list[int]) -> None:
        assert mask.reach == 2
        with wide(*qkv()):
            cache = CACHES[room.name].RollingCache.make(B, 2, K, D, E, dtype="float64")
            cache.check(mask)
            got = room.numpy(decode(room, cache, [room.array(x) for x in qkv()], mask, sizes))
        close(got, full(room, qkv(), mask), 1e-13)

    @each_room
    def test_a_window_one_shorter_is_not(self, room: Room) -> None:
        with wide(*qkv()):
            cache = CACHES[room.name].RollingCache.make(B, 1, K, D, E, dtype="float64")
            got = room.numpy(decode(room, cache, [room.array(x) for x in qkv()], MASKS[1], [3, 1, 1, 1, 1]))
        wanted = full(room, qkv(), MASKS[1])
        close(got[:, :3], wanted[:, :3], 1e-13)
        assert np.abs(got - wanted)[:, 3:].max(axis=(0, 2, 3)).min() > 1e-3

    @each_room
    @pytest.mark.parametrize("kind", ["StaticCache", "PagedCache"])
    def test_a_prefix_in_the_first_chunk_is_seen_by_all(self, room: Room, kind: str) -> None:
        mask = CAUSAL | spec.Prefix(3)
        for sizes in ([3, 1, 1, 2], [5, 2], [7]):
            close(decoded(room, kind, qkv(), mask, sizes), full(room, qkv(), mask), 1e-13)
        late = decoded(room, kind, qkv(), mask, [2, 5])
        assert np.abs(late - full(room, qkv(), mask))[:, :2].max() > 1e-3

    @each_room
    @each_kind
    def test_a_latent_of_one_head_with_wide_values(self, room: Room, kind: str) -> None:
        close(decoded(room, kind, qkv(1), CAUSAL, [3, 1, 3]), full(room, qkv(1), CAUSAL), 1e-13)

    @each_room
    @each_kind
    def test_appending_leaves_the_old_cache_as_it_was(self, room: Room, kind: str) -> None:
        with wide(*qkv()):
            arrays = [room.array(x) for x in qkv()]
            _, cache = step(room, make(room, kind), *(x[:, :3] for x in arrays), CAUSAL)
            first, second = (step(room, cache, *(x[:, 3:5] for x in arrays), CAUSAL)[0] for _ in range(2))
        np.testing.assert_array_equal(room.numpy(first), room.numpy(second))

    @each_room
    @pytest.mark.parametrize("kind", ["StaticCache", "RollingCache"])
    @pytest.mark.parametrize("batch", [(), (2, 1)], ids=str)
    def test_any_batch_axes(self, room: Room, kind: str, batch: tuple[int, ...]) -> None:
        arrays = [x[:1].reshape(*x.shape[1:]) if not batch else x[:, None] for x in qkv()]
        with wide(*arrays):
            cache = getattr(CACHES[room.name], kind).make(batch, N, K, D, E, dtype="float64")
            outs = []
            for some in (slice(0, 3), slice(3, 7)):
                out, cache = step(room, cache, *(room.array(x[..., some, :, :]) for x in arrays), CAUSAL)
                outs.append(room.numpy(out))
        close(np.concatenate(outs, axis=-3), full(room, arrays, CAUSAL), 1e-13)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
    def test_both_rooms_hold_the_same_bits(self, kind: str, dtype: str) -> None:
        held = []
        for room in ROOMS:
            cache = make(room, kind, dtype=dtype)
            for size in (4, 2):
                k, v = (room.array(numbers(size, B, size, K, w, dtype="float32")) for w in (D, E))
                k, v = (x.to(getattr(torch, dtype)) if room is TORCH else x.astype(dtype) for x in (k, v))
                new = cache.append(k, v)
                cache = new.cache
            held.append([room.numpy(x) for x in (new.key, new.value, new.key_positions, new.query_positions)])
            assert str(new.key.dtype).removeprefix("torch.") == dtype
        for one, other in zip(*held, strict=True):
            np.testing.assert_array_equal(one, other)


class TestPadding:
    @each_room
    @each_kind
    def test_left_padding_is_absent_and_its_nan_goes_nowhere(self, room: Room, kind: str) -> None:
        # Row 1 has two tokens fewer; what stands in their place is NaN.
        arrays, positions = qkv(), np.array([[0, 1, 2, 3], [-1, -1, 0, 1]])
        for x in arrays:
            x[1, :2] = np.nan
        with wide(*arrays):
            native = [room.array(x) for x in arrays]
            first, cache = step(room, make(room, kind), *(x[:, :4] for x in native), CAUSAL, positions)
            rest = decode(room, cache, [x[:, 4:] for x in native], CAUSAL, [1, 2])
            got = np.concatenate([room.numpy(first), room.numpy(rest)], axis=1)
        close(got[0], full(room, [x[0] for x in arrays], CAUSAL), 1e-13)
        close(got[1, 2:], full(room, [x[1, 2:] for x in arrays], CAUSAL), 1e-13)
        np.testing.assert_array_equal(got[1, :2], 0)

    @each_room
    @each_kind
    def test_rows_append_different_numbers_of_tokens(self, room: Room, kind: str) -> None:
        arrays = qkv(n=6)
        rows = np.array([[0, 1, 2, 3, -1, 4], [0, -1, -1, 1, 2, -1]])
        with wide(*arrays):
            got = room.numpy(decode(room, make(room, kind), [room.array(x) for x in arrays], CAUSAL, [2, 3, 1], rows))
        for b in range(B):
            here = rows[b] >= 0
            close(got[b, here], full(room, [x[b, here] for x in arrays], CAUSAL), 1e-13)
            np.testing.assert_array_equal(got[b, ~here], 0)

    @each_room
    def test_absent_tokens_push_none_out_of_the_window(self, room: Room) -> None:
        k = room.array(np.arange(4.0, dtype=np.float32).reshape(1, 4, 1, 1))
        cache = CACHES[room.name].RollingCache.make(1, 2, 1, 1)
        cache = cache.append(k, k, [[0, 1, -1, -1]]).cache
        assert sorted(room.numpy(cache.positions)[0]) == [0, 1]
        assert sorted(room.numpy(cache.key).ravel()) == [0, 1]
        new = cache.append(k[:, :1], k[:, :1])
        assert room.numpy(new.query_positions).tolist() == [[2]]

    @each_room
    @pytest.mark.parametrize("kind", ["StaticCache", "RollingCache"])
    def test_positions_may_leave_gaps(self, room: Room, kind: str) -> None:
        k, v = (room.array(numbers(0, B, 3, K, w)[:, :2].astype("float32")) for w in (D, E))
        cache = make(room, kind, dtype="float32").append(k, v, [[3, 10]]).cache
        assert room.numpy(cache.append(k, v).query_positions).tolist() == [[11, 12]] * 2


class TestPages:
    @each_room
    def test_rows_share_the_blocks_of_a_common_prefix(self, room: Room) -> None:
        q, k, v = qkv(n=6)
        for x in (q, k, v):
            x[1, :3] = x[0, :3]
        with wide(q):
            native = [room.array(x) for x in (q, k, v)]
            cache = CACHES[room.name].PagedCache.make([[4, -1]], 5, 3, K, D, E, dtype="float64")
            _, cache = step(room, cache, *(x[:1, :3] for x in native), CAUSAL)
            got = decode(room, cache.assign([[4, 0], [4, 2]], [3, 3]), [x[:, 3:] for x in native], CAUSAL, [2, 1])
            got = room.numpy(got)
        close(got, full(room, (q, k, v), CAUSAL)[:, 3:], 1e-13)

    @each_room
    def test_a_row_that_ends_makes_place_for_another(self, room: Room) -> None:
        arrays = qkv()
        with wide(*arrays):
            native = [room.array(x) for x in arrays]
            _, cache = step(room, make(room, "PagedCache"), *(x[:, :4] for x in native), CAUSAL)
            got = room.numpy(decode(room, cache.assign(TABLE, [4, 0]), [x[:, 4:] for x in native], CAUSAL, [1, 2]))
        close(got[:1], full(room, arrays, CAUSAL)[:1, 4:], 1e-13)
        close(got[1:], full(room, [x[1:, 4:] for x in arrays], CAUSAL), 1e-13)

    @each_room
    def test_a_token_lies_where_the_table_says(self, room: Room) -> None:
        k = np.arange(8, dtype=np.float32).reshape(2, 4, 1, 1)
        cache = CACHES[room.name].PagedCache.make(TABLE, 7, 3, 1, 1)
        cache = cache.append(room.array(k), room.array(-k)).cache
        pool = room.numpy(cache.key)[:7, :, 0, 0]
        wanted = np.zeros((7, 3), np.float32)
        wanted[5], wanted[0, 0], wanted[2], wanted[6, 0] = [0, 1, 2], 3, [4, 5, 6], 7
        np.testing.assert_array_equal(pool, wanted)
        np.testing.assert_array_equal(room.numpy(cache.value)[:7, :, 0, 0], -wanted)


class TestGradients:
    @each_room
    @each_kind
    def test_of_chunks_are_those_of_the_sequence(self, room: Room, kind: str) -> None:
        arrays, along, mask = qkv(), numbers(3, B, N, H, E), CAUSAL & spec.Window(5, 0)

        def grads(call: Callable[..., Any]) -> list[np.ndarray]:
            with wide(*arrays):
                direction = room.array(along)
                pulled = room.grad(lambda *xs: (call(*xs) * direction).sum(), [room.array(x) for x in arrays])
                return [room.numpy(g) for g in pulled]

        got = grads(lambda *xs: decode(room, make(room, kind), xs, mask, [3, 1, 3]))
        wanted = grads(lambda *xs: room.module.dot_product_attention(*xs, mask=mask))
        for one, other in zip(got, wanted, strict=True):
            close(one, other, 1e-13)

    @each_room
    @each_kind
    def test_nothing_reaches_an_absent_token(self, room: Room, kind: str) -> None:
        arrays = qkv(n=3)
        with wide(*arrays):
            cache = make(room, kind)
            native = [room.array(x) for x in arrays]
            grads = room.grad(lambda *xs: decode(room, cache, xs, CAUSAL, [2, 1], np.array([[0, 1, 2], [-1, 0, 1]])).sum(), native)
            q, k, v = (room.numpy(g) for g in grads)
        for g in (q, k, v):
            np.testing.assert_array_equal(g[1, 0], 0)
        assert np.abs(v[1, 1:]).min() > 0


class TestRefusals:
    @each_room
    def test_overflow_of_slots(self, room: Room) -> None:
        k = room.array(np.ones((1, 7, 1, 1), np.float32))
        cache = CACHES[room.name].StaticCache.make(1, 8, 1, 1).append(k, k).cache
        with pytest.raises(ShapeError, match="^cache holds 7 of 8 tokens and cannot take 3 more$"):
            _ = cache.append(k[:, :3], k[:, :3])
        assert room.numpy(cache.append(k[:, :1], k[:, :1]).cache.length) == 8

    @each_room
    def test_overflow_of_pages(self, room: Room) -> None:
        k = room.array(np.ones((2, 5, 1, 1), np.float32))
        cache = CACHES[room.name].PagedCache.make([[0, 1], [2, 3]], 4, 3, 1, 1)
        cache = cache.append(k, k, [[0, 1, 2, -1, -1], [0, 1, 2, 3, 4]]).cache
        with pytest.raises(ShapeError, match="^row 1 of the cache holds 5 of 6 tokens and cannot take 2 more$"):
            _ = cache.append(k[:, :2], k[:, :2])
        with pytest.raises(ShapeError, match="^cache holds 0 of 6 tokens and cannot take 10 more$"):
            _ = cache.append(*[room.array(np.ones((2, 10, 1, 1), np.float32))] * 2)
        _ = cache.append(k[:, :2], k[:, :2], [[3, 4], [5, -1]])

    @each_room
    def test_blocks_that_are_not_there_or_not_ones_own(self, room: Room) -> None:
        def make(table: list[list[int]]) -> Any:
            return CACHES[room.name].PagedCache.make(table, 4, 3, 1, 1)

        k = room.array(np.ones((2, 4, 1, 1), np.float32))
        for table, row in (([[0, -1], [2, 3]], 0), ([[0, 1], [2, 4]], 1)):
            _ = make(table).append(k[:, :3], k[:, :3])
            with pytest.raises(ShapeError, match=f"^block_table row {row} .* must be in 0..3 for 4 tokens$"):
                _ = make(table).append(k, k)
        for table, row in (([[0, 1], [2, 1]], 0), ([[0, 1], [2, 2]], 1)):
            _ = make(table).append(k[:, :3], k[:, :3])
            with pytest.raises(ShapeError, match=f"^block_table row {row} .* must share no block that is written for 4 tokens$"):
                _ = make(table).append(k, k)

    @each_room
    def test_positions_that_do_not_rise(self, room: Room) -> None:
        k, v = (room.array(numbers(0, B, 2, K, w).astype("float32")) for w in (D, E))
        for kind in KINDS[:2]:
            cache = make(room, kind, dtype="float32").append(k, v).cache
            for positions, shown, last in (([[2, 3], [3, 3]], "[3, 3]", 1), ([[1, 2]], "[1, 2]", 1), ([[2, -1], [-1, 0]], "[-1, 0]", 1)):
                with pytest.raises(PositionError) as caught:
                    _ = cache.append(k, v, positions)
                assert str(caught.value) == f"positions {shown} must rise from {last} on, -1 for an absent token aside"
        cache = make(room, "PagedCache", dtype="float32").append(k, v).cache
        with pytest.raises(PositionError, match="^positions of row 1 must continue its count at 2 without gaps$"):
            _ = cache.append(k, v, [[2, 3], [3, 4]])

    @each_room
    @each_kind
    def test_arrays_that_do_not_fit(self, room: Room, kind: str) -> None:
        cache = make(room, kind, dtype="float32")
        k, v = (room.array(numbers(0, B, 2, K, w).astype("float32")) for w in (D, E))

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
        refused(DTypeError, "k numpy.ndarray must be an array as the cache's are", room.numpy(k), v)
        narrow = v.to(torch.float16) if room is TORCH else v.astype("float16")
        refused(DTypeError, "v float16 must be float32 as cache is", k, narrow)
        refused(PositionError, "positions float64 must be integers", k, v, np.zeros((B, 2)))
        refused(PositionError, "positions 3 must be integers: a list or an array", k, v, 3)
        refused(PositionError, "positions 2147483648 must be below 2**31, which JAX counts to", k, v, [[0, 2**31]])
        refused(ShapeError, "positions (3,) must broadcast to (*batch, T) = (2, 2)", k, v, [0, 1, 2])

    @each_room
    def test_sizes_out_of_range(self, room: Room) -> None:
        kinds = CACHES[room.name]
        for call, text in (
            (lambda: kinds.StaticCache.make(1, 0, 1, 1), "capacity 0 must be ints >= 1"),
            (lambda: kinds.StaticCache.make((2, -1), 1, 1, 1), "batch 2, -1 must be ints >= 0"),
            (lambda: kinds.RollingCache.make(1, 2.0, 1, 1), "window 2.0 must be ints >= 1"),
            (lambda: kinds.RollingCache.make(1, 2, True, 1), "num_kv_heads, head_dim, value_dim True, 1, 1 must be ints >= 1"),
            (
                lambda: kinds.PagedCache.make([[0]], 0, 3, 1, 1),
                "num_blocks, block_size, num_kv_heads, head_dim, value_dim 0, 3, 1, 1, 1 must be ints >= 1",
            ),
        ):
            with pytest.raises(OptionError) as caught:
                _ = call()
            assert str(caught.value) == text
        with pytest.raises(ShapeError, match=r"^block_table \(2,\) must be \(B, M\) with B, M >= 1$"):
            _ = kinds.PagedCache.make([0, 1], 2, 3, 1, 1)
        with pytest.raises(DTypeError, match="^block_table float64 must be integers$"):
            _ = kinds.PagedCache.make([[0.5]], 2, 3, 1, 1)
        with pytest.raises(ShapeError, match=r"^lengths \(2,\) must be \(B,\) = \(1,\) as block_table has$"):
            _ = kinds.PagedCache.make([[0]], 2, 3, 1, 1).assign([[1]], [0, 0])
        with pytest.raises(UnknownName):
            _ = kinds.StaticCache.make(1, 1, 1, 1, dtype="int8")

    def test_float64_waits_for_jax(self) -> None:
        with pytest.raises(DTypeError, match="^dtype float64 must wait for JAX's 64-bit mode"):
            _ = jax_cache.StaticCache.make(1, 1, 1, 1, dtype="float64")

    @each_room
    def test_a_mask_that_reaches_behind_the_window(self, room: Room) -> None:
        cache = CACHES[room.name].RollingCache.make(1, 4, 1, 1)
        for mask, seen in ((CAUSAL & spec.Window(5, 0), "5 keys"), (CAUSAL, "any number of keys"), (None, "any number of keys")):
            with pytest.raises(OptionError) as caught:
                cache.check(mask)
            assert str(caught.value) == f"mask {mask} lets a query see {seen} before its own; a cache of window 4 keeps fewer"
        for mask in (CAUSAL & spec.Window(4, 0), CAUSAL & spec.Chunked(5)):
            cache.check(mask)
        for kind in ("StaticCache", "PagedCache"):
            make(room, kind, dtype="float32").check(CAUSAL)
