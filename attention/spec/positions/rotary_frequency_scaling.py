"""Rotary scalings with fixed frequencies (linear, YaRN, Llama 3): extend a model beyond its training length.

    f_i = base^(-2i / R)        the frequencies, radians per position; w_i = 2 pi / f_i the wavelengths
    LinearScaling    f_i / factor
    YarnScaling      f_i (1 - r_i) + f_i / factor r_i,  r_i a ramp over i from beta_fast to beta_slow turns
    Llama3Scaling    f_i where w_i < original / high,  f_i / factor where w_i > original / low,  a ramp between the two

YarnScaling also multiplies cosines and sines by an attention factor, and so scores by its square. `rotary_length_scaling.py`
has the scalings that depend on the length of a call. The numbers are those of `transformers.modeling_rope_utils`, here in
float64.

References:
    Chen et al., arXiv:2306.15595 (linear); Peng et al., arXiv:2309.00071, section 3 (YaRN); Llama 3, arXiv:2407.21783,
    and Meta's `apply_scaling`.
"""

# Arguments may come from code without type checks.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from attention.spec.axes import Array
from attention.spec.errors import OptionError, shown
from attention.spec.options import Option, check_options, checked, number, whole

Constants = tuple[np.ndarray, ...]
"""Constants of a scaling, computed before the call: float64 arrays, `(R/2,)` each."""


def unscaled(base: float, width: int) -> np.ndarray:
    """Return base^(-2i / R), `(R/2,)` float64: radians per position of each pair."""
    return base ** (-np.arange(0, width, 2, dtype=np.float64) / width)


POSITIVE = number(above=0, wanted="a positive finite number")
LENGTH = whole(1, wanted="an int of at least 1")
BASE = number(above=1, wanted="a finite number above 1")
MOST_WIDTH = 2**20
"""The most features of a head whose angles are computed."""
WIDTH = whole(2, MOST_WIDTH)


@dataclass(frozen=True)
class Plain:
    """A scaling as most are: its constant is the frequencies of every call, and nothing else is scaled."""

    grows: ClassVar[bool] = False

    @property
    def amplitude(self) -> float:
        """What cosines and sines are multiplied by."""
        return 1.0

    @checked(width=WIDTH)
    def check(self, width: int) -> None:
        """Raise OptionError unless the scaling fits R = `width`."""

    def at(self, xp: Any, constants: tuple[Array, ...], length: Array) -> Array:
        """Return the frequencies of a call.

        Args:
            xp: the array namespace.
            constants: of this scaling, as arrays of `xp`.
            length: the largest position + 1: float64, without axes. Only a scaling that `grows` looks at it.

        Returns:
            `(R/2,)` float64, radians per position.
        """
        del xp, length
        return constants[0]


@dataclass(frozen=True)
class LinearScaling(Plain):
    """Positions divided by `factor`."""

    factor: float

    OPTIONS: ClassVar[Mapping[str, Option]] = {"factor": POSITIVE}

    def __post_init__(self) -> None:
        check_options(self, "LinearScaling ")

    @checked(base=BASE, width=WIDTH)
    def constants(self, base: float, width: int) -> Constants:
        """Return the frequencies."""
        return (unscaled(base, width) / self.factor,)


@dataclass(frozen=True)
class YarnScaling(Plain):
    """Slow pairs are interpolated, fast ones left alone, and scores sharpened.

    Args:
        factor: how many times further than `original_max_positions`.
        original_max_positions: of the training.
        beta_fast: turns over the original length from which a pair is left alone.
        beta_slow: turns up to which a pair is interpolated.
        attention_factor: what cosines and sines are multiplied by; None: (0.1 mscale ln factor + 1) / (the same with
            `mscale_all_dim`) where both are given, else 0.1 ln factor + 1.
        mscale: DeepSeek's numerator, or None.
        mscale_all_dim: DeepSeek's denominator, or None.
        truncate: whether the ramp begins and ends at whole pairs.
    """

    factor: float
    original_max_positions: int
    beta_fast: float = 32
    beta_slow: float = 1
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True

    OPTIONS: ClassVar[Mapping[str, Option]] = {
        **dict.fromkeys(("factor", "beta_fast", "beta_slow"), POSITIVE),
        "original_max_positions": LENGTH,
        **dict.fromkeys(("attention_factor", "mscale", "mscale_all_dim"), POSITIVE | ""),
    }

    def __post_init__(self) -> None:
        check_options(self, "YarnScaling ")
        if self.beta_fast <= self.beta_slow:
            raise OptionError(f"YarnScaling beta_fast {shown(self.beta_fast)} must be above beta_slow = {self.beta_slow!r}")

    @property
    def amplitude(self) -> float:
        """What cosines and sines are multiplied by."""
        if self.attention_factor is not None:
            return float(self.attention_factor)
        if self.mscale and self.mscale_all_dim:
            return self._sharpened(self.mscale) / self._sharpened(self.mscale_all_dim)
        return self._sharpened(1.0)

    def _sharpened(self, scale: float) -> float:
        return 1.0 if self.factor <= 1 else 0.1 * scale * math.log(self.factor) + 1.0

    @checked(base=BASE, width=WIDTH)
    def constants(self, base: float, width: int) -> Constants:
        """Return the frequencies."""
        frequencies, ramp = unscaled(base, width), self._ramp(base, width)
        return (frequencies / self.factor * ramp + frequencies * (1.0 - ramp),)

    def _ramp(self, base: float, width: int) -> np.ndarray:
        """Return how much each pair is interpolated, `(R/2,)` from 0 to 1: equations 17 and 18 of the paper."""
        first, last = (self._pair(turns, base, width) for turns in (self.beta_fast, self.beta_slow))
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        # The last of R - 1, not of R / 2 - 1, is what every published checkpoint was trained with.
        first, last = max(first, 0), min(last, width - 1)
        step = last - first if last != first else 0.001
        return np.clip((np.arange(width // 2, dtype=np.float64) - first) / step, 0.0, 1.0)

    def _pair(self, turns: float, base: float, width: int) -> float:
        """Return which pair, as a fraction, turns so many times over the original length."""
        return width * math.log(self.original_max_positions / (turns * 2.0 * math.pi)) / (2.0 * math.log(base))


@dataclass(frozen=True)
class Llama3Scaling(Plain):
    """Long wavelengths are interpolated, short ones left alone; the bounds are in wavelengths per original length."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int

    OPTIONS: ClassVar[Mapping[str, Option]] = {
        **dict.fromkeys(("factor", "low_freq_factor", "high_freq_factor"), POSITIVE),
        "original_max_positions": LENGTH,
    }

    def __post_init__(self) -> None:
        check_options(self, "Llama3Scaling ")
        if self.high_freq_factor <= self.low_freq_factor:
            got = f"Llama3Scaling high_freq_factor {self.high_freq_factor!r}"
            raise OptionError(f"{got} must be above low_freq_factor = {self.low_freq_factor!r}")

    @checked(base=BASE, width=WIDTH)
    def constants(self, base: float, width: int) -> Constants:
        """Return the frequencies."""
        frequencies = unscaled(base, width)
        turns = self.original_max_positions * frequencies / (2.0 * math.pi)
        # A ramp held at its ends is the three cases of the paper in one.
        kept = np.clip((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor), 0.0, 1.0)
        return ((1.0 - kept) * frequencies / self.factor + kept * frequencies,)
