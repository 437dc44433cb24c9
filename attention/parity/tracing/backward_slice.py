"""Backward slice: the unmatched operations on the way to a differing output, and where they begin (the frontier).

    frontier = {e unexplained, on the way to an output that differs, whose inputs all need no explanation}

An array without a partner is harmless if all that depends on it has partners again: the walk ends at every array that is fine,
so that a variance computed in another way is never reached.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from attention.parity.tracing.trace import ROLES, Recording


@dataclass(frozen=True, eq=False)
class BackwardSlice:
    """What lies between the arrays that agree and the outputs that differ, on one side.

    Attributes:
        frontier: indices of the events without a partner whose inputs are fine, in order.
        inside: indices of all events without a partner on the way, the outputs among them, in order.
        border: indices of the fine events that those inside were made from, in order.
    """

    frontier: tuple[int, ...]
    inside: tuple[int, ...]
    border: tuple[int, ...]


def backward_slice(recording: Recording, fine: list[bool], outputs: Iterable[int]) -> BackwardSlice:
    """Walk back from outputs that differ through all that is not fine."""
    inside: set[int] = set()
    waiting = list(outputs)
    while waiting:
        i = waiting.pop()
        if i in inside:
            continue
        inside.add(i)
        waiting.extend(n for n in recording.events[i].inputs if not fine[n])
    frontier = [i for i in sorted(inside) if all(fine[n] for n in recording.events[i].inputs)]
    border = sorted({n for i in inside for n in recording.events[i].inputs if fine[n]})
    return BackwardSlice(tuple(frontier), tuple(sorted(inside)), tuple(border))


def bottlenecks(recording: Recording, region: BackwardSlice) -> list[int]:
    """Return the events through which all goes that is on the way to the outputs: what is made before is read by none after.

    Args:
        recording: the events.
        region: the way.
    """
    inside = frozenset(region.inside)
    found: list[int] = []
    last = -1
    for i in region.inside:
        if last <= i and recording.events[i].op != "output":
            found.append(i)
        last = max([last, *(n for n in recording.consumers[i] if n in inside)])
    return found


def ancestors(recording: Recording, start: int, within: Iterable[int], most: int | None = None) -> set[int]:
    """Return an event and all that it was made from, as far as they are among some; about `most` of them at most."""
    allowed = within if isinstance(within, frozenset) else frozenset(within)
    found: set[int] = set()
    waiting = [start]
    while waiting and (most is None or len(found) < most):
        i = waiting.pop()
        if i not in found:
            found.add(i)
            waiting.extend(n for n in recording.events[i].inputs if n in allowed)
    return found


def root(side: Recording, region: BackwardSlice, end: int | None = None) -> int:
    """Return the event of the frontier from which an event was made: of those that the inputs reach, the earliest."""
    behind = {*region.inside} if end is None else ancestors(side, end, region.inside)
    roots = [i for i in region.frontier if i in behind] or [*region.frontier]
    return min(roots, key=lambda i: (-ROLES.index(side.events[i].role), i))
