"""Axial rotary: half of the pairs is rotated by the row of a patch, half by its column.

angle[(r, c)] = (r f_i, c f_i),  f_i = base^(-2i / (R/2)), i = 0 .. R/4 - 1
rotate(q, (r, c)) = concat(Rotary(q's row pairs, r), Rotary(q's column pairs, c))
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLVisionRotaryEmbedding, apply_rotary_pos_emb_vision

from attention.spec.axes import Sizes
from attention.spec.errors import OptionError, PositionError, ShapeError
from attention.spec.positions import STYLES, AxialRotary, Rotary, check_positions, shared_length
from parity_tests.support.backends import Backend, each_backend, wide

UNIT = 2.0**-53
SINGLE = 2.0**-24
AXIAL = AxialRotary(rotary_dim=8)
GRID = AxialRotary.grid(2, 3)
X = np.random.default_rng(5).uniform(-1, 1, (2, 6, 3, 10))
CALL = Sizes((2,), 6, 6, 3, 3, 10, 10)


def rotate(backend: Backend, rotary: AxialRotary, x: np.ndarray, where: Any = None) -> np.ndarray:
    module = importlib.import_module(f"{backend.module.__name__}.positions")
    with wide(x):
        return backend.numpy(module.rotate(rotary, backend.array(x), where))


def turned(rotary: AxialRotary, x: np.ndarray, where: np.ndarray) -> np.ndarray:
    return rotary.rotate(np, x, *rotary.tables(where, x.shape[-1]))


class TestValues:
    def test_a_grid_is_listed_row_by_row(self) -> None:
        assert GRID.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]

    def test_frequencies(self) -> None:
        assert AxialRotary(base=16.0).frequencies(8).tolist() == [1.0, 0.25]
        cos, _ = AxialRotary(base=16.0).tables(np.array([[2, 3]]), 8)
        np.testing.assert_allclose(cos[0], np.cos([2.0, 0.5, 3.0, 0.75]), rtol=UNIT)

    def test_it_is_the_rotary_of_qwen_2_vl(self) -> None:
        config = Qwen2VLVisionConfig(embed_dim=32, num_heads=2, rope_parameters={"rope_type": "axial", "rope_theta": 10_000.0})
        x = torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, (6, 2, 16)))
        cos, sin = Qwen2VLVisionRotaryEmbedding(config)(x, torch.from_numpy(GRID))
        wanted, _ = apply_rotary_pos_emb_vision(x.float(), x.float(), cos, sin)
        np.testing.assert_allclose(turned(AxialRotary(), x.numpy(), GRID), wanted.numpy(), rtol=0, atol=8 * SINGLE)


class TestLaws:
    @pytest.mark.parametrize("style", STYLES)
    def test_each_axis_is_a_rotary_of_half_the_width(self, style: str) -> None:
        axial, plain = AxialRotary(style=style, rotary_dim=8), Rotary(style=style)
        # Which features belong to the pairs of the rows, in the order in which a rotary of width 4 pairs them.
        rows = [0, 1, 4, 5] if style == "half" else [0, 1, 2, 3]
        columns = [i for i in range(8) if i not in rows]
        got = turned(axial, X, GRID)
        for axis, features in enumerate((rows, columns)):
            wanted = plain.rotate(np, X[..., features], *plain.tables(GRID[:, axis], 4))
            np.testing.assert_array_equal(got[..., features], wanted)
        np.testing.assert_array_equal(got[..., 8:], X[..., 8:])

    @pytest.mark.parametrize("style", STYLES)
    def test_a_score_knows_only_the_distance_on_each_axis(self, style: str) -> None:
        axial = AxialRotary(style=style)
        q, k = X[..., :1, :8], X[..., 1:2, :8]

        def score(shift: tuple[int, int], at: tuple[int, int] = (4, 1)) -> np.ndarray:
            return np.sum(turned(axial, q, GRID + at + shift) * turned(axial, k, GRID + shift), axis=-1)

        np.testing.assert_allclose(score((0, 0)), score((90, 7)), rtol=0, atol=UNIT * 8 * 200)
        assert np.abs(score((0, 0)) - score((0, 0), at=(1, 4))).max() > 1e-3

    def test_no_length_is_asked_for(self) -> None:
        assert shared_length(np, AXIAL, GRID, GRID) is None


@each_backend
class TestBackends:
    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    def test_it_is_the_formula(self, backend: Backend, dtype: str) -> None:
        x, far = X.astype(dtype), GRID + 100_000
        got = rotate(backend, AXIAL, x, far)
        assert got.dtype == dtype
        within = 16 * UNIT * 100_000 if dtype == "float64" else 6 * SINGLE
        np.testing.assert_allclose(got, turned(AXIAL, x.astype(np.float64), far), rtol=0, atol=within)

    def test_rows_of_a_batch_have_their_own_grids(self, backend: Backend) -> None:
        where = np.stack([GRID, AxialRotary.grid(3, 2)])
        got = rotate(backend, AXIAL, X, where)
        for row in range(2):
            np.testing.assert_array_equal(got[row], rotate(backend, AXIAL, X[row], where[row]))

    def test_no_positions_are_refused(self, backend: Backend) -> None:
        with pytest.raises(PositionError, match="positions None must be given for AxialRotary"):
            _ = rotate(backend, AXIAL, X)


class TestRefusals:
    @pytest.mark.parametrize(
        ("make", "text"),
        [
            (lambda: AxialRotary(rotary_dim=6), "AxialRotary rotary_dim 6 must be a multiple of 4 >= 4, or None"),
            (lambda: AxialRotary(style="gptj"), "AxialRotary style 'gptj' must be one of"),
            (lambda: AxialRotary(base=1.0), r"AxialRotary base 1\.0 must be a finite number above 1"),
            (lambda: AxialRotary().width(6), "AxialRotary rotary_dim 6 must be a multiple of 4 and at most head_dim = 6"),
            (lambda: AxialRotary.grid(0, 2), r"AxialRotary\.grid \(0, 2\) must be a positive int each"),
        ],
    )
    def test_an_option_outside_its_range(self, make: Callable[[], object], text: str) -> None:
        with pytest.raises(OptionError, match=text, check=lambda caught: type(caught) is OptionError):
            _ = make()

    @pytest.mark.parametrize(
        ("query", "key", "error", "text"),
        [
            (None, None, PositionError, r"query_positions None must be given: \(\*batch, T, 2\) rows and columns"),
            (GRID, None, PositionError, r"key_positions None must be given: \(\*batch, S, 2\) rows and columns"),
            (GRID * 1.0, GRID, PositionError, "query_positions float64 must be an array of integers"),
            (np.arange(6), GRID, ShapeError, r"query_positions \(6,\) must broadcast to \(\*batch, T, 2\) = \(2, 6, 2\)"),
            (GRID, GRID[:, :1], ShapeError, r"key_positions \(6, 1\) must broadcast to \(\*batch, S, 2\) .* its last axis 2"),
            (GRID, GRID[:5], ShapeError, r"key_positions \(5, 2\) must broadcast to \(\*batch, S, 2\)"),
        ],
    )
    def test_positions_that_do_not_fit(self, query: Any, key: Any, error: type[Exception], text: str) -> None:
        with pytest.raises(error, match=text, check=lambda caught: type(caught) is error):
            check_positions(query, key, CALL, AXIAL)

    def test_positions_that_fit(self) -> None:
        check_positions(GRID, np.stack([GRID, GRID]), CALL, AXIAL)
