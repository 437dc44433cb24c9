"""Tile schedule: tiles marked empty are empty and tiles marked full are full, for masks of every framework.

kind[i, j] = EMPTY -> no element of the tile is allowed        kind[i, j] = FULL -> every element is
tile = (1, 1)  ->  kind = FULL where allowed, else EMPTY        Causal, Window, Prefix, Lengths: PARTIAL -> both occur
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from itertools import product
from typing import Any

import array_api_compat.torch as torch_xp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attention.jax_impl import masks as jax_masks
from attention.spec import masks
from attention.spec.axes import Sizes
from attention.spec.errors import OptionError
from attention.spec.masks.algebra import Mask
from attention.spec.masks.intervals import Interval
from attention.spec.masks.tile import Tile
from attention.spec.masks.tile_schedule import EMPTY, FULL, PARTIAL, Schedule, schedule
from attention.torch_impl import masks as torch_masks
from parity_tests.support.drawn_masks import Drawn, any_mask, of, positional, sized, table

CPU = torch.device("cpu")
TILES = st.tuples(st.integers(1, 4), st.integers(1, 4))
MANY = settings(max_examples=60)


def cut(allowed: np.ndarray, made: Schedule, i: int, j: int) -> np.ndarray:
    """The elements of a tile, `(*batch, H, q, k)`."""
    q, k = made.tile
    return allowed[..., i * q : (i + 1) * q, j * k : (j + 1) * k]


def tiles(made: Schedule) -> list[tuple[int, int]]:
    rows, columns = made.kinds.shape[-2:]
    return list(product(range(rows), range(columns)))


def numpy(mask: Mask) -> Mask:
    return mask.map(np.asarray)


class TestIntervals:
    EDGES = st.integers(-4, 4)
    RANGES = st.tuples(EDGES, EDGES).map(lambda edges: np.sort(np.asarray(edges)))

    @MANY
    @given(RANGES, RANGES, st.sampled_from([operator.le, operator.lt, operator.ge, operator.gt, operator.eq, operator.ne]))
    def test_a_comparison_says_none_or_all_of_ranges_only_where_it_is_so(
        self, a: np.ndarray, b: np.ndarray, compare: Callable[..., Any]
    ) -> None:
        found = compare(Interval(*a), Interval(*b))
        every = [compare(x, y) for x in range(a[0], a[1] + 1) for y in range(b[0], b[1] + 1)]
        assert (found.may, found.must) == (any(every), all(every))

    @MANY
    @given(RANGES, RANGES, st.sampled_from([operator.add, operator.sub]), EDGES)
    def test_arithmetic_gives_the_range_of_what_it_can_give(
        self, a: np.ndarray, b: np.ndarray, combine: Callable[..., Any], n: int
    ) -> None:
        every = [combine(x, y) for x in range(a[0], a[1] + 1) for y in range(b[0], b[1] + 1)]
        found = combine(Interval(*a), Interval(*b))
        assert (found.least, found.most) == (min(every), max(every))
        for made in (n - Interval(*a), n + Interval(*a)):
            assert made.least <= made.most
        assert ((n - Interval(*a)).least, (n - Interval(*a)).most) == (n - a[1], n - a[0])
        assert ((Interval(*a) // 3).least, (Interval(*a) // 3).most) == (a[0] // 3, a[1] // 3)

    def test_a_range_is_all_of_itself_and_an_array_beside_it_is_not_spread(self) -> None:
        x = Interval(np.array([0, 2]), np.array([1, 5]))
        # What every window without bounds asks.
        assert (x == x).must.all()  # noqa: PLR0124
        assert (np.array([3, 3]) >= x).may.tolist() == [True, True]  # type: ignore[attr-defined]


class TestLaws:
    @MANY
    @given(sized, TILES)
    def test_an_empty_tile_allows_nothing_and_a_full_one_everything(self, drawn: Drawn, tile: tuple[int, int]) -> None:
        (t, s), (mask, _) = drawn
        made, allowed = schedule(numpy(mask), of(t, s), tile), table(mask, of(t, s))
        kinds = np.broadcast_to(made.kinds, (*allowed.shape[:-2], *made.kinds.shape[-2:]))
        for i, j in tiles(made):
            inside = cut(allowed, made, i, j)
            for kind, some in zip(kinds[..., i, j].ravel(), inside.reshape(-1, *inside.shape[-2:]), strict=True):
                assert kind != EMPTY or not some.any()
                assert kind != FULL or some.all()

    @MANY
    @given(sized)
    def test_tiles_of_one_element_are_the_mask_itself(self, drawn: Drawn) -> None:
        (t, s), (mask, _) = drawn
        kinds = schedule(numpy(mask), of(t, s), (1, 1)).kinds
        np.testing.assert_array_equal(np.broadcast_to(kinds, (2, 1, t, s)), np.where(table(mask, of(t, s)), FULL, EMPTY))

    @MANY
    @given(st.integers(1, 9), st.integers(1, 9), TILES, st.data())
    def test_a_band_is_partial_only_where_it_is_cut(self, t: int, s: int, tile: tuple[int, int], data: st.DataObject) -> None:
        mask, _ = data.draw(positional(t, s, given=False))
        made, allowed = schedule(mask, of(t, s, ()), tile), table(mask, of(t, s, ()))
        for i, j in tiles(made):
            inside = cut(allowed, made, i, j)
            wanted = FULL if inside.all() else PARTIAL if inside.any() else EMPTY
            # Chunks meet in a tile that holds parts of several.
            assert made.kinds[0, i, j] == wanted or (isinstance(mask, masks.Chunked) and made.kinds[0, i, j] == PARTIAL)

    @MANY
    @given(sized, TILES)
    def test_what_structure_alone_says_holds_whatever_the_data(self, drawn: Drawn, tile: tuple[int, int]) -> None:
        (t, s), (mask, _) = drawn
        # Nothing can be read of what is no array.
        outline = schedule(mask.map(lambda _: object()), of(t, s), tile, known=False)
        made = schedule(numpy(mask), of(t, s), tile)
        sure = np.broadcast_to(outline.kinds != PARTIAL, made.kinds.shape)
        np.testing.assert_array_equal(made.kinds[sure], np.broadcast_to(outline.kinds, made.kinds.shape)[sure])
        if mask.is_static:
            np.testing.assert_array_equal(outline.kinds, made.kinds)

    @settings(max_examples=12)
    @given(any_mask(5, 6), TILES)
    def test_torch_jax_and_a_compiler_find_the_same_tiles(self, drawn: tuple[Mask, Any], tile: tuple[int, int]) -> None:
        mask, sizes = drawn[0], of(5, 6)
        wanted = schedule(numpy(mask), sizes, tile).kinds
        in_torch = schedule(torch_masks.native(mask, CPU), sizes, tile, torch_xp).kinds
        in_jax = schedule(jax_masks.native(mask), sizes, tile, jnp).kinds
        for found in (in_torch, in_jax):
            np.testing.assert_array_equal(np.asarray(found), wanted)

    @given(sized, TILES)
    @MANY
    def test_a_stripe_of_the_mask_is_cut_from_the_whole(self, drawn: Drawn, tile: tuple[int, int]) -> None:
        (t, s), (mask, _) = drawn
        bounds = (min(tile[0], t) - 1, t), (0, min(tile[1], s))
        stripe = Tile.at(np, of(t, s), *bounds)
        found = numpy(mask).allowed(stripe)
        wanted = table(mask, of(t, s))[..., slice(*bounds[0]), slice(*bounds[1])]
        np.testing.assert_array_equal(np.broadcast_to(found, wanted.shape), wanted)


class TestValues:
    BAND = masks.Causal() & masks.Window(before=3, after=0)

    def test_lists_name_the_tiles_of_a_kind_in_rising_order(self) -> None:
        made = schedule(self.BAND, Sizes((), 10, 10, 1, 1, 1, 1), (2, 2))
        counts, index = made.of(PARTIAL)
        assert counts.tolist() == [[1, 1, 2, 2, 2]]
        assert [row[:n].tolist() for row, n in zip(index[0], counts[0], strict=True)] == [[0], [1], [0, 2], [1, 3], [2, 4]]
        assert made.of(PARTIAL, FULL)[0].tolist() == [[1, 2, 3, 3, 3]]

    def test_spans_and_the_view_of_the_keys(self) -> None:
        made = schedule(masks.Window(before=3, after=0, align="start"), Sizes((), 10, 12, 1, 1, 1, 1), (2, 3))
        first, end = made.span()
        assert (first.tolist(), end.tolist()) == ([[0, 0, 0, 1, 1]], [[1, 2, 2, 3, 4]])
        turned = made.turned()
        assert (turned.tile, turned.T, turned.S, turned.kinds.shape) == ((3, 2), 12, 10, (1, 4, 5))
        assert [x.tolist() for x in turned.span()] == [[[0, 1, 3, 4]], [[3, 5, 5, 5]]]

    def test_an_empty_stripe_has_no_span(self) -> None:
        made = schedule(masks.Prefix(0), Sizes((), 4, 4, 1, 1, 1, 1), (2, 2))
        assert [x.tolist() for x in made.span()] == [[[0, 0]], [[0, 0]]]
        assert made.density == 0.0

    def test_lengths_are_told_apart_by_row_and_heads_by_head(self) -> None:
        sizes = Sizes((2,), 4, 4, 3, 1, 1, 1)
        rows = schedule(masks.Lengths(kv=np.array([2, 4])), sizes, (4, 2))
        assert rows.kinds.tolist() == [[[[FULL, EMPTY]]], [[[FULL, FULL]]]]
        heads = schedule(masks.PerHead((masks.Causal(), masks.Prefix(2), ~masks.Prefix(2))), sizes, (2, 2))
        assert heads.kinds[0, :, 0].tolist() == [[PARTIAL, EMPTY], [FULL, EMPTY], [EMPTY, FULL]]

    def test_arrays_are_looked_at_tile_by_tile_and_the_last_tile_as_it_is(self) -> None:
        array = np.zeros((5, 5), bool)
        array[:2, :3] = array[2:, 3:] = True
        array[0, 3] = True
        sizes = Sizes((), 5, 5, 1, 1, 1, 1)
        assert schedule(masks.DenseMask(array), sizes, (2, 3)).kinds[0].tolist() == [
            [FULL, PARTIAL],
            [EMPTY, FULL],
            [EMPTY, FULL],
        ]
        ids = schedule(masks.Segments(np.array([4, 4, 7, 7, 7])), sizes, (2, 2))
        assert ids.kinds[0].tolist() == [[FULL, EMPTY, EMPTY], [EMPTY, FULL, FULL], [EMPTY, FULL, FULL]]

    def test_the_share_of_the_scores_counts_short_tiles_as_they_are(self) -> None:
        made = schedule(masks.Prefix(3), Sizes((), 5, 5, 1, 1, 1, 1), (2, 3))
        assert made.density == pytest.approx(3 / 5)
        assert schedule(None, Sizes((2,), 5, 5, 1, 1, 1, 1), (2, 3)).density == 1.0

    def test_a_long_sequence_costs_its_tiles(self) -> None:
        n = 2**30
        made = schedule(masks.Causal(), Sizes((), n, n, 1, 1, 1, 1), (n // 64, n // 64))
        assert made.density == pytest.approx(65 / 128)

    def test_no_queries_or_no_keys_make_no_tiles(self) -> None:
        for t, s in ((0, 4), (4, 0), (0, 0)):
            sizes = Sizes((), t, s, 1, 1, 1, 1)
            made = schedule(masks.Causal(align="start"), sizes, (2, 2))
            assert (made.kinds.shape, made.density) == ((1, -(-t // 2), -(-s // 2)), 0.0)
            assert [x.tolist() for x in made.span()] == [[[0] * (-(-t // 2))]] * 2

    def test_lengths_that_a_compiler_traces_change_the_loops_and_not_the_program(self) -> None:
        compiled = 0

        @jax.jit
        def counts(length: Any) -> Any:
            nonlocal compiled
            compiled += 1
            return schedule(masks.Lengths(kv=length), Sizes((1,), 8, 8, 1, 1, 1, 1), (4, 2), jnp).of(FULL, PARTIAL)[0]

        assert [counts(jnp.asarray([n])).tolist() for n in (0, 3, 8)] == [[[[n, n]]] for n in (0, 2, 4)]
        assert compiled == 1

    def test_a_drawing_shows_the_tiles(self) -> None:
        drawn = str(schedule(self.BAND, Sizes((), 8, 8, 1, 1, 1, 1), (2, 2)))
        assert drawn.splitlines()[1:5] == ["▒···", "■▒··", "▒■▒·", "·▒■▒"]
        assert "56.2% of the scores" in drawn


class TestRefusals:
    @pytest.mark.parametrize("tile", [(0, 2), (2,), (2, 2.0), (True, 2)])
    def test_a_tile_is_two_counts(self, tile: Any) -> None:
        with pytest.raises(OptionError, match=r"tile .* must be two ints >= 1"):
            _ = schedule(None, Sizes((), 4, 4, 1, 1, 1, 1), tile)
