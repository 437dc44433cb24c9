"""Rotary embedding: queries and keys are rotated by their positions, so that scores depend on distances alone.

    angle[p, i] = p * f_i,  f_i = base^(-2i / R)      radians, i = 0 .. R/2 - 1, R the rotated width; scaled or not
    angle[(r, c)] = (r * f_i, c * f_i),  f_i = base^(-2i / (R/2))        AxialRotary: i = 0 .. R/4 - 1, rows then columns
    (x_a, x_b) -> (x_a cos - x_b sin, x_b cos + x_a sin)
    style "half":         (a, b) = (i, i + R/2)       rotate-half: GPT-NeoX, Llama in transformers, flax
    style "interleaved":  (a, b) = (2i, 2i + 1)       the paper, GPT-J, Llama in Meta's code

Angles, cosines and sines are computed in float64; the rotation is applied in the compute dtype.

References:
    Su et al., "RoFormer", arXiv:2104.09864, equation 34. Heo et al., arXiv:2403.13298, equation 10 (axial; there the
    column comes first), in the order of Qwen2-VL's vision tower, arXiv:2409.12191 (the row first).
"""

# Arguments may come from code without type checks.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from attention.spec.axes import Array
from attention.spec.errors import OptionError, PositionError, shown
from attention.spec.numbers import is_count
from attention.spec.options import Option, check_options, checked, finite_array, instance, number, one_of, size
from attention.spec.positions.rotary_frequency_scaling import (
    BASE,
    MOST_WIDTH,
    Constants,
    LinearScaling,
    Llama3Scaling,
    YarnScaling,
    unscaled,
)
from attention.spec.positions.rotary_length_scaling import DynamicNTKScaling, LongRopeScaling

STYLES = ("half", "interleaved")
Scaling = LinearScaling | DynamicNTKScaling | YarnScaling | Llama3Scaling | LongRopeScaling
SCALINGS = (LinearScaling, DynamicNTKScaling, YarnScaling, Llama3Scaling, LongRopeScaling)
STYLE = one_of(*STYLES)
SIZE = number(0)
HEAD_DIM = size(1, MOST_WIDTH)
MOST_PATCHES = 2**24
"""The most patches of an image whose places are listed."""


def _multiple(n: int) -> Option:
    """Return the option of a width whose features form pairs, or pairs of pairs."""
    said = {2: "an even number", 4: "a multiple of 4"}[n]
    return Option(f"{said} >= {n}, or None", lambda value: value is None or (is_count(value, n) and value % n == 0))


