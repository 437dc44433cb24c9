"""Pairs: two programs of a user, on the same inputs and the same parameters."""

from attention.parity.compare.compare import compare

__all__ = ["compare"]
