"""A missing operation: named from the trace of the program that has it, after a swap has proven that nothing else differs.

torch = f(x)        jax = x        and f(x) in the place of x repairs the outputs

The swap has proven that f is all that differs. It is named where it is one operation, or one function of the user's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from attention.parity.diagnosis.edits.words import called_of, op
from attention.parity.diagnosis.rules.operand_pair import Finding, fix
from attention.parity.tracing import Divergence
from attention.parity.tracing.trace import Event, Recording

MOST_STEPS = 4
MOVED = frozenset({"axes", "reordered", "reversed", "rolled"})
"""Kinds of differences of arrays that hold the same elements."""
JOINS = {
    **dict.fromkeys(("add", "add_", "add_any"), "an addend"),
    **dict.fromkeys(("sub", "sub_", "rsub"), "what is subtracted"),
    **dict.fromkeys(("mul", "mul_"), "a factor"),
    **dict.fromkeys(("div", "div_", "divide"), "a divisor"),
}
"""Operations of an array and another one."""


def name(divergence: Divergence) -> tuple[Finding, ...]:
    """Return what the operation is called that one side lacks; nothing where it is more than one."""
    sides = {"absent in jax": 0, "absent in torch": 1}
    if divergence.kind not in sides or divergence.ends is None or divergence.alignment is None:
        return ()
    which = sides[divergence.kind]
    alignment = divergence.alignment
    side = (alignment.torch, alignment.jax)[which]
    here, there = divergence.ends[which], divergence.ends[1 - which]
    # Elements in another order are no operation that one side lacks, but one that it has otherwise.
    if divergence.difference is not None and divergence.difference.kind in MOVED:
        return ()
    # The array of the side that does more that is the other side's.
    given = set(alignment.alike[1 - which][there.index])
    found = _repeated(side, here, given, alignment.alike[which], which) or _named(side, here, given, which)
    return (found,) if found else ()


def _repeated(side: Recording, end: Event, given: set[int], alike: Sequence[Collection[int]], which: int) -> Finding | None:
    """Name one more turn of a loop: the line runs on what it made before, and all runs but the last have a partner."""
    key = end.op, end.places, end.shape
    # A helper that is called from another line is no turn of the same loop.
    runs = [e.index for e in side.events if (e.op, e.places, e.shape) == key]
    before = given.intersection(runs)
    if not end.line or not before or runs[-1] != end.index or not all(alike[i] for i in runs[:-1]):
        return None
    if not _leads(side, end.index, before):
        return None
    here, there = ("torch", "jax") if which == 0 else ("jax", "torch")
    told = f"{end.place} runs again on {here} after it has made what {there} goes on with"
    return Finding(f"iterations too many on {here}, or too few on {there}", told)


def _named(side: Recording, end: Event, given: set[int], which: int) -> Finding | None:
    first, second = ("torch", "jax") if which == 0 else ("jax", "torch")
    steps = list(_chain(side, end, given))
    if not steps or len(steps) > MOST_STEPS:
        return None
    last = steps[0]
    names = dict.fromkeys(e.name for e in steps if e.name)
    if len(steps) == 1 and last.op in JOINS:
        others = [side.events[i] for i in last.inputs if not _leads(side, i, given)]
        what = JOINS[last.op]
        label = called_of(side, others[0].index) if len(others) == 1 else ""
        if label:
            name = f"{what} is missing on {second}, or too much on {first}: {label}"
            return Finding(name, f"{first} has it at {last.place}", **fix(second, f"with {label}"))
        return None
    if len(names) == 1 and all(e.name for e in steps):
        told = next(iter(names))
    elif len(steps) == 1:
        told = op(last)
    else:
        return None
    name = f"{told} is missing on {second}, or too much on {first}"
    return Finding(name, f"{first} has it at {last.place}, and {second} goes on without it", **fix(second, told))


def _chain(side: Recording, end: Event, given: set[int]) -> Iterator[Event]:
    """Yield the operations from an array back to those that agree, on the way to them."""
    waiting, seen = [end.index], set[int]()
    while waiting and len(seen) < 40:
        i = waiting.pop(0)
        event = side.events[i]
        if i in seen or i in given or event.is_given:
            continue
        seen.add(i)
        if not _leads(side, i, given):
            continue
        if event.is_operation:
            yield event
        waiting += event.inputs


def _leads(side: Recording, i: int, given: set[int], most: int = 60) -> bool:
    """Return whether an array was made from those that agree."""
    waiting, seen = [i], set[int]()
    while waiting and len(seen) < most:
        n = waiting.pop()
        if n in given:
            return True
        if n not in seen:
            seen.add(n)
            waiting += side.events[n].inputs
    return False
