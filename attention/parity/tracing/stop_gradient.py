"""Stopped gradients: `detach` or `stop_gradient` in one program only.

    torch    z + (code - z).detach()        jax    z + stop_gradient(code) - z

A cut leaves no operation of the backward pass behind that could be compared, so the calls themselves are: by the array that
they let through, one to one, in order.
"""

from __future__ import annotations

from dataclasses import replace

from attention.parity.tracing.fingerprint import fingerprint
from attention.parity.tracing.trace import Event, Recording
from attention.parity.tracing.trace_alignment import Alignment


def differing_stops(alignment: Alignment) -> tuple[str, Event, Event] | None:
    """Return the kind, the torch event and the JAX event of a gradient that only one side stops; None if none explains all.

    Args:
        alignment: of two backward passes; nothing is looked for while outputs differ.
    """
    if not all(alignment.torch.events[i].name.startswith("d ") for i, _ in alignment.unequal):
        return None
    first, second = unmatched(alignment.torch.stops, alignment.jax.stops)
    first, second = _explaining(alignment, first, second)
    if first and second:
        return "different", first[0], second[0]
    if first:
        there = _unstopped(alignment.jax, first[0])
        return ("absent in jax", first[0], there) if there else None
    if second:
        there = _unstopped(alignment.torch, second[0])
        return ("absent in torch", there, second[0]) if there else None
    return None


def unmatched(first: list[Event], second: list[Event]) -> tuple[list[Event], list[Event]]:
    """Return the stops of either side that the other has no equal of."""
    left, rest = list[Event](), list(second)
    for stop in first:
        equal = next((other for other in rest if _equal(stop, other)), None)
        if equal is None:
            left.append(stop)
        else:
            rest.remove(equal)
    return left, rest


def _equal(a: Event, b: Event) -> bool:
    return fingerprint(a.value, a.unit).equals(fingerprint(b.value, b.unit))


def _explaining(alignment: Alignment, *stops: list[Event]) -> list[list[Event]]:
    """Return the stops of either side of arrays that were made from what has another gradient; none if one is unexplained."""
    found = [[(stop, _reached(alignment, which, stop)) for stop in side] for which, side in enumerate(stops)]
    whole = set[int]().union(*(numbers for side in found for _, numbers in side))
    explained = len(whole) == len(alignment.unequal)
    return [[stop for stop, numbers in side if numbers and explained] for side in found]


def _reached(alignment: Alignment, which: int, stop: Event) -> set[int]:
    """Return which of the gradients that differ are of what an array was made from."""
    side = (alignment.torch, alignment.jax)[which]
    behind = _made_of(side, stop)
    names = [side.events[pair[which]].name.removeprefix("d ") for pair in alignment.unequal]
    return {n for n, name in enumerate(names) if name in behind}


def _made_of(side: Recording, stop: Event) -> set[str]:
    """Return the names of what an array was made from."""
    made = next((e for e in side.events if not e.backward and e.is_operation and _equal(e, stop)), None)
    behind, waiting = set[int](), [] if made is None else [made.index]
    while waiting:
        i = waiting.pop()
        if i not in behind:
            behind.add(i)
            waiting.extend(side.events[i].inputs)
    return {side.events[i].name for i in behind if side.events[i].is_given}


def _unstopped(side: Recording, stop: Event) -> Event | None:
    """Return the event that holds the array that the other side stops, shown where it is read."""
    made = next((e for e in side.events if not e.backward and e.is_operation and _equal(e, stop)), None)
    if made is None:
        return None
    for i in side.consumers[made.index]:
        # The line of the function that made it: a call from there may read it further inside.
        frames = [n for n, place in enumerate(side.events[i].places) if place.function == made.place.function]
        places = side.events[i].places[frames[0] :] if frames else ()
        if places and places[0] != made.place and not side.events[i].backward:
            return replace(made, places=places)
    return made
