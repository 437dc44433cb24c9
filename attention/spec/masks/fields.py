"""Checks of the arrays and integers that a mask is made of.

integers: |x| < 2**31        counts: 0 <= n <= size of the axis that they count        arrays broadcast to their axes
"""

# Arguments may come from code without type checks.
# pyright: reportUnnecessaryIsInstance=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

from typing import Any

import numpy as np

from attention.spec.axes import Array, Sizes, broadcasts, dtype_name
from attention.spec.errors import MaskError, shown

MOST = 2**31 - 1
"""The largest number that JAX counts to while its 64-bit mode is off."""


def set_integers(owner: object, name: str, value: Any) -> None:
    """Store `value` as an integer array on a frozen `owner`.

    Raises:
        MaskError: no integers, or numbers too large for JAX.
    """
    object.__setattr__(owner, name, integers(f"{type(owner).__name__} {name}", value))


def integers(label: str, value: Any) -> Array:
    """Return a list or an array of integers as an array.

    Args:
        label: what errors call it.
        value: nested lists, or an array of any framework.

    Raises:
        MaskError: no integers, or numbers too large for JAX.
    """
    if isinstance(value, (list, tuple)):
        try:
            value = np.asarray(value, None if value else np.int64)
        except ValueError:
            raise MaskError(f"{label} {shown(value)} must be integers in rows of one length") from None
    if not hasattr(value, "dtype"):
        raise MaskError(f"{label} {shown(value)} must be integers: a list or an array")
    if "int" not in dtype_name(value):
        raise MaskError(f"{label} {dtype_name(value)} must be integers")
    if isinstance(value, np.ndarray) and value.size:
        far = max(int(value.max()), -int(value.min()))
        if far > MOST:
            raise MaskError(f"{label} {far} must be below 2**31, which JAX counts to")
    return value


def is_count(value: Any, least: int) -> bool:
    """Return whether `value` is an int, and no bool, of at least `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_fits(label: str, value: Array, axes: tuple[str, ...], sizes: Sizes) -> None:
    """Raise MaskError unless `value` broadcasts to `(*batch, *axes)`."""
    wanted = (*sizes.batch, *(getattr(sizes, axis) for axis in axes))
    if not broadcasts(tuple(value.shape), wanted):
        letters = f"(*batch, {', '.join(axes)})" if axes else "(*batch,)"
        raise MaskError(f"{label} {tuple(value.shape)} must broadcast to {letters} = {wanted}")


def check_counts(label: str, values: np.ndarray | None, axis: str, sizes: Sizes) -> None:
    """Raise MaskError if known counts leave 0..size. Traced values are not checked."""
    most = getattr(sizes, axis)
    if values is not None and bool(np.any((values < 0) | (values > most))):
        raise MaskError(f"{label} {shown(values.tolist())} must be in 0..{axis} = {most}")


def check_rank(label: str, value: Array, letters: str, *, least: int, most: int | None = None) -> None:
    """Raise MaskError unless `value` has `least` to `most` axes, named by `letters`; without `most`, any number above."""
    rank = len(value.shape)
    if rank < least or (most is not None and rank > most):
        raise MaskError(f"{label} {tuple(value.shape)} must be {letters}")


def known(conditions: Array) -> bool | None:
    """Return whether all conditions hold, or None if they are traced."""
    try:
        return bool(conditions.all())
    # Reading a traced value raises TypeError in JAX and RuntimeError under torch's vmap.
    except (TypeError, RuntimeError):
        return None
