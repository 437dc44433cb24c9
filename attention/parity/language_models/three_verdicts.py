"""The verdict (agrees, cannot tell, differs) of a ratio: an RMS error divided by the RMS error that rounding explains.

    ratio <= 4: agrees        ratio > 16: differs        between them, or nothing to divide by: cannot tell

4 is the limit of every other comparison of this package (`comparison.MOST_RMS`). A ratio to one measured error is a cruder
budget than Monte Carlo arithmetic, so that a band above the limit is left undecided.
"""

from __future__ import annotations

from collections.abc import Iterable

from attention.parity.numerics.comparison import MOST_RMS

AGREES, DIFFERS, CANNOT_TELL = "agrees", "differs", "cannot tell"
SURELY = 4 * MOST_RMS
"""The ratio above which rounding is ruled out."""


def verdict(ratio: float) -> str:
    """Return the verdict of a ratio; NaN, which is a ratio without a budget, cannot tell."""
    if ratio <= MOST_RMS:
        return AGREES
    return DIFFERS if ratio > SURELY else CANNOT_TELL


def worst(verdicts: Iterable[str]) -> str:
    """Return the verdict of several together: one that differs decides; nothing compared cannot tell."""
    found = set(verdicts)
    for each in (DIFFERS, CANNOT_TELL):
        if each in found:
            return each
    return AGREES if found else CANNOT_TELL
