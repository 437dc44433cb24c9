"""The rotation that every rotary embedding applies: pairs of features turned by an angle, and the checks of its options.

(x_a, x_b) -> (x_a cos - x_b sin, x_b cos + x_a sin)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from attention.spec.axes import Array
from attention.spec.errors import OptionError, PositionError
from attention.spec.numbers import is_count
from attention.spec.options import Option, finite_array, number, one_of, size
from attention.spec.positions.rotary_frequency_scaling import MOST_WIDTH

STYLES = ("half", "interleaved")
STYLE = one_of(*STYLES)
SIZE = number(0)
HEAD_DIM = size(1, MOST_WIDTH)


def multiple_of(n: int) -> Option:
    """Return the option of a width whose features form pairs, or pairs of pairs."""
    said = {2: "an even number", 4: "a multiple of 4"}[n]
    return Option(f"{said} >= {n}, or None", lambda value: value is None or (is_count(value, n) and value % n == 0))


def circle(xp: Any, angles: Array, amplitude: float) -> tuple[Array, Array]:
    """Return cosines and sines of the angles, times `amplitude`."""
    return xp.cos(angles) * amplitude, xp.sin(angles) * amplitude


def turned(xp: Any, style: str, x: Array, cos: Array, sin: Array) -> Array:
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


def table_positions(positions: Any, length: Any, axes: int) -> np.ndarray:
    """Return positions as float64, having checked that they and the length are numbers."""
    array = finite_array("positions", positions, PositionError)
    if array.ndim < axes or (axes > 1 and array.shape[-1] != 2):
        wanted = "(*batch, N, 2)" if axes > 1 else "(*batch, N)"
        raise PositionError(f"positions {array.shape} must be {wanted}")
    if length is not None:
        _ = finite_array("length", length, PositionError)
    return array


def rotated_width(kind: str, rotary_dim: int | None, head_dim: int, multiple: int) -> int:
    """Return R, the number of rotated features of a head.

    Raises:
        OptionError: it is no multiple of `multiple`, 2 or 4, or larger than the head; the message names the `kind`.
    """
    rotated = head_dim if rotary_dim is None else rotary_dim
    if rotated > head_dim or rotated % multiple:
        wanted = {2: "even", 4: "a multiple of 4"}[multiple]
        raise OptionError(f"{kind} rotary_dim {rotated} must be {wanted} and at most head_dim = {head_dim}")
    return rotated
