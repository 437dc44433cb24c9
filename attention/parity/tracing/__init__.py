"""Tracing: two programs, operation by operation, side by side."""

from attention.parity.tracing.divergence import Coverage, Divergence, TimelineRow
from attention.parity.tracing.locate import locate
from attention.parity.tracing.trace import Event

__all__ = ["Coverage", "Divergence", "Event", "TimelineRow", "locate"]
