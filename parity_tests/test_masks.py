"""Masks: each kind is its formula, asked one element at a time, and every room reads the same predicate.

allowed[b, t, s] = says(b, t, s)        says in plain Python, over integers and lists
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils import _pytree as pytree

from attention import spec
from attention.jax_impl import masks as jax_masks
from attention.spec.algebra import Mask, both, evaluate
from attention.spec.axes import Sizes
from attention.spec.errors import MaskError, OptionError
from attention.spec.masks import KINDS
from attention.torch_impl import masks as torch_masks

Says = Callable[[int, int, int], bool]
Drawn = tuple[tuple[int, int], tuple[Mask, Says]]
CPU = torch.device("cpu")
B, T, S = 2, 3, 5
NUMBER: Any = 1.5


def of(t: int, s: int, batch: tuple[int, ...] = (B,), heads: int = 1) -> Sizes:
    return Sizes(batch, t, s, heads, 1, 1, 1)


def table(mask: Mask, sizes: Sizes) -> np.ndarray:
    """The mask at every element of (*batch, H, T, S)."""
    return np.broadcast_to(np.asarray(evaluate(mask, sizes)), sizes.scores)


def rows(mask: Mask, t: int, s: int) -> list[str]:
    return ["".join("x" if seen else "." for seen in row) for row in table(mask, of(t, s, ()))[0]]


def integers(shape: tuple[int, ...], low: int, high: int) -> st.SearchStrategy[np.ndarray]:
    size = int(np.prod(shape))
    flat = st.lists(st.integers(low, high), min_size=size, max_size=size)
    return flat.map(lambda values: np.reshape(np.asarray(values, np.int64), shape))


@st.composite
def aligned(draw: st.DrawFn, t: int, s: int) -> tuple[dict[str, Any], Callable[[int, int], int]]:
    """How a query stands among the keys: the options of a mask, and p(b, t)."""
    how = draw(st.sampled_from(["start", "end", "given"] + (["unsaid"] if t == s else [])))
    if how == "given":
        where = draw(integers((B, t), -2, s + 2))
        return {"query_positions": where}, lambda b, i: int(where[b, i])
    return ({} if how == "unsaid" else {"align": how}), lambda _, i: i + (s - t if how == "end" else 0)


@st.composite
def positional(draw: st.DrawFn, t: int, s: int) -> tuple[Mask, Says]:
    options, p = draw(aligned(t, s))
    kind = draw(st.sampled_from(["causal", "chunked", "window"]))
    if kind == "causal":
        return spec.Causal(**options), lambda b, i, j: j <= p(b, i)
    if kind == "chunked":
        size = draw(st.integers(1, 4))
        return spec.Chunked(size=size, **options), lambda b, i, j: j // size == p(b, i) // size
    before, after = (draw(st.none() | st.integers(0, 4)) for _ in range(2))
    lowest, highest = (10**6 if bound is None else bound for bound in (before, after))
    return spec.Window(before=before, after=after, **options), lambda b, i, j: p(b, i) - lowest <= j <= p(b, i) + highest


@st.composite
def by_data(draw: st.DrawFn, t: int, s: int) -> tuple[Mask, Says]:
    kind = draw(st.sampled_from(["prefix", "prefixes", "segments", "lengths", "dense"]))
    if kind == "prefix":
        length = draw(st.integers(0, s))
        return spec.Prefix(length), lambda _b, _i, j: j < length
    if kind == "segments":
        kv, q = draw(integers((B, s), -1, 2)), draw(integers((B, t), -1, 2))
        q = kv if t == s and draw(st.booleans()) else q
        return spec.Segments(kv, None if q is kv else q), lambda b, i, j: q[b, i] == kv[b, j] and kv[b, j] >= 0
    if kind == "dense":
        array = draw(integers((B, 1, t, s), 0, 1)) > 0
        return spec.Dense(array), lambda b, i, j: bool(array[b, 0, i, j])
    keys, queries = draw(integers((B,), 0, s)), draw(integers((B,), 0, t))
    if kind == "prefixes":
        return spec.Prefix(keys), lambda b, _, j: j < keys[b]
    if draw(st.booleans()):
        return spec.Lengths(keys, queries), lambda b, i, j: j < keys[b] and i < queries[b]
    left = spec.Lengths(keys, queries, padding="left")
    return left, lambda b, i, j: j + keys[b] >= s and i + queries[b] >= t


@st.composite
def any_mask(draw: st.DrawFn, t: int, s: int, depth: int = 2) -> tuple[Mask, Says]:
    if depth == 0 or draw(st.booleans()):
        return draw(positional(t, s) | by_data(t, s))
    (first, one), (second, two) = draw(any_mask(t, s, depth - 1)), draw(any_mask(t, s, depth - 1))
    return draw(
        st.sampled_from(
            [
                (first & second, lambda b, i, j: one(b, i, j) and two(b, i, j)),
                (first | second, lambda b, i, j: one(b, i, j) or two(b, i, j)),
                (~first, lambda b, i, j: not one(b, i, j)),
            ]
        )
    )


sides = st.integers(1, 6)
sized = st.tuples(sides, sides).flatmap(lambda n: st.tuples(st.just(n), any_mask(*n)))

# One of each kind, and of each way to say where a query stands: what the rooms are shown.
ROOMS: dict[str, Mask] = {
    "causal": spec.Causal(align="end"),
    "causal at": spec.Causal(query_positions=[[0, 2, 4], [4, 1, 3]]),
    "window": spec.Window(before=1, after=0, align="start"),
    "chunked": spec.Chunked(size=2, align="end"),
    "prefix": spec.Prefix(2),
    "prefixes": spec.Prefix([1, 4]),
    "segments": spec.Segments([[0, 0, 1, 1, -1], [0, 1, 2, 2, 2]], [[0, 1, -1], [2, 2, 0]]),
    "right": spec.Lengths([5, 2], [3, 1]),
    "left": spec.Lengths([5, 2], [3, 1], padding="left"),
    "dense": spec.Dense(np.arange(B * T * S).reshape(B, 1, T, S) % 3 == 0),
    "mixed": spec.Causal(align="end") & ~spec.Lengths([1, 2]) | spec.Prefix([3, 0]),
}

# What is inside another mask is checked all the same.
INSIDE: dict[str, Callable[[Mask], Mask]] = {
    "alone": lambda mask: mask,
    "right of &": lambda mask: spec.Prefix(1) & mask,
    "left of |": lambda mask: mask | spec.Prefix(1),
    "under ~": lambda mask: ~mask,
}


class TestLaws:
    @given(sized)
    def test_every_mask_is_its_formula(self, drawn: Drawn) -> None:
        (t, s), (mask, says) = drawn
        wanted = [[[[says(b, i, j) for j in range(s)] for i in range(t)]] for b in range(B)]
        np.testing.assert_array_equal(table(mask, of(t, s)), wanted)

    @given(sides.flatmap(lambda n: st.tuples(st.just((n, n)), any_mask(n, n))))
    def test_what_keeps_self_shows_every_query_its_own_position(self, drawn: Drawn) -> None:
        (n, _), (mask, _) = drawn
        assert not mask.keeps_self or table(mask, of(n, n)).diagonal(axis1=-2, axis2=-1).all()

    def test_causal_windows_keep_self_and_their_opposites_do_not(self) -> None:
        assert (spec.Causal() & (spec.Window(before=2, after=0) | spec.Prefix(1))).keeps_self
        assert not (~spec.Causal()).keeps_self
        assert not (spec.Causal() & spec.Prefix(1)).keeps_self
        assert not spec.Causal(query_positions=[0]).keeps_self

    @given(sized)
    def test_structure_and_leaves_make_the_mask_again(self, drawn: Drawn) -> None:
        (t, s), (mask, _) = drawn
        again = type(mask).rebuild(mask.structure(), mask.leaves().values())
        np.testing.assert_array_equal(table(again, of(t, s)), table(mask, of(t, s)))
        assert hash(again.structure()) == hash(mask.structure())

    @given(sized)
    def test_static_means_that_no_array_is_inside(self, drawn: Drawn) -> None:
        mask, seen = drawn[1][0], []
        _ = mask.map(lambda x: seen.append(x) or x)
        assert mask.is_static == (not seen)
        if mask.is_static:
            assert hash(mask) == hash(type(mask).rebuild(mask.structure(), mask.leaves().values()))

    def test_structure_is_equal_by_what_it_says_and_data_only_to_itself(self) -> None:
        assert spec.Causal() & ~spec.Prefix(2) == spec.Causal() & ~spec.Prefix(2)
        assert spec.Causal() & ~spec.Prefix(2) != spec.Causal() & ~spec.Prefix(3)
        assert spec.Prefix(2) | spec.Causal() != spec.Prefix(2) & spec.Causal()
        for make in (lambda: spec.Lengths([1, 2]), lambda: spec.Causal(query_positions=[0, 1])):
            mask = make()
            assert {mask: 1}[mask] == 1
            assert mask != make()
            assert mask & spec.Causal() != make() & spec.Causal()

    def test_no_mask_allows_everything(self) -> None:
        assert evaluate(None, of(T, S)) is None
        assert both(None, None) is None
        assert both(spec.Prefix(1), None) == both(None, spec.Prefix(1)) == spec.Prefix(1)
        assert both(spec.Prefix(1), spec.Causal()) == spec.Prefix(1) & spec.Causal()


class TestRooms:
    def test_every_kind_is_shown_to_the_rooms(self) -> None:
        def kinds(mask: Mask) -> set[type[Mask]]:
            inside = [value for value in mask.leaves().values() if isinstance(value, Mask)]
            return {type(mask)}.union(*map(kinds, inside))

        assert set().union(*map(kinds, ROOMS.values())) == set(KINDS)

    @pytest.mark.parametrize("name", ROOMS)
    def test_torch_reads_the_same_predicate(self, name: str) -> None:
        mask = torch_masks.native(ROOMS[name], CPU)
        got = torch_masks.allowed(mask, of(T, S), CPU)
        assert got is not None
        np.testing.assert_array_equal(np.broadcast_to(got.numpy(), (B, 1, T, S)), table(ROOMS[name], of(T, S)))

    @pytest.mark.parametrize("name", ROOMS)
    def test_jax_reads_the_same_predicate_with_the_mask_an_argument(self, name: str) -> None:
        got = jax.jit(lambda mask: jax_masks.allowed(mask, of(T, S)))(jax_masks.native(ROOMS[name]))
        np.testing.assert_array_equal(np.broadcast_to(got, (B, 1, T, S)), table(ROOMS[name], of(T, S)))

    @pytest.mark.parametrize("name", ROOMS)
    def test_a_mask_passes_through_trees(self, name: str) -> None:
        mask = ROOMS[name]
        for turned in (jax.tree.map(np.flip, mask), pytree.tree_map(np.flip, mask)):
            assert type(turned) is type(mask)
            assert turned.structure() == mask.structure()
            for got, was in zip(jax.tree.leaves(turned), jax.tree.leaves(mask), strict=True):
                np.testing.assert_array_equal(got, np.flip(was))

    @pytest.mark.parametrize("dtype", ["int64", "int32", "int8", "uint8", "uint16", "uint64"])
    def test_any_integers_measure_long_rows(self, dtype: str) -> None:
        # In their own dtype, 300 - 5 would be 39 or would not be.
        sizes, mask = of(3, 300, (1,)), spec.Lengths(np.array([5], dtype), padding="left")
        assert table(mask, sizes).sum() == 3 * 5
        assert int(np.sum(np.asarray(torch_masks.allowed(torch_masks.native(mask, CPU), sizes, CPU)))) == 5
        assert int(np.sum(np.asarray(jax_masks.allowed(jax_masks.native(mask), sizes)))) == 5

    def test_new_lengths_compile_nothing_and_a_new_window_does(self) -> None:
        traced = []

        @jax.jit
        def allowed(mask: Mask) -> Any:
            traced.append(mask)
            return jax_masks.allowed(mask, of(T, S))

        for lengths in ([5, 2], [1, 3]):
            for before in (0, 1):
                mask = spec.Window(before=before, after=0, align="end") & spec.Lengths(jnp.asarray(lengths))
                np.testing.assert_array_equal(allowed(mask), table(mask, of(T, S)))
        assert len(traced) == 2


class TestValues:
    @pytest.mark.parametrize(
        ("mask", "wanted"),
        [
            # Keys seen per row of 3 queries and 5 keys: [1, 2, 3] as SDPA's is_causal, [3, 4, 5] as FlashAttention.
            (spec.Causal(align="start"), ["x....", "xx...", "xxx.."]),
            (spec.Causal(align="end"), ["xxx..", "xxxx.", "xxxxx"]),
            (spec.Causal(query_positions=[4, 0, -1]), ["xxxxx", "x....", "....."]),
            (spec.Window(before=1, after=0, align="start"), ["x....", "xx...", ".xx.."]),
            (spec.Window(before=1, after=1, align="end"), [".xxx.", "..xxx", "...xx"]),
            (spec.Window(before=None, after=0, align="end"), ["xxx..", "xxxx.", "xxxxx"]),
            (spec.Window(before=0, after=None, align="start"), ["xxxxx", ".xxxx", "..xxx"]),
            (spec.Chunked(size=2, align="start"), ["xx...", "xx...", "..xx."]),
            (spec.Chunked(size=2, align="end"), ["..xx.", "..xx.", "....x"]),
            (spec.Prefix(2), ["xx...", "xx...", "xx..."]),
            (spec.Causal(align="start") | spec.Prefix(2), ["xx...", "xx...", "xxx.."]),
            (spec.Segments([7, 7, 8, 8, -1], [7, 8, -1]), ["xx...", "..xx.", "....."]),
            (spec.Lengths(np.int64(2), np.int64(1)), ["xx...", ".....", "....."]),
            (spec.Lengths(np.int64(2), np.int64(1), padding="left"), [".....", ".....", "...xx"]),
            (~spec.Lengths(np.int64(2)), ["..xxx", "..xxx", "..xxx"]),
        ],
    )
    def test_drawn_by_hand(self, mask: Mask, wanted: list[str]) -> None:
        assert rows(mask, 3, 5) == wanted

    def test_a_window_of_three_before_shows_four_keys(self) -> None:
        # As jax.nn's (3, 0), ONNX and FlashAttention; transformers' sliding_window=3 would show three.
        assert table(spec.Window(before=3, after=0), of(9, 9)).sum(-1).max() == 4


class TestRefusals:
    @pytest.mark.parametrize(
        ("make", "error", "text"),
        [
            (lambda: spec.Causal(align="middle"), OptionError, "align 'middle' must be None, 'start' or 'end'"),
            (lambda: spec.Causal(align="end", query_positions=[0]), OptionError, "align or query_positions, not both"),
            (lambda: spec.Causal(query_positions=np.ones(2)), MaskError, "query_positions float64 must be integers"),
            (
                lambda: spec.Window(before=-1, after=0),
                OptionError,
                "Window before -1 must be an int >= 0, in keys besides the",
            ),
            (lambda: spec.Window(before=0, after=NUMBER), OptionError, r"Window after 1\.5 must be an int >= 0"),
            (lambda: spec.Window(before=True, after=0), OptionError, "Window before True must be an int >= 0"),
            (lambda: spec.Chunked(size=0), OptionError, "Chunked size 0 must be an int >= 1"),
            (lambda: spec.Prefix(-1), OptionError, "Prefix length -1 must be an int >= 0 or integers"),
            (lambda: spec.Prefix("two"), MaskError, "Prefix length 'two' must be integers: a list or an array"),
            (lambda: spec.Segments(np.ones(3)), MaskError, "Segments kv float64 must be integers"),
            (lambda: spec.Segments([0], q=3), MaskError, "Segments q 3 must be integers: a list or an array"),
            (lambda: spec.Lengths(5), MaskError, "Lengths kv 5 must be integers: a list or an array"),
            (lambda: spec.Segments([0], np.array([True])), MaskError, "Segments q bool must be integers"),
            (lambda: spec.Lengths([5], padding="up"), OptionError, "Lengths padding 'up' must be 'right' or 'left'"),
            (lambda: spec.Lengths([1.5]), MaskError, "Lengths kv float64 must be integers"),
            (lambda: spec.Lengths([True]), MaskError, "Lengths kv bool must be integers"),
            (lambda: spec.Lengths(["one"]), MaskError, "Lengths kv <U3 must be integers"),
            (lambda: spec.Lengths([[1], [1, 2]]), MaskError, r"kv \[\[1\], \[1, 2\]\] must be integers in rows of one"),
            (lambda: spec.Chunked(size=True), OptionError, "Chunked size True must be an int"),
            (lambda: spec.Prefix(True), OptionError, "Prefix length True must be an int"),
            (lambda: spec.Dense(np.ones((3, 5))), MaskError, "Dense array float64 must be bool, True = may attend"),
            (lambda: spec.Dense(torch.ones(3, 5)), MaskError, "Dense array float32 must be bool"),
            (lambda: spec.Dense(jnp.ones((3, 5), int)), MaskError, "Dense array int32 must be bool"),
            (lambda: spec.Dense("all"), MaskError, "Dense array str must be bool"),
            (lambda: spec.Causal() & np.ones((3, 3), bool), MaskError, r"ndarray must be a Mask: wrap .* as Dense"),
            (lambda: spec.Causal() | np.ones(3, bool), MaskError, "mask ndarray must be a Mask"),
            (lambda: spec.Not(NUMBER), MaskError, "mask float must be a Mask"),
            (lambda: spec.Or(spec.Causal(), NUMBER), MaskError, "mask float must be a Mask: wrap"),
        ],
    )
    def test_a_mask_that_cannot_be(self, make: Callable[[], Mask], error: type[Exception], text: str) -> None:
        with pytest.raises(error, match=text, check=lambda caught: type(caught) is error):
            _ = make()

    @pytest.mark.parametrize(
        ("mask", "text"),
        [
            (spec.Causal(), "Causal with T = 3 queries and S = 5 keys must say where a query stands: align='start'"),
            (spec.Window(before=1, after=1), "Window with T = 3 queries and S = 5 keys must say"),
            (spec.Chunked(size=2), "Chunked with T = 3 queries and S = 5 keys must say"),
            (
                spec.Causal(query_positions=[0, 1]),
                r"query_positions \(2,\) must broadcast to \(\*batch, T\) = \(2, 3\)",
            ),
            (spec.Prefix(6), r"Prefix length 6 must be in 0\.\.S = 5"),
            (spec.Prefix([3, -1]), r"Prefix length \[3, -1\] must be in 0\.\.S = 5"),
            (spec.Segments([0, 1, 2, 3, 4]), "Segments with T = 3 and S = 5 must be given q"),
            (spec.Segments([0, 1, 2]), r"Segments kv \(3,\) must broadcast to \(\*batch, S\) = \(2, 5\)"),
            (spec.Segments([0] * 5, [0] * 5), r"Segments q \(5,\) must broadcast to \(\*batch, T\) = \(2, 3\)"),
            (spec.Lengths([5, 6]), r"Lengths kv \[5, 6\] must be in 0\.\.S = 5"),
            (spec.Lengths([5, 5], [4, 3]), r"Lengths q \[4, 3\] must be in 0\.\.T = 3"),
            (spec.Lengths([1, 2, 3]), r"Lengths kv \(3,\) must broadcast to \(\*batch,\) = \(2,\)"),
            (
                spec.Dense(np.ones((5, 3), bool)),
                r"Dense array \(5, 3\) must broadcast to \(\*batch, H, T, S\) = \(2, 1, 3,",
            ),
        ],
    )
    @pytest.mark.parametrize("inside", INSIDE)
    def test_a_mask_that_does_not_fit_in_any_room(self, mask: Mask, text: str, inside: str) -> None:
        whole = INSIDE[inside](mask)
        natives = [torch_masks.native(whole, CPU), jax_masks.native(whole), whole]
        for native, read in zip(natives, [torch_masks.read, jax_masks.read, np.asarray], strict=True):
            with pytest.raises(MaskError, match=text, check=lambda caught: type(caught) is MaskError):
                native.check(of(T, S), read)

    @pytest.mark.parametrize("number", [2**31, 2**40, -(2**31) - 1, -(2**63)])
    def test_a_number_that_jax_would_cut(self, number: int) -> None:
        for ids in ([number], np.array([number])):
            with pytest.raises(MaskError, match=rf"Segments kv {abs(number)} must be below 2\*\*31, which JAX counts to"):
                _ = spec.Segments(ids)

    @pytest.mark.parametrize("mask", [spec.Window(before=2**63 - 1, after=0), spec.Chunked(size=2**63 - 1)], ids=str)
    def test_a_bound_of_sys_maxsize_is_no_bound_or_refused_by_us(self, mask: Mask) -> None:
        got = jax_masks.allowed(jax_masks.native(mask), of(S, S))
        np.testing.assert_array_equal(np.broadcast_to(np.asarray(got), (B, 1, S, S)), table(mask, of(S, S)))
