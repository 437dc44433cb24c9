"""Rotary scalings: how the turns of a rotary are slowed, so that a model reads further than it was trained.

    f_i = base^(-2i / R)        the frequencies, radians per position; w_i = 2 pi / f_i the wavelengths
    Linear       f_i / factor
    Yarn         f_i (1 - r_i) + f_i / factor r_i,  r_i a ramp over i between the pairs that turn beta_fast and beta_slow times
    Llama3       f_i where w_i < original / high,  f_i / factor where w_i > original / low,  a ramp between the two

Yarn also multiplies cosines and sines, and so scores twice, by an attention factor. Those that look at the length of a call
are in `rotary_growth.py`. The numbers are those of `transformers.modeling_rope_utils`, here in float64.

References:
    Chen et al., arXiv:2306.15595 (linear); Peng et al., arXiv:2309.00071, section 3 (YaRN); Llama 3, arXiv:2407.21783,
    and Meta's `apply_scaling`.
"""

# Bad input comes from code that nobody type-checked, so it is looked at again here.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from attention.spec.axes import Array
from attention.spec.errors import OptionError
from attention.spec.numbers import is_count, is_finite

Constants = tuple[np.ndarray, ...]
"""What a scaling knows before the call: float64 arrays, `(R/2,)` each."""


def unscaled(base: float, width: int) -> np.ndarray:
    """Return base^(-2i / R), `(R/2,)` float64: radians per position of each pair."""
    return base ** (-np.arange(0, width, 2, dtype=np.float64) / width)


def is_positive(value: Any) -> bool:
    """Return whether `value` is a positive finite number, and no bool."""
    return is_finite(value) and value > 0


def check_positive(owner: Any, *names: str) -> None:
    """Raise OptionError unless each named field of `owner` is a positive finite number."""
    for name in names:
        value = getattr(owner, name)
        if not is_positive(value):
            raise OptionError(f"{type(owner).__name__} {name} {value!r} must be a positive finite number")


def check_count(owner: Any, name: str, least: int = 1) -> None:
    """Raise OptionError unless the named field of `owner` is an int of at least `least`."""
    value = getattr(owner, name)
    if not is_count(value, least):
        raise OptionError(f"{type(owner).__name__} {name} {value!r} must be an int of at least {least}")


@dataclass(frozen=True)
class Plain:
    """A scaling as most are: its constant is the frequencies of every call, and nothing else is scaled."""

    grows: ClassVar[bool] = False

    @property
    def amplitude(self) -> float:
        """What cosines and sines are multiplied by."""
        return 1.0

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
class Linear(Plain):
    """Positions divided by `factor`."""

    factor: float

    def __post_init__(self) -> None:
        check_positive(self, "factor")

    def constants(self, base: float, width: int) -> Constants:
        """Return the frequencies."""
        return (unscaled(base, width) / self.factor,)


@dataclass(frozen=True)
class Yarn(Plain):
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

    def __post_init__(self) -> None:
        check_positive(self, "factor", "beta_fast", "beta_slow")
        check_count(self, "original_max_positions")
        check_positive(self, *(n for n in ("attention_factor", "mscale", "mscale_all_dim") if getattr(self, n) is not None))
        if self.beta_fast <= self.beta_slow:
            raise OptionError(f"Yarn beta_fast {self.beta_fast!r} must be above beta_slow = {self.beta_slow!r}")

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
class Llama3(Plain):
    """Long wavelengths are interpolated, short ones left alone; the bounds are in wavelengths per original length."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int

    def __post_init__(self) -> None:
        check_positive(self, "factor", "low_freq_factor", "high_freq_factor")
        check_count(self, "original_max_positions")
        if self.high_freq_factor <= self.low_freq_factor:
            got = f"Llama3 high_freq_factor {self.high_freq_factor!r}"
            raise OptionError(f"{got} must be above low_freq_factor = {self.low_freq_factor!r}")

    def constants(self, base: float, width: int) -> Constants:
        """Return the frequencies."""
        frequencies = unscaled(base, width)
        turns = self.original_max_positions * frequencies / (2.0 * math.pi)
        # A ramp held at its ends is the three cases of the paper in one.
        kept = np.clip((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor), 0.0, 1.0)
        return ((1.0 - kept) * frequencies / self.factor + kept * frequencies,)
