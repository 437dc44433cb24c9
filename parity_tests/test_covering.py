"""Covering arrays contain every pair, and are much smaller than the product."""

from __future__ import annotations

from itertools import combinations, product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity_tests.support.covering import covering, pairwise

sizes = st.lists(st.integers(1, 4), min_size=2, max_size=4)


def met(rows: Any, strength: int) -> set[Any]:
    """Return every choice of `strength` places together with what stands there."""
    return {(at, tuple(row[i] for i in at)) for row in rows for at in combinations(range(len(row)), strength)}


class TestLaws:
    @given(sizes, st.integers(1, 2))
    def test_all_that_the_product_meets_is_met(self, counts: list[int], strength: int) -> None:
        axes = [[f"{name}{i}" for i in range(n)] for name, n in zip("abcd", counts, strict=False)]
        rows = covering(axes, strength)
        assert met(rows, strength) == met(product(*axes), strength)
        assert len(set(rows)) == len(rows)

    @given(sizes, st.integers(0, 5))
    def test_what_is_forbidden_is_in_no_row_and_all_else_is_met(self, counts: list[int], limit: int) -> None:
        axes = [range(n) for n in counts]
        rows = covering(axes, allowed=lambda *row: sum(row) <= limit)
        assert met(rows, 2) == met([row for row in product(*axes) if sum(row) <= limit], 2)

    def test_the_rows_are_the_same_always(self) -> None:
        axes = [range(4)] * 4
        assert covering(axes) == covering(axes)


class TestValues:
    def test_four_options_of_four_values_take_a_tenth_of_the_product(self) -> None:
        assert 16 <= len(covering([range(4)] * 4)) <= 26

    def test_strength_one_shows_every_value_once(self) -> None:
        assert covering(["abc", "xy"], strength=1) == [("a", "x"), ("b", "y"), ("c", "x")]

    def test_what_is_left_out_is_marked_slow(self) -> None:
        params = pairwise("a, b, c", *["xy"] * 3).args[1]
        fast = [param.values for param in params if not param.marks]
        assert len(params) == 8
        assert fast == covering(["xy"] * 3)
        assert {mark.name for param in params for mark in param.marks} == {pytest.mark.slow.name}
