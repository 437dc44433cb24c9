"""Tracing: two programs, operation by operation, side by side."""

from attention.parity.tracing.divergence import Coverage, Divergence, Moment
from attention.parity.tracing.locate import locate
from attention.parity.tracing.trace import Event

__all__ = ["Coverage", "Divergence", "Event", "Moment", "locate"]
