"""Pairs: two programs of a user, on the same inputs and the same parameters; and how near right ones are."""

from attention.parity.compare.compare import compare
from attention.parity.compare.tolerances import Tolerance, Tolerances, assert_close, tolerances

__all__ = ["Tolerance", "Tolerances", "assert_close", "compare", "tolerances"]
