"""Name the mistake at every divergence of two programs: rules first, then edits.

first the rules, which know what people get wrong        then the edits of the JAX program, one of which repairs the outputs
"""

from __future__ import annotations

from dataclasses import replace

from attention.parity.diagnosis import edits
from attention.parity.diagnosis.rules import Finding, name_mistake
from attention.parity.tracing import Divergence
from attention.parity.tracing.trace_alignment import Alignment

MOST = 0.9995
"""A share of the error that is all of it."""


def name_places(divergence: Divergence | None, *, open_map: bool = False) -> tuple[Finding, ...]:
    """Return the names of the mistakes, each once; nothing where none is known.

    Args:
        divergence: of `locate`; None where nobody looked.
        open_map: whether it is not established which parameter is which: an edit could mend the map and not the program.
    """
    places = divergence.all if divergence is not None else ()
    found = [finding for place in places for finding in name_mistake(place)]
    found = found or ([] if open_map else _edited(places))
    return tuple({finding.name: finding for finding in found}.values())


def _edited(places: tuple[Divergence, ...]) -> list[Finding]:
    """Return the edit that repairs all that differs: one place if proven, or any of several where all outputs agree."""
    if len(places) == 1:
        [place] = places
        return list(edits.name(place, whole=place.kind != "unproven" and place.share >= MOST))
    states = [place.alignment for place in places if place.alignment is not None]
    # Of several places each is found with those before it repaired; one edit has to repair them all.
    first = min(states, key=_carried, default=None)
    made = (edits.name(replace(place, alignment=first), whole=False) for place in places)
    return list(next((found for found in made if found), ()))


def _carried(alignment: Alignment) -> int:
    return 0 if alignment.before is None else 1 + _carried(alignment.before)
