"""Suspect lines: the lines of either file that may contain the mistake, the likeliest first.

What is proven is a region: one array in the place of the other repairs all that follows, and all that was read to make it
agrees. The mistake is on a line of the region; or on one that chose, laid out or defined what the region reads; or, where one
side lacks an operation, on a line that reads what should have gone through it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest

from attention.parity.tracing.backward_slice import ancestors, backward_slice
from attention.parity.tracing.candidate_swaps import MOST_REGION
from attention.parity.tracing.choice import Choice
from attention.parity.tracing.source_location import Place
from attention.parity.tracing.source_statements import definition_lines, function_line, is_global, reading_lines
from attention.parity.tracing.trace import Event, Recording
from attention.parity.tracing.trace_alignment import Alignment

# Lines of either side that are shown at most: more would be no answer.
MOST_SUSPECTS = 5
# Definitions beside the line that are shown before other lines of the region.
MOST_BESIDE = 2
# Lines that read an array which lacks an operation, as far as they come before others.
MOST_READERS = 2


@dataclass(frozen=True, eq=False)
class FaultRegion:
    """The region of one side that a divergence stands for.

    Attributes:
        side: the recording.
        fine: whether each of its events needs no explanation.
        alike: the events of the other side that hold the same elements as each of its own.
        end: the event up to which the region goes.
        inside: the events of the region, in order.
        border: what they read, in order.
    """

    side: Recording
    fine: list[bool]
    alike: list[list[int]]
    end: int
    inside: list[int]
    border: list[int]


def suspects(alignment: Alignment, choice: Choice, shown: tuple[Event, Event]) -> tuple[tuple[Place, ...], tuple[Place, ...]]:
    """Return the lines of the torch side and of the JAX side that may hold the mistake, the likeliest first.

    Args:
        alignment: the two programs.
        choice: where they part.
        shown: the events that stand for that, with the places to show of them.
    """
    first, second = (_fault_region(alignment, which, choice) for which in (0, 1))
    absent = choice.kind.startswith("absent")
    there = tuple(_distinct(_ranked(first, second, shown[0], absent=absent)))
    return there, tuple(_distinct(_ranked(second, first, shown[1], absent=absent)))


def _fault_region(alignment: Alignment, which: int, choice: Choice) -> FaultRegion:
    side, fine = (alignment.torch, alignment.jax)[which], alignment.fine[which]
    ends = (choice.swap.torch, choice.swap.jax) if choice.swap else (choice.torch, choice.jax)
    end = ends[which]
    if choice.swap is None:
        # Nothing is proven: all that lies between what agrees and what differs.
        behind = backward_slice(side, fine, [pair[which] for pair in alignment.unequal]).inside
        inside = [i for i in behind if side.events[i].op != "output"]
    elif choice.kind == ("absent in torch", "absent in jax")[which]:
        end = _unmoved(side, end)
        inside = [end]
    else:
        inside = sorted(ancestors(side, end, frozenset(i for i, ok in enumerate(fine) if not ok), MOST_REGION))
    border = sorted({n for i in inside for n in side.events[i].inputs}.difference(inside))
    return FaultRegion(side, fine, alignment.alike[which], end, inside, border)


def stopped(alignment: Alignment, shown: tuple[Event, Event]) -> tuple[tuple[Place, ...], tuple[Place, ...]]:
    """Return the lines that may hold the mistake where a gradient is stopped on one side only: what makes or reads the array.

    Args:
        alignment: the two programs.
        shown: the events whose gradient is stopped, or should be.
    """
    found: list[tuple[Place, ...]] = []
    for side, event in zip((alignment.torch, alignment.jax), shown, strict=True):
        made = side.events[event.index].place
        read = [place for i in _readers(side, event.index) for place in side.events[i].places[:1]]
        # A name for an array leaves no operation behind, so that the text must say who reads it.
        makers = [made, *(side.events[i].place for i in side.events[event.index].inputs)]
        later = [Place(p.file, line, p.function) for p in makers for line in reading_lines(p.file, p.line)]
        called = side.events[event.index].places[1:2]
        found.append(tuple(islice(_distinct([event.place, made, *called, *later, *read]), MOST_SUSPECTS)))
    return found[0], found[1]


def merged(found: Sequence[tuple[tuple[Place, ...], tuple[Place, ...]]]) -> tuple[tuple[Place, ...], tuple[Place, ...]]:
    """Return the lines to show of several divergences: the first of each, and then the rest of each, as far as there is room.

    Args:
        found: the suspects of each divergence, the gravest first.
    """
    sides = [[each[which] for each in found] for which in (0, 1)]
    told = [
        tuple(islice(_distinct([*(p for each in side for p in each[:1]), *(p for each in side for p in each)]), MOST_SUSPECTS))
        for side in sides
    ]
    return told[0], told[1]


def _distinct(places: Iterable[Place]) -> Iterator[Place]:
    seen: set[tuple[str, int]] = set()
    for place in places:
        if place.line and (place.file, place.line) not in seen:
            seen.add((place.file, place.line))
            yield place


def _ranked(fault: FaultRegion, other: FaultRegion, shown: Event, *, absent: bool) -> Iterator[Place]:
    events = fault.side.events
    made = events[fault.end].place
    region = [events[i] for i in fault.inside if events[i].line]
    chosen = list(_chosen(fault.side, fault.border))
    yield shown.place
    yield made
    if absent:
        # One turn of a loop too many: how often it runs is said where it is called.
        yield from (place for event in (shown, events[fault.end]) if event.turns for place in event.places[1:2])
        yield from _around(fault)
    # A number that a line reads leaves no operation behind: where it is defined beside the line is as likely as the line.
    beside = [p for place in dict.fromkeys([shown.place, made]) for p in _defined(fault.side, place)]
    yield from [p for p in beside if _is_near(p, shown.place) and "param" not in p.text.lower()][:MOST_BESIDE]
    yield from _strange(fault, other)
    own = {shown.place, made}
    kinds = (_tables(fault), _decided(fault, shown.index), (event.place for event in region))
    turns = zip_longest(*(_fresh(places, own) for places in kinds))
    yield from (place for each in turns for place in each if place is not None)
    yield from (events[n].place for n in chosen if not _is_computed(events[n]))
    yield from _callers(fault, region)
    defined = [p for place in dict.fromkeys([shown.place, *(e.place for e in region)]) for p in _defined(fault.side, place)]
    # What stands at the top of a file is read by all of it, most of which agrees.
    shared = [p for p in defined if is_global(p.file, p.line)]
    yield from (p for p in defined if p not in shared)
    # The helpers and the settings that the modules of these lines were made with.
    yield from (p for each in defined for p in _defined(fault.side, each) if not is_global(p.file, p.line))
    yield from (events[n].place for n in chosen if _is_computed(events[n]))
    if absent:
        yield from (Place(made.file, line, made.function) for line in reading_lines(made.file, made.line))
    yield from (place for event in [shown, *region] for place in event.places[1:])
    yield from shared


def _around(fault: FaultRegion) -> Iterator[Place]:
    """Yield the lines between which an operation is missing: who reads the array, and what it is called."""
    events = fault.side.events
    made = events[fault.end].place
    readers = [place for i in _readers(fault.side, fault.end) for place in events[i].places[:1]]
    yield from list(dict.fromkeys(readers))[:MOST_READERS]
    # What should stand between the two may be there, and do nothing.
    below = {line for line in reading_lines(made.file, made.line) if line <= max((p.line for p in readers), default=0)}
    yield from (Place(made.file, line, made.function) for line in sorted(below)[-2:])
    yield from _handed_on(fault)


def _tables(fault: FaultRegion) -> Iterator[Place]:
    """Yield where constants of a region were made that the other side has not, in order."""
    for i in fault.inside:
        event = fault.side.events[i]
        if not event.role and event.value.size > 1 and event.is_operation and not fault.alike[i] and event.line:
            yield event.place


def _is_near(defined: Place, reader: Place) -> bool:
    """Return whether a definition is a statement of the same function, above what reads it, or the default of an argument."""
    first = function_line(reader.file, reader.line)
    return defined.file == reader.file and first is not None and first <= defined.line < reader.line


def _fresh(places: Iterable[Place], seen: set[Place]) -> list[Place]:
    """Return places once each, without those that were seen."""
    return [place for place in dict.fromkeys(places) if place not in seen]


def _handed_on(fault: FaultRegion) -> Iterator[Place]:
    """Yield the calls between which an array is handed on, in the function that makes both: from its maker to its readers."""
    made = fault.side.events[fault.end].places
    for i in _readers(fault.side, fault.end)[:2]:
        read = {(place.file, place.function): place for place in reversed(fault.side.events[i].places)}
        common = next((place for place in made if (place.file, place.function) in read), None)
        if common is not None:
            yield common
            # A line that gives the array another name leaves no operation behind.
            traced = {(e.file, e.line) for e in fault.side.events}
            again = [line for line in reading_lines(common.file, common.line) if (common.file, line) not in traced]
            yield from (Place(common.file, line, common.function) for line in again[:1])
            yield read[common.file, common.function]


def _strange(fault: FaultRegion, other: FaultRegion) -> Iterator[Place]:
    """Yield where a region reads an array that the other side's region does not read: who made it, or who passed it on."""
    events, theirs = fault.side.events, set(other.border)
    for i in fault.inside:
        for n in events[i].inputs:
            given = fault.alike[n]
            if n in fault.inside or not given or not events[n].role or events[n].value.size < 2 or theirs.intersection(given):
                continue
            maker = events[list(_chosen(fault.side, [n]))[-1]] if not events[n].is_given else events[n]
            outer = [place for place in events[i].places[1:] if place.function == maker.place.function]
            yield from outer[:1]
            yield maker.place


