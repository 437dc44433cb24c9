"""Which Python and NumPy values count as numbers in an option; a bool does not."""

# Arguments may come from code without type checks.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

from typing import Any

import numpy as np

LARGEST = 1.7976931348623157e308
"""The largest float64."""
LARGEST32 = 3.4028234663852886e38
"""The largest float32, the limit of a kernel that computes in float32."""
SMALLEST32 = 1.1754943508222875e-38
"""The smallest positive float32 of full precision."""
LONGEST = 2**63
"""One more than the largest int that a framework takes for a number."""


def is_finite(value: Any) -> bool:
    """Return whether `value` is a finite number that a float can hold, and no bool.

    >>> is_finite(0.5), is_finite(float("nan")), is_finite(10**400), is_finite(True)
    (True, False, False, False)
    """
    # Not math.isfinite, which torch.compile cannot follow where it takes an option for a variable; NaN is in no interval.
    if isinstance(value, (int, np.integer)):
        return not isinstance(value, bool) and bool(-LONGEST <= value < LONGEST)
    # As a float, because NumPy would make the limits float32 beside one.
    return isinstance(value, (float, np.floating)) and -LARGEST <= float(value) <= LARGEST  # pyright: ignore[reportUnknownArgumentType]


def is_symbolic(value: Any) -> bool:
    """Return whether `value` is a size that an exporter leaves open: torch's SymInt, or a dimension of jax.export."""
    return type(value).__name__ in ("SymInt", "_DimExpr")


def is_count(value: Any, least: int = 1) -> bool:
    """Return whether `value` is an int, and no bool, of at least `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
