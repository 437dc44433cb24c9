"""Masks: each kind equals its formula element by element, and every backend evaluates the same predicate.

allowed[b, t, s] = says(b, t, s)        says in plain Python, over integers and lists
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils import _pytree as pytree

from attention.jax_impl import masks as jax_masks
from attention.spec import masks
from attention.spec.axes import Sizes
from attention.spec.masks.algebra import Mask, both, evaluate
from attention.torch_impl import masks as torch_masks
from parity_tests.support.drawn_masks import B, Drawn, S, Says, T, any_mask, of, sides, sized, structural, table

CPU = torch.device("cpu")
SIZES = of(T, S, heads=2)


def in_torch(mask: Mask | None, sizes: Sizes) -> Any:
    return torch_masks.allowed(mask, sizes, CPU)


def in_jax(mask: Mask | None, sizes: Sizes) -> Any:
    return jax_masks.allowed(mask, sizes)


def rows(mask: Mask, t: int, s: int) -> list[str]:
    return ["".join("x" if seen else "." for seen in row) for row in table(mask, of(t, s, ()))[0]]


# One of each kind, and of each way to say where a query stands: what the backends are shown.
EXAMPLES: dict[str, Mask] = {
    "causal": masks.Causal(align="end"),
    "causal at": masks.Causal(query_positions=[[0, 2, 4], [4, 1, 3]]),
    "window": masks.Window(before=1, after=0, align="start"),
    "chunked": masks.Chunked(size=2, align="end"),
    "prefix": masks.Prefix(2),
    "prefixes": masks.Prefix([1, 4]),
    "segments": masks.Segments([[0, 0, 1, 1, -1], [0, 1, 2, 2, 2]], [[0, 1, -1], [2, 2, 0]]),
    "right": masks.Lengths([5, 2], [3, 1]),
    "left": masks.Lengths([5, 2], [3, 1], padding="left"),
    "dense": masks.DenseMask(np.arange(B * T * S).reshape(B, 1, T, S) % 3 == 0),
    "heads": masks.PerHead((masks.Causal(align="end"), masks.Segments([[0, 0, 1, 1, -1]], [[0, 1, -1]]))),
    "rows": masks.PerRow((masks.Lengths([5, 2]), masks.PerHead((masks.Prefix(1), ~masks.Prefix(2))))),
    "placed": masks.Placed(masks.Window(before=2, after=0), [[7, -1, 3]], [[3, 5, -1, 7, 2], [0, 1, 2, 3, 9]]),
    "presence": masks.Placed(None, [[0, 1, 2], [-1, 0, 1]], [[0, 1, 2, -1, -1]]),
    "placed heads": masks.Placed(masks.PerHead((masks.Causal(), masks.Chunked(size=2))), [[4, 0, -1]], [[4, 3, 2, 1, 0]]),
    "mixed": masks.Causal(align="end") & ~masks.Lengths([1, 2]) | masks.Prefix([3, 0]),
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
        assert (masks.Causal() & (masks.Window(before=2, after=0) | masks.Prefix(1))).keeps_self
        assert not (~masks.Causal()).keeps_self
        assert not (masks.Causal() & masks.Prefix(1)).keeps_self
        assert not masks.Causal(query_positions=[0]).keeps_self

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

    def test_masks_in_a_tuple_are_equal_by_what_they_say(self) -> None:
        for kind in (masks.PerHead, masks.PerRow):
            same, other = (kind((masks.Causal(), masks.Prefix(n))) for n in (2, 3))
            assert same == kind((masks.Causal(), masks.Prefix(2)))
            assert hash(same) == hash(kind((masks.Causal(), masks.Prefix(2))))
            assert same not in (other, kind((masks.Causal(),)), kind((masks.Prefix(2), masks.Causal())))
            assert kind((masks.Lengths([1]),)) != kind((masks.Lengths([1]),))
            assert not kind((masks.Causal(), masks.Lengths([1]))).is_static

    @given(sides.flatmap(lambda n: st.tuples(st.just(n), structural(n))))
    def test_no_query_sees_beyond_the_reach_or_ahead_where_none_looks(self, drawn: tuple[int, tuple[Mask, Says]]) -> None:
        n, (mask, _) = drawn
        _, _, t, s = np.nonzero(table(mask, of(n, n)))
        assert mask.reach is None or (t - s <= mask.reach).all()
        assert mask.looks_ahead or (s <= t).all()

    def test_reach_and_looking_ahead_by_hand(self) -> None:
        local, chunk, causal = masks.Window(before=3, after=0), masks.Chunked(size=3), masks.Causal()
        at = masks.Placed(local, [0], [0])
        reaches = {local: 3, chunk: 2, causal: None, ~local: None, causal & local: 3, local & chunk: 2, local | chunk: 3}
        reaches |= {causal | local: None, masks.PerHead((local, chunk)): 3, masks.PerRow((causal, local)): None}
        reaches |= {at: 3, at & chunk: 2, masks.Placed(None, [0], [0]): None, masks.Segments([0]): None}
        assert {mask: mask.reach for mask in reaches} == reaches
        both_ways = masks.Window(before=0, after=1)
        blind = (local, causal, causal & both_ways, local | causal, masks.PerHead((local, causal)), at)
        seeing = (both_ways, masks.Window(before=0, after=None), chunk, ~causal, causal | chunk, masks.Prefix(1))
        seeing += (masks.PerRow((local, chunk)), masks.Placed(None, [0], [0]), masks.DenseMask([[True]]))
        assert [mask for mask in blind if mask.looks_ahead] == []
        assert [mask for mask in seeing if not mask.looks_ahead] == []

    def test_structure_is_equal_by_what_it_says_and_data_only_to_itself(self) -> None:
        assert masks.Causal() & ~masks.Prefix(2) == masks.Causal() & ~masks.Prefix(2)
        assert masks.Causal() & ~masks.Prefix(2) != masks.Causal() & ~masks.Prefix(3)
        assert masks.Prefix(2) | masks.Causal() != masks.Prefix(2) & masks.Causal()
        for make in (lambda: masks.Lengths([1, 2]), lambda: masks.Causal(query_positions=[0, 1])):
            mask = make()
            assert {mask: 1}[mask] == 1
            assert mask != make()
            assert mask & masks.Causal() != make() & masks.Causal()

    def test_no_mask_allows_everything(self) -> None:
        assert evaluate(None, SIZES) is None
        assert both(None, None) is None
        assert both(masks.Prefix(1), None) == both(None, masks.Prefix(1)) == masks.Prefix(1)
        assert both(masks.Prefix(1), masks.Causal()) == masks.Prefix(1) & masks.Causal()


class TestBackends:
    def test_every_kind_is_shown_to_the_backends(self) -> None:
        def kinds(mask: Mask) -> set[type[Mask]]:
            return {type(mask)}.union(*map(kinds, mask.inside))

        assert set().union(*map(kinds, EXAMPLES.values())) == set(masks.KINDS)

    @pytest.mark.parametrize("name", EXAMPLES)
    def test_torch_reads_the_same_predicate(self, name: str) -> None:
        mask = torch_masks.native(EXAMPLES[name], CPU)
        got = torch_masks.allowed(mask, SIZES, CPU)
        assert got is not None
        np.testing.assert_array_equal(np.broadcast_to(got.numpy(), SIZES.scores), table(EXAMPLES[name], SIZES))

    @pytest.mark.parametrize("name", EXAMPLES)
    def test_jax_reads_the_same_predicate_with_the_mask_an_argument(self, name: str) -> None:
        got = jax.jit(lambda mask: jax_masks.allowed(mask, SIZES))(jax_masks.native(EXAMPLES[name]))
        np.testing.assert_array_equal(np.broadcast_to(got, SIZES.scores), table(EXAMPLES[name], SIZES))

    @pytest.mark.parametrize("name", EXAMPLES)
    def test_a_mask_passes_through_trees(self, name: str) -> None:
        mask = EXAMPLES[name]
        for turned in (jax.tree.map(np.flip, mask), pytree.tree_map(np.flip, mask), mask.map(np.flip)):
            assert type(turned) is type(mask)
            assert turned.structure() == mask.structure()
            assert len(turned.inside) == len(mask.inside)
            for got, was in zip(jax.tree.leaves(turned), jax.tree.leaves(mask), strict=True):
                np.testing.assert_array_equal(got, np.flip(was))

    @pytest.mark.parametrize("dtype", ["int64", "int32", "int8", "uint8", "uint16", "uint64"])
    def test_any_integers_measure_long_rows(self, dtype: str) -> None:
        # In their own dtype, 300 - 5 would be 39 or would not be.
        sizes, mask = of(3, 300, (1,)), masks.Lengths(np.array([5], dtype), padding="left")
        assert table(mask, sizes).sum() == 3 * 5
        assert int(np.sum(np.asarray(torch_masks.allowed(torch_masks.native(mask, CPU), sizes, CPU)))) == 5
        assert int(np.sum(np.asarray(jax_masks.allowed(jax_masks.native(mask), sizes)))) == 5

    @pytest.mark.parametrize("name", ["rows", "placed", "placed heads", "segments"])
    def test_a_batch_of_masks_maps_in_both_backends(self, name: str) -> None:
        mask = EXAMPLES[name]
        if name == "rows":
            # Each of two layers has the two rows that the mask speaks of.
            mask, sizes, wanted = mask.map(lambda x: np.stack([x, x])), SIZES, np.stack([table(mask, SIZES)] * 2)
        else:
            mask = mask.map(lambda x: np.repeat(x[-B:], B // len(x[-B:]), axis=0))
            sizes, wanted = of(T, S, (), heads=2), table(EXAMPLES[name], SIZES)
        inside = jax.vmap(lambda one: jnp.broadcast_to(in_jax(one, sizes), sizes.scores))
        np.testing.assert_array_equal(inside(jax_masks.native(mask)), wanted)
        inside = torch.vmap(lambda one: in_torch(one, sizes).broadcast_to(sizes.scores))
        np.testing.assert_array_equal(inside(torch_masks.native(mask, CPU)), wanted)

    @pytest.mark.parametrize("name", ["rows", "placed heads"])
    def test_torch_compiles_masks_within_masks(self, name: str) -> None:
        mask = torch_masks.native(EXAMPLES[name], CPU)
        compiled = torch.compile(lambda mask: in_torch(mask, SIZES), backend="eager", fullgraph=True)
        np.testing.assert_array_equal(np.broadcast_to(compiled(mask), SIZES.scores), table(EXAMPLES[name], SIZES))

    def test_new_lengths_compile_nothing_and_a_new_window_does(self) -> None:
        traced = []

        @jax.jit
        def allowed(mask: Mask) -> Any:
            traced.append(mask)
            return jax_masks.allowed(mask, SIZES)

        for lengths in ([5, 2], [1, 3]):
            for before in (0, 1):
                mask = masks.Window(before=before, after=0, align="end") & masks.Lengths(jnp.asarray(lengths))
                np.testing.assert_array_equal(allowed(mask), table(mask, of(T, S)))
        assert len(traced) == 2


class TestValues:
    @pytest.mark.parametrize(
        ("mask", "wanted"),
        [
            # Keys seen per row of 3 queries and 5 keys: [1, 2, 3] as SDPA's is_causal, [3, 4, 5] as FlashAttention.
            (masks.Causal(align="start"), ["x....", "xx...", "xxx.."]),
            (masks.Causal(align="end"), ["xxx..", "xxxx.", "xxxxx"]),
            (masks.Causal(query_positions=[4, 0, -1]), ["xxxxx", "x....", "....."]),
            (masks.Window(before=1, after=0, align="start"), ["x....", "xx...", ".xx.."]),
            (masks.Window(before=1, after=1, align="end"), [".xxx.", "..xxx", "...xx"]),
            (masks.Window(before=None, after=0, align="end"), ["xxx..", "xxxx.", "xxxxx"]),
            (masks.Window(before=0, after=None, align="start"), ["xxxxx", ".xxxx", "..xxx"]),
            (masks.Chunked(size=2, align="start"), ["xx...", "xx...", "..xx."]),
            (masks.Chunked(size=2, align="end"), ["..xx.", "..xx.", "....x"]),
            (masks.Prefix(2), ["xx...", "xx...", "xx..."]),
            (masks.Causal(align="start") | masks.Prefix(2), ["xx...", "xx...", "xxx.."]),
            (masks.Segments([7, 7, 8, 8, -1], [7, 8, -1]), ["xx...", "..xx.", "....."]),
            (masks.Lengths(np.int64(2), np.int64(1)), ["xx...", ".....", "....."]),
            (masks.Lengths(np.int64(2), np.int64(1), padding="left"), [".....", ".....", "...xx"]),
            (~masks.Lengths(np.int64(2)), ["..xxx", "..xxx", "..xxx"]),
        ],
    )
    def test_drawn_by_hand(self, mask: Mask, wanted: list[str]) -> None:
        assert rows(mask, 3, 5) == wanted

    def test_a_window_of_three_before_shows_four_keys(self) -> None:
        # As jax.nn's (3, 0), ONNX and FlashAttention; transformers' sliding_window=3 would show three.
        assert table(masks.Window(before=3, after=0), of(9, 9)).sum(-1).max() == 4
