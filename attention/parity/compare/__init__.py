"""Comparison of two programs on the same inputs and parameters, within a budget of rounding errors."""

from attention.parity.compare.compare import compare
from attention.parity.compare.tolerances import Tolerance, Tolerances, assert_close, tolerances

__all__ = ["Tolerance", "Tolerances", "assert_close", "compare", "tolerances"]
