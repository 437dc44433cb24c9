"""Plausible constants: a fitted number is reported only if it is one that people write, such as 1e-5 or sqrt(24).

0.5, 1e-5, 12, sqrt(24), 1 / 7        but neither 0.500337 nor 37275.9
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from attention.parity.tracing import Event

LARGEST = 2**16
"""The largest whole number that is taken for the size of an axis, or of what a root is taken."""
FAMILIAR = (math.pi, 2 * math.pi, math.log2(math.e), math.log(2), math.sqrt(2 / math.pi), math.e)
WIDE = 1e-7
"""How far a number may be from one of three digits: what is written in float32 is no nearer."""


def is_plain(c: float) -> bool:
    """Return whether a number is one that people write: of three digits, whole, one over it, or the root of either.

    >>> [is_plain(c) for c in (0.5, 24**-0.5, 1e-5, 10000.0, 0.500337, 37275.9)]
    [True, True, True, True, False, False]
    """
    a = abs(c)
    if not a or not 1e-30 < a < 1e30:
        return not a
    if math.isclose(a, float(f"{a:.3g}"), rel_tol=WIDE) or any(math.isclose(a, b, rel_tol=1e-9) for b in FAMILIAR):
        return True
    whole = (v for v in (a, 1 / a, a * a, 1 / (a * a)) if 1 <= v <= LARGEST)
    return any(math.isclose(v, round(v), rel_tol=1e-9) for v in whole)


def occurs(c: float, *regions: tuple[Event, ...]) -> bool:
    """Return whether a number, or one over it, is among the scalars of these operations, or the values that they were told."""
    return any(math.isclose(abs(c), value, rel_tol=1e-6) for a in _scalars(regions) if a for value in (abs(a), 1 / abs(a)))


def _scalars(regions: tuple[tuple[Event, ...], ...]) -> Iterator[float]:
    for event in (event for region in regions for event in region):
        if event.value.size == 1 and event.value.dtype.kind in "fiu":
            yield float(event.value.reshape(())[()])
        yield from filter(math.isfinite, numbers(event.options))


def numbers(text: str) -> Iterator[float]:
    """Yield the numbers that stand alone in the text of options."""
    for word in text.split(", "):
        try:
            yield float(word)
        except ValueError:
            continue
