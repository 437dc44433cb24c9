"""Rotary embedding: queries and keys are rotated by their positions, so that scores depend on distances alone.

    angle[p, i] = p * f_i,  f_i = base^(-2i / R)      radians, i = 0 .. R/2 - 1, R the rotated width; scaled or not
    (x_a, x_b) -> (x_a cos - x_b sin, x_b cos + x_a sin)
    style "half":         (a, b) = (i, i + R/2)       rotate-half: GPT-NeoX, Llama in transformers, flax
    style "interleaved":  (a, b) = (2i, 2i + 1)       the paper, GPT-J, Llama in Meta's code

Angles, cosines and sines are computed in float64; the rotation is applied in the compute dtype.

References:
    Su et al., "RoFormer", arXiv:2104.09864, equation 34.
"""

# Arguments may come from code without type checks.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from attention.spec.axes import Array
from attention.spec.options import Option, check_options, checked, instance
from attention.spec.positions.rotary_frequency_scaling import (
    BASE,
    Constants,
    LinearScaling,
    Llama3Scaling,
    YarnScaling,
    unscaled,
)
from attention.spec.positions.rotary_length_scaling import DynamicNTKScaling, LongRopeScaling
from attention.spec.positions.rotation import HEAD_DIM, SIZE, STYLE, circle, multiple_of, rotated_width, table_positions, turned

Scaling = LinearScaling | DynamicNTKScaling | YarnScaling | Llama3Scaling | LongRopeScaling
SCALINGS = (LinearScaling, DynamicNTKScaling, YarnScaling, Llama3Scaling, LongRopeScaling)


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
        "rotary_dim": multiple_of(2),
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
        rotated = rotated_width("Rotary", self.rotary_dim, head_dim, multiple=2)
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
            return circle(xp, positions[..., None] * constants[0], 1.0)
        if self.grows and length is None:
            # Without positions there is no length and no maximum.
            length = xp.max(positions) + 1.0 if 0 not in positions.shape else xp.sum(positions)
        return circle(xp, positions[..., None] * self.scaling.at(xp, constants, length), self.scaling.amplitude)

    def tables(self, positions: np.ndarray, head_dim: int, length: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """Return cosines and sines, `(*positions.shape, R/2)` float64."""
        constants, positions = self.constants(head_dim), table_positions(positions, length, 0)
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
        return turned(xp, self.style, x, cos, sin)
