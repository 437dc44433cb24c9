"""Rotary scalings that depend on the length of a call (dynamic NTK, LongRoPE); L is the largest position + 1.

    DynamicNTKScaling   f_i g^(-2i / (R - 2)),  g = 1 + factor (max(L, max) / max - 1)        the base grows with the length
    LongRopeScaling     f_i / long_i where L > original,  f_i / short_i up to there

The frequencies are a function of the length of this call alone, not of longer calls before it, and the length may be traced.
LongRopeScaling also multiplies cosines and sines by an attention factor. The numbers are those of
`transformers.modeling_rope_utils`, here in float64.

References:
    Peng et al., arXiv:2309.00071, section 3.3 (dynamic NTK); Ding et al., arXiv:2402.13753 (LongRoPE).
"""

# Arguments may come from code without type checks.
# pyright: reportUnnecessaryIsInstance=false

# Values are whatever a user passed, of types that strict mode cannot know.
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from attention.spec.axes import Array
from attention.spec.errors import OptionError
from attention.spec.options import Option, check_options, checked, whole
from attention.spec.positions.rotary_frequency_scaling import BASE, LENGTH, POSITIVE, WIDTH, Constants, Plain, unscaled

DIVISORS = Option(
    "a tuple of positive finite numbers", lambda value: isinstance(value, (list, tuple)) and all(map(POSITIVE.holds, value))
)


@dataclass(frozen=True)
class DynamicNTKScaling(Plain):
    """A base that grows once the length of a call exceeds `max_positions`."""

    grows: ClassVar[bool] = True
    factor: float
    max_positions: int

    OPTIONS: ClassVar[Mapping[str, Option]] = {"factor": POSITIVE, "max_positions": LENGTH}

    def __post_init__(self) -> None:
        check_options(self, "DynamicNTKScaling ")

    @checked(base=BASE, width=WIDTH)
    def constants(self, base: float, width: int) -> Constants:
        """Return the unscaled frequencies, and the power of the growth that multiplies each."""
        # The first pair has power 0 whatever the width; R = 2 has no other.
        return unscaled(base, width), -np.arange(0, width, 2, dtype=np.float64) / max(width - 2, 1)

    def at(self, xp: Any, constants: tuple[Array, ...], length: Array) -> Array:
        """Return the frequencies of a call of `length` positions, which may be traced."""
        frequencies, powers = constants
        excess = xp.where(length > self.max_positions, length / self.max_positions - 1.0, xp.zeros_like(length))
        return frequencies * (1.0 + self.factor * excess) ** powers


@dataclass(frozen=True)
class LongRopeScaling(Plain):
    """Searched factors of each pair: one set up to the original length, another beyond it.

    Args:
        short_factor: R/2 divisors of the frequencies.
        long_factor: the same for calls longer than `original_max_positions`.
        original_max_positions: of the training.
        factor: how many times further; or `max_positions`, the length itself; neither where `attention_factor` is given.
        max_positions: factor times `original_max_positions`.
        attention_factor: what cosines and sines are multiplied by; None: sqrt(1 + ln factor / ln original_max_positions).
    """

    grows: ClassVar[bool] = True
    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    original_max_positions: int
    factor: float | None = None
    max_positions: int | None = None
    attention_factor: float | None = None

    OPTIONS: ClassVar[Mapping[str, Option]] = {
        **dict.fromkeys(("short_factor", "long_factor"), DIVISORS),
        "original_max_positions": whole(2, wanted="an int of at least 2"),
        **dict.fromkeys(("factor", "max_positions", "attention_factor"), POSITIVE | ""),
    }

    def __post_init__(self) -> None:
        check_options(self, "LongRopeScaling ")
        for name in ("short_factor", "long_factor"):
            # A file holds lists; a contract must be hashable.
            object.__setattr__(self, name, tuple(float(x) for x in getattr(self, name)))
        given = (self.factor is not None) + (self.max_positions is not None)
        if given > 1 or not (given or self.attention_factor is not None):
            raise OptionError("LongRopeScaling must have factor or max_positions, one of them, or an attention_factor")

    @property
    def amplitude(self) -> float:
        """What cosines and sines are multiplied by."""
        if self.attention_factor is not None:
            return float(self.attention_factor)
        factor = self.factor or (self.max_positions or 0) / self.original_max_positions
        return 1.0 if factor <= 1 else math.sqrt(1.0 + math.log(factor) / math.log(self.original_max_positions))

    @checked(width=WIDTH)
    def check(self, width: int) -> None:
        """Raise OptionError unless there is a divisor for each pair."""
        for name in ("short_factor", "long_factor"):
            if len(getattr(self, name)) != width // 2:
                raise OptionError(
                    f"LongRopeScaling {name} has {len(getattr(self, name))} numbers but must have R / 2 = {width // 2}"
                )

    @checked(base=BASE, width=WIDTH)
    def constants(self, base: float, width: int) -> Constants:
        """Return the frequencies of short calls and those of long ones."""
        self.check(width)
        frequencies = unscaled(base, width)
        return frequencies / np.asarray(self.short_factor), frequencies / np.asarray(self.long_factor)

    def at(self, xp: Any, constants: tuple[Array, ...], length: Array) -> Array:
        """Return the frequencies of a call of `length` positions, which may be traced."""
        short, long = constants
        return xp.where(length > self.original_max_positions, long, short)
