"""Axial rotary embedding: positions on a grid, half of the rotated features by the row and half by the column.

    angle[(r, c)] = (r * f_i, c * f_i),  f_i = base^(-2i / (R/2))        i = 0 .. R/4 - 1, rows then columns

References:
    Heo et al., arXiv:2403.13298, equation 10 (there the column comes first), in the order of Qwen2-VL's vision tower,
    arXiv:2409.12191 (the row first).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from attention.spec.axes import Array
from attention.spec.errors import OptionError, shown
from attention.spec.numbers import is_count
from attention.spec.options import Option, check_options, checked
from attention.spec.positions.rotary_frequency_scaling import BASE, Constants, unscaled
from attention.spec.positions.rotation import HEAD_DIM, STYLE, circle, multiple_of, rotated_width, table_positions, turned

MOST_PATCHES = 2**24
"""The most patches of an image whose places are listed."""


@dataclass(frozen=True)
class AxialRotary:
    """Rotary positions on a grid: half of the pairs turns with the row, half with the column.

    Positions are integers `(*batch, N, 2)`, a row and a column each, and always explicit; `grid` lists an image's.

    Args:
        base: the wavelength base, above 1.
        style: which features form a pair: "half" or "interleaved".
        rotary_dim: rotate only the first `rotary_dim` of the D features (a multiple of 4); None rotates all.
    """

    base: float = 10_000.0
    style: str = "half"
    rotary_dim: int | None = None

    OPTIONS: ClassVar[Mapping[str, Option]] = {"base": BASE, "style": STYLE, "rotary_dim": multiple_of(4)}

    def __post_init__(self) -> None:
        check_options(self, "AxialRotary ")

    @property
    def grows(self) -> bool:
        """Whether the frequencies depend on the length of a call: never."""
        return False

    @staticmethod
    def grid(height: int, width: int) -> np.ndarray:
        """Return the positions of an image's patches, row by row: `(height * width, 2)`.

        Raises:
            OptionError: no positive ints.

        >>> AxialRotary.grid(2, 2).tolist()
        [[0, 0], [0, 1], [1, 0], [1, 1]]
        """
        if not (is_count(height) and is_count(width) and height * width <= MOST_PATCHES):
            raise OptionError(
                f"AxialRotary.grid ({shown(height)}, {shown(width)}) must be a positive int each,"
                f" and at most {MOST_PATCHES} together"
            )
        index = np.arange(height * width)
        return np.stack([index // width, index % width], axis=-1)

    @checked(head_dim=HEAD_DIM)
    def width(self, head_dim: int) -> int:
        """Return R, the number of rotated features.

        Raises:
            OptionError: `head_dim` is no multiple of 4, or narrower than `rotary_dim`.
        """
        return rotated_width("AxialRotary", self.rotary_dim, head_dim, multiple=4)

    @checked(head_dim=HEAD_DIM)
    def constants(self, head_dim: int) -> Constants:
        """Return the frequencies, `(R/4,)` float64."""
        return (self.frequencies(head_dim),)

    @checked(head_dim=HEAD_DIM)
    def frequencies(self, head_dim: int) -> np.ndarray:
        """Return `(R/4,)` float64: radians per row, and per column, of each pair."""
        return unscaled(self.base, self.width(head_dim) // 2)

    def turns(self, xp: Any, positions: Array, constants: tuple[Array, ...], length: Array = None) -> tuple[Array, Array]:
        """Return cosines and sines, `(*batch, N, R/2)` float64; as `Rotary.turns`, of positions `(*batch, N, 2)`."""
        del length
        by_axis = positions[..., None] * constants[0]  # (*batch, N, 2, R/4)
        return circle(xp, xp.concat([by_axis[..., 0, :], by_axis[..., 1, :]], axis=-1), 1.0)

    def tables(self, positions: np.ndarray, head_dim: int, length: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """Return cosines and sines, `(*batch, N, R/2)` float64, of positions `(*batch, N, 2)`."""
        return self.turns(np, table_positions(positions, length, 2), self.constants(head_dim), length)

    def rotate(self, xp: Any, x: Array, cos: Array, sin: Array) -> Array:
        """Rotate heads, as `Rotary.rotate` does."""
        return turned(xp, self.style, x, cos, sin)
