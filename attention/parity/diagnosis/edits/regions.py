"""Edits of a whole differing region: one input replaced or two exchanged in all its operations, or z replaced by 1 - z."""

# What an edit makes of arrays are small functions whose types strict mode cannot know.
# pyright: standard

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from attention.parity.diagnosis.edits.edit import Change, Changing, Edit
from attention.parity.diagnosis.edits.operands import like, same, what_is_read
from attention.parity.diagnosis.edits.trial import Trials
from attention.parity.diagnosis.edits.words import called

MOST_BORDER = 8


def replaced_inputs(trials: Trials, border: list[int], inside: list[int]) -> Iterator[Edit]:
    """Yield a region that reads another array wherever it reads one, and one in which two that it reads are exchanged.

    Args:
        trials: the JAX side.
        border: the agreeing arrays that the region reads.
        inside: the events of the region.
    """
    wide = [i for i in border if trials.value(i).size > 1 and trials.events[i].is_float]
    for a, b in combinations(wide[:MOST_BORDER], 2):
        if trials.value(a).shape == trials.value(b).shape:
            names = called(trials, a), called(trials, b)
            told = f"two operands are exchanged: {names[0]} and {names[1]} on jax, the other way round on torch"
            yield Edit(told, inside[0], _throughout(trials, inside, {a: b, b: a}))
    for a in wide[:MOST_BORDER]:
        if len([i for i in inside if a in trials.events[i].inputs]) < 2:
            continue
        for v in like(trials, a, inside[0]):
            told = what_is_read(trials, v, a)
            yield Edit(told, inside[0], _throughout(trials, inside, {a: v}), evidence=f"at {trials.events[inside[0]].place}")


def _throughout(trials: Trials, inside: list[int], instead: dict[int, int]) -> Changing:
    def change(first: int) -> Change | None:
        found: Change = {}
        by = first - inside[0]
        for i in inside:
            step = trials.step(i + by) if i + by < len(trials.events) else None
            if step is None:
                continue
            there = {
                a + by if by and same(trials.events[a + by], trials.events[a]) else a: b + by
                if by and same(trials.events[b + by], trials.events[b])
                else b
                for a, b in instead.items()
            }
            reads = tuple(there.get(n, n) for n in step.inputs)
            if reads != step.inputs:
                at = step.outputs.index(i + by)
                found[i + by] = (reads, lambda *x, step=step, at=at: step.run(x)[at])
        return found or None

    return change


def complemented(trials: Trials, e: int) -> Iterator[Edit]:
    """Yield z as 1 - z, where 1 - z is taken too: two arrays are weighed the other way round."""
    readers = [trials.events[i] for i in trials.jax.consumers[e]]
    ones = [
        r for r in readers if r.op == "sub" and len(r.inputs) == 2 and r.inputs[1] == e and trials.value(r.inputs[0]).size >= 1
    ]
    if any(bool((trials.value(r.inputs[0]) == 1).all()) for r in ones) and trials.value(e).dtype.kind == "f":
        told = "two arrays are weighed the other way round: by 1 - z and z on torch, by z and 1 - z on jax"
        yield Edit(told, e, lambda e: {e: ((e,), lambda x: 1.0 - x)}, evidence=f"z is {called(trials, e)}")
