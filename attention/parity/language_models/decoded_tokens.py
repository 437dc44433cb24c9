"""The tokens of a decoding comparison, and the length of the prefill."""

# Tokens come from users, with types that strict mode cannot know.
# pyright: standard

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from attention.parity.adapters.inputs import call_of
from attention.spec.errors import OptionError, ShapeError, shown


def checked_splits(tokens: np.ndarray, splits: Sequence[int] | None, left_padding: Sequence[int] | None) -> tuple[int, ...]:
    """Return the numbers of tokens of a prefill: those that are given, or 1, T // 2 and T - 1.

    Raises:
        OptionError: one of them is not between 1 and T.
        ShapeError: the left padding has not B ints.
    """
    batch, length = tokens.shape[:2]
    splits = tuple(dict.fromkeys((1, length // 2, length - 1) if splits is None else splits))
    if min(splits) < 1 or max(splits) > length:
        raise OptionError(f"splits {shown(splits)} must lie between 1 and T={length}")
    if left_padding is not None and len(left_padding) != batch:
        raise ShapeError(f"left_padding {shown(left_padding)} must have B={batch} ints")
    return splits


def tokens_of(tokens: Any) -> np.ndarray:
    """Return the tokens that are decoded as an array.

    Raises:
        OptionError: they are not one array.
        ShapeError: they are not shaped so.
    """
    leaves = call_of(tokens).leaves
    if list(leaves) != ["input"]:
        raise OptionError(f"tokens {shown(tokens)} must be one array")
    array = leaves["input"]
    if (
        array.ndim != (2 if array.dtype.kind in "iu" else 3)
        or array.dtype.kind == "b"
        or min(array.shape) < 1
        or array.shape[1] < 2
    ):
        raise ShapeError(f"tokens {shown(array)} must be ints (B, T) or floats (B, T, M), with T at least 2")
    return array
