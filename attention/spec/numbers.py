"""Numbers: what counts as one when an option is checked. A bool does not, though Python says that it is an int."""

# To a type checker a bool is no Real; to Python it is.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

from numbers import Real
from typing import Any


def is_finite(value: Any) -> bool:
    """Return whether `value` is a finite number, and no bool."""
    # Not math.isfinite, which torch.compile cannot follow where it takes an option for a variable; inf - inf is NaN.
    return isinstance(value, Real) and not isinstance(value, bool) and value - value == 0


def is_count(value: Any, least: int = 1) -> bool:
    """Return whether `value` is an int, and no bool, of at least `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
