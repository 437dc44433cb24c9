"""Select the source line to report for a differing operation.

the operation's own line, unless
it reads a mask or an index that the other side has not            the line that made that
the same line runs elsewhere, and makes what the other side makes  the line that calls it here
"""

from __future__ import annotations

from dataclasses import replace

from attention.parity.tracing.source_location import Place
from attention.parity.tracing.trace import Event, Recording
from attention.parity.tracing.trace_alignment import Alignment

# Operations that choose elements by a mask, or by indices.
CHOICES = ("where", "masked_fill", "select_n", "gather", "index", "embedding", "take", "dynamic_slice")
NEGATIONS = ("bitwise_not", "logical_not", "not")


def event_to_show(alignment: Alignment, which: int, i: int) -> Event:
    """Return an event with the places to show of it, innermost first; its array is its own.

    Args:
        alignment: the two programs.
        which: 0 for torch, 1 for JAX.
        i: index of the event.
    """
    side, alike = (alignment.torch, alignment.jax)[which], alignment.alike[which]
    event = side.events[i]
    chosen = _choice(side, alike, event) if any(word in event.op for word in CHOICES) else None
    if chosen is None:
        return replace(event, places=_called(side, alignment.partners[which], event))
    # The line of the function that reads it: what that calls to make it may be right.
    here = [n for n, place in enumerate(chosen.places) if place.function == event.place.function]
    return replace(event, places=chosen.places[here[0] if here else 0 :])


def _choice(side: Recording, alike: list[list[int]], event: Event) -> Event | None:
    """Return the mask or index that an event reads, as it was computed, if the other side has it not; None if it has."""
    made = next((side.events[n] for n in event.inputs if _is_odd(side.events[n], alike)), None)
    while made is not None and (made.is_move or made.op in NEGATIONS):
        made = next((side.events[n] for n in made.inputs if _is_odd(side.events[n], alike)), None)
    return made if made is not None and made.line else None


def _is_odd(event: Event, alike: list[list[int]]) -> bool:
    return event.value.dtype.kind in "biu" and event.value.size > 1 and not event.is_given and not alike[event.index]


def _called(side: Recording, partners: list[list[int]], event: Event) -> tuple[Place, ...]:
    """Return the places of an event from the innermost line that is not also run where the programs agree."""
    agreeing = {
        place
        for other in side.events
        if other.place == event.place and other.op == event.op and other.is_operation and partners[other.index]
        for place in other.places
    }
    at = next((n for n, place in enumerate(event.places) if place not in agreeing), 0)
    return event.places[at:]