def _readers(side: Recording, i: int) -> list[int]:
    """Return the operations that read an array, as it is or laid out anew."""
    found: list[int] = []
    for n in side.consumers[i]:
        if side.events[n].line:
            found.append(n)
        if side.events[n].is_move:
            found += _readers(side, n)
    return found


def _decided(fault: FaultRegion, shown: int) -> Iterator[Place]:
    """Yield where the masks and indices of a region were made that the other side has not, nearest first."""
    events = fault.side.events
    readers = dict.fromkeys([*fault.inside, shown])
    functions = {events[i].place.function for i in readers}
    waiting = [n for i in readers for k in events[i].inputs if not events[n := _unmoved(fault.side, k)].is_float]
    seen: set[int] = set()
    while waiting:
        i = waiting.pop(0)
        event = events[i]
        odd = not fault.fine[i] if event.is_float else event.value.size > 1 and not fault.alike[i]
        if i in seen or event.is_given or not odd:
            continue
        seen.add(i)
        yield event.place
        yield from [place for place in event.places[1:] if place.function in functions][:1]
        waiting += event.inputs if not event.is_float else ()


def _unmoved(side: Recording, i: int) -> int:
    """Return the event of which another is only a layout, such as the numbers of an index that is computed with."""
    while side.events[i].is_move and len(side.events[i].inputs) == 1:
        [i] = side.events[i].inputs
    return i


