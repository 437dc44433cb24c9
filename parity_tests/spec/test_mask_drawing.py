"""Drawings of masks show what `evaluate` returns, and printing never fails.

picture[t][s] = ■ where table(mask)[row, head, t, s]
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given

from attention.spec.errors import MaskError, MissingExtra
from attention.spec.masks import Causal, DenseMask, Lengths, PerHead, PerRow, Placed, Prefix, Segments, Window, drawing
from attention.spec.masks.algebra import Mask
from attention.spec.masks.drawing import HIDDEN, MOST, SEEN
from parity_tests.support.drawn_masks import B, Drawn, of, sized, table

LONG = 10**9


def seen(picture: str) -> np.ndarray:
    """The table that a picture shows."""
    lines = [line for line in picture.splitlines() if SEEN in line or HIDDEN in line]
    return np.array([[mark == SEEN for mark in line if mark in SEEN + HIDDEN] for line in lines])


class TestLaws:
    @given(sized)
    def test_a_picture_shows_every_row_of_the_batch_as_it_is(self, drawn: Drawn) -> None:
        (t, s), (mask, _) = drawn
        sizes = drawing.known_sizes(mask, t, s)
        for row in range(int(np.prod(sizes.batch))):
            wanted = table(mask, of(t, s, sizes.batch)).reshape(-1, t, s)[row]
            np.testing.assert_array_equal(seen(mask.draw(t, s, row=row)), wanted)

    @given(sized)
    def test_a_description_is_one_line_and_a_print_never_fails(self, drawn: Drawn) -> None:
        _, (mask, _) = drawn
        assert "\n" not in repr(mask)
        assert str(mask).splitlines()[0] == repr(mask)

    def test_heads_are_drawn_one_by_one(self) -> None:
        mask = PerHead((Causal(), ~Causal(), DenseMask(np.arange(48).reshape(3, 4, 4) % 5 > 1))) & PerRow(
            (Prefix(3), Prefix(2))
        )
        for row in range(2):
            for head in range(3):
                wanted = table(mask, of(4, 4, (2,), heads=3))[row, head]
                np.testing.assert_array_equal(seen(mask.draw(4, 4, row=row, head=head)), wanted)

    @pytest.mark.parametrize("make", [np.asarray, torch.tensor, jnp.asarray], ids=["numpy", "torch", "jax"])
    def test_arrays_of_any_framework_are_drawn(self, make: Any) -> None:
        mask = Lengths([1, 3]).map(make) & Segments([[0, 0, 1], [0, 1, 1]]).map(make)
        np.testing.assert_array_equal(seen(mask.draw(row=1)), [[1, 0, 0], [0, 1, 1], [0, 1, 1]])


class TestValues:
    def test_a_picture_by_hand(self) -> None:
        assert str(Segments([0, 0, 1, -1])).splitlines() == [
            "Segments(kv=[0, 0, 1, -1], q=None)",
            "t/s  0 1 2 3",
            "  0  ■ ■ · ·",
            "  1  ■ ■ · ·",
            "  2  · · ■ ·",
            "  3  · · · ·",
        ]

    def test_a_long_sequence_shows_its_first_corner_and_costs_nothing(self) -> None:
        lines = Causal(align="end").draw(LONG, LONG + 2).splitlines()
        assert lines[-1] == f"the first {MOST} of T = {LONG} queries, {MOST} of S = {LONG + 2} keys"
        np.testing.assert_array_equal(seen("\n".join(lines[2:-1])), np.tri(MOST, MOST, 2, dtype=bool))
        assert len(lines) == MOST + 3

    @pytest.mark.parametrize(
        ("mask", "t", "s"),
        [
            (Causal(), 8, 8),
            (Prefix(2), 8, 8),
            (Prefix(11) | Causal(), 11, 11),
            (Lengths([3, 12], [2, 9]), 9, 12),
            (Placed(Prefix(16), [[3]], [[1, 2, 3]]), 1, 3),
            (Causal(query_positions=[3, 4]), 2, 2),
            (Segments([0] * 5, [0] * 2), 2, 5),
            (DenseMask(np.ones((2, 1, 1, 5), bool)) & Causal(), 5, 5),
            (DenseMask(np.ones((3, 5), bool)), 3, 5),
        ],
        ids=repr,
    )
    def test_sizes_come_from_the_arrays(self, mask: Mask, t: int, s: int) -> None:
        assert seen(str(mask)).shape == (t, s)

    def test_descriptions_name_small_numbers_and_the_shape_of_many(self) -> None:
        assert repr(Lengths([1, 2])) == "Lengths(kv=[1, 2], q=None, padding='right')"
        assert repr(Segments(torch.zeros(2, 9, dtype=torch.int32))) == "Segments(kv=int32[2, 9], q=None)"
        assert repr(DenseMask(np.ones((3, 9), bool))) == "DenseMask(array=bool[3, 9])"
        assert repr(PerHead((Prefix(1), Prefix(2)))) == "PerHead(masks=(Prefix(length=1), Prefix(length=2)))"
        assert repr(Prefix(1) & ~Prefix(2)) == "And(left=Prefix(length=1), right=Not(mask=Prefix(length=2)))"

    def test_what_is_traced_or_does_not_fit_is_described(self) -> None:
        said: list[str] = []
        _ = jax.jit(lambda kv: said.append(str(Lengths(kv))) or kv)(jnp.asarray([1, 2]))
        _ = torch.vmap(lambda kv: said.append(str(Lengths(kv))) or kv)(torch.tensor([1, 2]))
        assert said == ["Lengths(kv=int32[2], q=None, padding='right')", "Lengths(kv=int64[], q=None, padding='right')"]
        unsaid = Causal() & DenseMask(np.ones((3, 5), bool))
        assert str(unsaid) == repr(unsaid)
        assert str(Lengths([1, 2]) & Lengths([1, 2, 3])).startswith("And(")

    def test_a_figure_has_the_sizes_on_its_axes(self) -> None:
        _ = pytest.importorskip("matplotlib")
        drawn = Window(before=1, after=0).plot(5)
        (axes,) = drawn.axes
        np.testing.assert_array_equal(axes.images[0].get_array(), np.tri(5, dtype=bool) & ~np.tri(5, k=-2, dtype=bool))
        assert axes.get_xlabel() == "key s of S = 5"
        assert axes.get_ylabel() == "query t of T = 5"
        assert axes.get_title() == repr(Window(before=1, after=0))


class TestRefusals:
    @pytest.mark.parametrize(
        ("mask", "call", "text"),
        [
            (Causal(), {"T": 2, "S": 3}, "Causal with T = 2 queries and S = 3 keys must say where a query stands"),
            (Prefix(9), {"T": 2, "S": 3}, r"Prefix length 9 must be in 0\.\.S = 3"),
            (Lengths([1, 2]), {"row": B}, r"row 2 and head 0 must be in 0\.\.1 and 0\.\.0, which the mask has"),
            (Causal(), {"head": 1}, r"row 0 and head 1 must be in 0\.\.0 and 0\.\.0"),
            (Causal(), {"row": -1}, "row -1 must be an int >= 0"),
            (Lengths([1, 2]) & Lengths([1, 2, 3]), {}, "must hold arrays whose batch axes broadcast"),
        ],
    )
    def test_what_cannot_be_drawn(self, mask: Mask, call: dict[str, int], text: str) -> None:
        for draw in (mask.draw, mask.plot):
            with pytest.raises(MaskError, match=text, check=lambda caught: type(caught) is MaskError):
                _ = draw(**call)

    def test_without_matplotlib_the_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(drawing, "find_spec", lambda _name: None)
        with pytest.raises(
            MissingExtra, match=r"plot needs matplotlib, which is not installed: pip install 'attention-parity\[report\]'"
        ):
            _ = Causal().plot()
