"""Tracing: two programs, operation by operation, side by side."""

from attention.parity.tracing.divergence import Coverage, Divergence, Moment
from attention.parity.tracing.event import Event
from attention.parity.tracing.locate import locate

__all__ = ["Coverage", "Divergence", "Event", "Moment", "locate"]