def _chosen(side: Recording, border: Iterable[int]) -> Iterator[int]:
    """Yield what chose or laid out the arrays that a region reads, nearest first, up to what computed them."""
    waiting = list(border)
    seen: set[int] = set()
    while waiting:
        i = waiting.pop(0)
        event = side.events[i]
        if i in seen or event.is_given:
            continue
        seen.add(i)
        yield i
        waiting += () if _is_computed(event) else event.inputs


def _is_computed(event: Event) -> bool:
    return not event.is_move and not any(
        word in event.op for word in ("slice", "select", "split", "chunk", "gather", "index", "unbind", "narrow")
    )


def _callers(fault: FaultRegion, region: Iterable[Event]) -> Iterator[Place]:
    """Yield the calls that led to the operations of a region and to none that agrees."""
    agreeing = {p for e in fault.side.events if fault.fine[e.index] and e.is_operation for p in e.places[1:]}
    for event in region:
        yield from (place for place in event.places[1:] if place not in agreeing)


def _defined(side: Recording, place: Place) -> Iterator[Place]:
    """Yield the lines that define what a line reads and that were not traced: settings, modules and constants."""
    traced = {(e.file, e.line) for e in side.events}
    found = [(line, text) for line, text in definition_lines(place.file, place.line) if (place.file, line) not in traced]
    # A line that calls several modules: the one of the class that ran comes first.
    found.sort(key=lambda one: not any(name in one[1] for name in place.layers))
    yield from (Place(place.file, line, place.function) for line, _ in found)