@dataclass(frozen=True)
class Rotary:
    """Rotary positions.

    Args:
        base: the wavelength base, above 1; 10,000 in the paper.
        style: which features form a pair: "half" or "interleaved".
        rotary_dim: rotate only the first `rotary_dim` of the D features (an even number); None rotates all.
        scaling: `LinearScaling`, `DynamicNTKScaling`, `YarnScaling`, `Llama3Scaling` or `LongRopeScaling`, or None.
    """

    base: float = 10_000.0
    style: str = "half"
    rotary_dim: int | None = None
    scaling: Scaling | None = None

    OPTIONS: ClassVar[Mapping[str, Option]] = {
        "base": BASE,
        "style": STYLE,
        "rotary_dim": _multiple(2),
        "scaling": instance(*SCALINGS, wanted=f"one of {', '.join(kind.__name__ for kind in SCALINGS)}") | ", or None",
    }

    def __post_init__(self) -> None:
        check_options(self, "Rotary ")

    @property
    def grows(self) -> bool:
        """Whether the frequencies depend on the length of a call."""
        return self.scaling is not None and self.scaling.grows

    @checked(head_dim=HEAD_DIM)
    def width(self, head_dim: int) -> int:
        """Return R, the number of rotated features.

        Raises:
            OptionError: `head_dim` is odd, or narrower than `rotary_dim`, or does not fit the scaling.
        """
        rotated = _width(self, head_dim, multiple=2)
        if self.scaling is not None:
            self.scaling.check(rotated)
        return rotated

    @checked(head_dim=HEAD_DIM)
    def constants(self, head_dim: int) -> Constants:
        """Return the constants of every call: the frequencies, or the inputs of a length scaling."""
        rotated = self.width(head_dim)
        return (unscaled(self.base, rotated),) if self.scaling is None else self.scaling.constants(self.base, rotated)

    @checked(head_dim=HEAD_DIM, length=SIZE)
    def frequencies(self, head_dim: int, length: float = 0) -> np.ndarray:
        """Return `(R/2,)` float64: radians per position of each pair, in a call of `length` positions."""
        constants = self.constants(head_dim)
        return constants[0] if self.scaling is None else self.scaling.at(np, constants, np.asarray(length, np.float64))

    def turns(self, xp: Any, positions: Array, constants: tuple[Array, ...], length: Array = None) -> tuple[Array, Array]:
        """Return cosines and sines, times the scaling's attention factor.

        Args:
            xp: the array namespace.
            positions: `(*batch, N)` float64.
            constants: those of `constants(head_dim)` as arrays of `xp`.
            length: float64 without axes; None: the largest position + 1. Only a scaling that `grows` looks at it.

        Returns:
            `(*batch, N, R/2)` float64 each.
        """
        if self.scaling is None:
            return _circle(xp, positions[..., None] * constants[0], 1.0)
        if self.grows and length is None:
            # No position is no length, and has no largest.
            length = xp.max(positions) + 1.0 if 0 not in positions.shape else xp.sum(positions)
        return _circle(xp, positions[..., None] * self.scaling.at(xp, constants, length), self.scaling.amplitude)

    def tables(self, positions: np.ndarray, head_dim: int, length: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """Return cosines and sines, `(*positions.shape, R/2)` float64."""
        constants, positions = self.constants(head_dim), _check_tables(positions, length, 0)
        length = None if length is None else np.asarray(length, np.float64)
        return self.turns(np, positions, constants, length)

    def rotate(self, xp: Any, x: Array, cos: Array, sin: Array) -> Array:
        """Rotate heads.

        Args:
            xp: the array namespace of `x`.
            x: `(*batch, N, heads, D)`, in the compute dtype.
            cos: `(*batch, N, R/2)`, the dtype of `x`; batch axes may be absent.
            sin: as `cos`.

        Returns:
            The shape of `x`; features from R on are untouched.
        """
        return _turn(xp, self.style, x, cos, sin)


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

    OPTIONS: ClassVar[Mapping[str, Option]] = {"base": BASE, "style": STYLE, "rotary_dim": _multiple(4)}

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
        return _width(self, head_dim, multiple=4)

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
        return _circle(xp, xp.concat([by_axis[..., 0, :], by_axis[..., 1, :]], axis=-1), 1.0)

    def tables(self, positions: np.ndarray, head_dim: int, length: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """Return cosines and sines, `(*batch, N, R/2)` float64, of positions `(*batch, N, 2)`."""
        return self.turns(np, _check_tables(positions, length, 2), self.constants(head_dim), length)

    def rotate(self, xp: Any, x: Array, cos: Array, sin: Array) -> Array:
        """Rotate heads, as `Rotary.rotate` does."""
        return _turn(xp, self.style, x, cos, sin)


def _circle(xp: Any, angles: Array, amplitude: float) -> tuple[Array, Array]:
    return xp.cos(angles) * amplitude, xp.sin(angles) * amplitude


def _turn(xp: Any, style: str, x: Array, cos: Array, sin: Array) -> Array:
    """Return `x` with its pairs of features rotated."""
    rotated = 2 * cos.shape[-1]
    head, tail = x[..., :rotated], x[..., rotated:]
    cos, sin = cos[..., None, :], sin[..., None, :]
    if style == "half":
        a, b = head[..., : rotated // 2], head[..., rotated // 2 :]
        head = xp.concat([a * cos - b * sin, b * cos + a * sin], axis=-1)
    else:
        a, b = head[..., 0::2], head[..., 1::2]
        head = xp.reshape(xp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1), head.shape)
    return xp.concat([head, tail], axis=-1) if tail.shape[-1] else head


def _check_tables(positions: Any, length: Any, axes: int) -> np.ndarray:
    """Return positions as float64, having checked that they and the length are numbers."""
    array = finite_array("positions", positions, PositionError)
    if array.ndim < axes or (axes > 1 and array.shape[-1] != 2):
        wanted = "(*batch, N, 2)" if axes > 1 else "(*batch, N)"
        raise PositionError(f"positions {array.shape} must be {wanted}")
    if length is not None:
        _ = finite_array("length", length, PositionError)
    return array


def _width(rotary: Rotary | AxialRotary, head_dim: int, multiple: int) -> int:
    rotated = head_dim if rotary.rotary_dim is None else rotary.rotary_dim
    if rotated > head_dim or rotated % multiple:
        kind, wanted = type(rotary).__name__, {2: "even", 4: "a multiple of 4"}[multiple]
        raise OptionError(f"{kind} rotary_dim {rotated} must be {wanted} and at most head_dim = {head_dim}")
    return rotated
