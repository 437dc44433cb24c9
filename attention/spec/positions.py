"""Positions: rotary embedding of queries and keys.

    angle[p, i] = p * base^(-2i / R)                  radians, i = 0 .. R/2 - 1, R the rotated width
    (x_a, x_b) -> (x_a cos - x_b sin, x_b cos + x_a sin)
    style "half":         (a, b) = (i, i + R/2)       rotate-half: GPT-NeoX, Llama in transformers, flax
    style "interleaved":  (a, b) = (2i, 2i + 1)       the paper, GPT-J, Llama in Meta's code

Angles, cosines and sines are computed in float64; the rotation is applied in the compute dtype.

References:
    Su et al., "RoFormer", arXiv:2104.09864, equation 34.
"""

# Bad input comes from code that nobody type-checked, so it is looked at again here.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from attention.spec.axes import Array, Sizes, check_broadcast, dtype_name
from attention.spec.errors import OptionError, PositionError
from attention.spec.scores import is_finite

STYLES = ("half", "interleaved")


@dataclass(frozen=True)
class Rotary:
    """Rotary positions.

    Args:
        base: the wavelength base, above 1; 10,000 in the paper.
        style: which features form a pair: "half" or "interleaved"..
        rotary_dim: rotate only the first `rotary_dim` of the D features (an even number); None rotates all.
    """

    base: float = 10_000.0
    style: str = "half"
    rotary_dim: int | None = None

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise OptionError(f"Rotary style {self.style!r} must be one of {', '.join(map(repr, STYLES))}")
        if not (is_finite(self.base) and self.base > 1):
            raise OptionError(f"Rotary base {self.base!r} must be a finite number above 1")
        width = self.rotary_dim
        if width is not None and not (isinstance(width, int) and width >= 2 and width % 2 == 0):
            raise OptionError(f"Rotary rotary_dim {self.rotary_dim} must be an even number >= 2, or None")

    def width(self, head_dim: int) -> int:
        """Return R, the number of rotated features.

        Raises:
            OptionError: `head_dim` is odd, or narrower than `rotary_dim`.
        """
        rotated = head_dim if self.rotary_dim is None else self.rotary_dim
        if rotated > head_dim or rotated % 2:
            raise OptionError(f"Rotary rotary_dim {rotated} must be even and at most head_dim = {head_dim}")
        return rotated

    def frequencies(self, head_dim: int) -> np.ndarray:
        """Return `(R/2,)` float64: radians per position of each pair."""
        rotated = self.width(head_dim)
        return self.base ** (-np.arange(0, rotated, 2, dtype=np.float64) / rotated)

    def tables(self, positions: np.ndarray, head_dim: int) -> tuple[np.ndarray, np.ndarray]:
        """Return cosines and sines, `(*positions.shape, R/2)` float64."""
        angles = np.asarray(positions, np.float64)[..., None] * self.frequencies(head_dim)
        return np.cos(angles), np.sin(angles)

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
        rotated = 2 * cos.shape[-1]
        head, tail = x[..., :rotated], x[..., rotated:]
        cos, sin = cos[..., None, :], sin[..., None, :]
        if self.style == "half":
            a, b = head[..., : rotated // 2], head[..., rotated // 2 :]
            head = xp.concat([a * cos - b * sin, b * cos + a * sin], axis=-1)
        else:
            a, b = head[..., 0::2], head[..., 1::2]
            head = xp.reshape(xp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1), head.shape)
        return xp.concat([head, tail], axis=-1) if tail.shape[-1] else head


def check_positions(query_positions: Array, key_positions: Array, sizes: Sizes) -> None:
    """Check explicit positions, or their absence, against a call.

    Args:
        query_positions: integers that broadcast to `(*batch, T)`, or None: 0 .. T-1.
        key_positions: integers that broadcast to `(*batch, S)`, or None: 0 .. S-1.
        sizes: of the call.

    Raises:
        PositionError: not integers, or absent while T != S, where counting both from 0 would be a guess.
        ShapeError: the wrong shape.
    """
    for name, given, size, letter in (
        ("query_positions", query_positions, sizes.T, "T"),
        ("key_positions", key_positions, sizes.S, "S"),
    ):
        if given is None:
            if sizes.T != sizes.S:
                raise PositionError(f"{name} None must be given: T = {sizes.T} queries and S = {sizes.S} keys differ")
            continue
        if not hasattr(given, "dtype") or "int" not in dtype_name(given):
            got = dtype_name(given) if hasattr(given, "dtype") else type(given).__name__
            raise PositionError(f"{name} {got} must be an array of integers")
        check_broadcast(name, given, (*sizes.batch, size), f"(*batch, {letter})")
