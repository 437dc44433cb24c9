"""Edits of operands: one replaced, two exchanged, or one removed or added.

torch = f(v, w)        jax = f(u, w), f(w, v), or f(v)        u, v and w are arrays that the JAX side makes before
"""

# What an edit makes of arrays are small functions whose types strict mode cannot know.
# pyright: standard

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import numpy as np

from attention.parity.diagnosis.edits.edit import Change, Edit
from attention.parity.diagnosis.edits.trial import Trials
from attention.parity.diagnosis.edits.words import called, chain, op
from attention.parity.tracing.trace import Event

MOST_OTHERS, MOST_JOINED, MOST_BORDER = 48, 4, 8
ORDERED = ("sub", "div", "pow", "atan2", "rem")
JOINS = {
    "added": ("add", np.add),
    "a factor": ("mul", np.multiply),
    "subtracted": ("sub", np.subtract),
    "a divisor": ("div", np.divide),
}


def exchanged(trials: Trials, e: int) -> Iterator[Edit]:
    """Yield an operation with its operands in another order."""
    event, step = trials.events[e], trials.step(e)
    if step is None or len(event.inputs) < 2:
        return
    shapes = [trials.value(i).shape for i in step.inputs]
    if event.op in (*ORDERED, "dot_general") and len(shapes) == 2 and len(set(shapes)) == 1:
        yield _ordered(trials, e, (1, 0), f"the operands of {op(event)} are exchanged")
    if event.op == "select_n" and len(shapes) == 3 and shapes[1] == shapes[2]:
        yield _ordered(trials, e, (0, 2, 1), "the two cases of a choice by a mask are exchanged, or the mask is inverted")
    if event.op == "concatenate" and 2 <= len(shapes) <= MOST_JOINED:
        for order in permutations(range(len(shapes))):
            if order != tuple(range(len(shapes))):
                told = f"arrays are concatenated in another order: {[i + 1 for i in order]} of jax's stand on torch"
                yield _ordered(trials, e, order, told)


def _ordered(trials: Trials, e: int, order: tuple[int, ...], told: str) -> Edit:
    def change(i: int) -> Change | None:
        step = trials.step(i)
        if step is None or len(step.inputs) != len(order):
            return None
        return {i: (tuple(step.inputs[k] for k in order), lambda *x, step=step: step.run(x)[0])}

    a, b = (called(trials, trials.events[e].inputs[k]) for k in (order[0], order[1]))
    return Edit(told, e, change, evidence=f"first {a}, then {b} on torch")


def exchanged_siblings(trials: Trials, e: int) -> Iterator[Edit]:
    """Yield two parts of one array that are exchanged: gates, or query and key."""
    step = trials.step(e)
    if step is None:
        return
    for other in _parts(trials, e):
        offset = other - e

        def change(i: int, offset: int = offset) -> Change | None:
            pair = i, i + offset
            if not 0 <= pair[1] < len(trials.events) or trials.events[pair[1]].shape != trials.events[i].shape:
                return None
            steps = [step for n in pair if (step := trials.step(n)) is not None]
            if len(steps) < 2:
                return None
            at = [s.outputs.index(n) for s, n in zip(steps, pair, strict=True)]
            return {
                i: (steps[1].inputs, lambda *x, s=steps[1], k=at[1]: s.run(x)[k]),
                pair[1]: (steps[0].inputs, lambda *x, s=steps[0], k=at[0]: s.run(x)[k]),
            }

        if other > e:
            parts = f"{_part(trials, e)} and {_part(trials, other)}"
            told = f"two parts of one array are exchanged: {parts} on jax, the other way round on torch"
            yield Edit(told, e, change, evidence=f"both are parts of {called(trials, step.inputs[0])}")
        # One part that is read in the place of another.
        elif other < e:
            yield _instead(trials, e, None, other)


def _parts(trials: Trials, e: int) -> list[int]:
    """Return the other parts of the array that an event is a part of."""
    event = trials.events[e]
    if event.op not in ("slice", "split", "dynamic_slice", "gather", "squeeze", "reshape", "transpose") or not event.inputs:
        return []
    step = trials.step(e)
    if step is not None and len(step.outputs) > 1:
        return [i for i in step.outputs if i != e and trials.value(i).shape == event.shape]
    return [
        i
        for i in trials.jax.consumers[event.inputs[0]]
        if i != e and trials.events[i].op == event.op and trials.value(i).shape == event.shape
    ]


def _part(trials: Trials, e: int) -> str:
    step = trials.step(e)
    if step is not None and len(step.outputs) > 1:
        return f"part {step.outputs.index(e) + 1}"
    starts = step.params.get("start_indices") if step is not None else None
    return f"the one from {starts}" if starts else trials.events[e].label


def replaced(trials: Trials, e: int) -> Iterator[Edit]:
    """Yield an operation that reads another array in the place of one of its operands."""
    event, step = trials.events[e], trials.step(e)
    if step is None or event.is_move:
        return
    for k, own in enumerate(step.inputs):
        if trials.value(own).size < 2:
            continue
        for v in like(trials, own, e):
            yield _instead(trials, e, k, v)


def like(trials: Trials, own: int, e: int) -> list[int]:
    """Return the arrays that can stand in the place of an operand, nearest first."""
    value = trials.value(own)
    found: list[int] = []
    prints: list[np.ndarray] = [value]
    for i in range(e - 1, -1, -1):
        x = trials.value(i)
        if x.shape == value.shape and x.dtype.kind == value.dtype.kind and not any(np.array_equal(x, y) for y in prints):
            found.append(i)
            prints.append(x)
            if len(found) >= MOST_OTHERS:
                break
    return found


def _instead(trials: Trials, e: int, k: int | None, v: int) -> Edit:
    def change(i: int) -> Change | None:
        step, other = trials.step(i), _mapped(trials, e, v, i)
        if step is None or other is None:
            return None
        if k is None:
            return {i: ((other,), lambda x: x)}
        reads = (*step.inputs[:k], other, *step.inputs[k + 1 :])
        at = step.outputs.index(i)
        return {i: (reads, lambda *x, step=step, at=at: step.run(x)[at])}

    own = trials.events[e].inputs[k] if k is not None else e
    return Edit(
        what_is_read(trials, v, own), e, change, evidence=f"by {op(trials.events[e])} at {trials.events[e].place}", near=True
    )


def what_is_read(trials: Trials, v: int, own: int) -> str:
    """Return what is said of an array that is read in the place of another: where one is made of the other, of what is done."""
    if v in trials.events[own].inputs and (done := chain(trials, v, own)):
        return f"{done} is missing on torch, or too much on jax"
    if own in trials.events[v].inputs and (done := chain(trials, own, v)):
        return f"{done} is missing on jax, or too much on torch"
    return f"another array is read: {called(trials, v)} on torch, {called(trials, own)} on jax"


def _mapped(trials: Trials, e: int, v: int, i: int) -> int | None:
    """Return the event that stands to another run of a line as `v` does to the run of event `e`; None where there is none."""
    events = trials.events
    there = i + v - e
    if i == e or (0 <= there < i and same(events[there], events[v])):
        return there
    return v if v < i else None


def same(one: Event, other: Event) -> bool:
    """Return whether two events are the same operation of one line."""
    return (one.op, one.place, one.shape) == (other.op, other.place, other.shape)


def added(trials: Trials, e: int) -> Iterator[Edit]:
    """Yield an array with another one added, subtracted, as a factor or as a divisor."""
    event = trials.events[e]
    if event.value.dtype.kind != "f" or event.value.size < 4:
        return
    for v in _beside(trials, e):
        for what, (_, make) in JOINS.items():
            if trials.gained(make(event.value, trials.value(v)), e):
                yield _more(trials, e, v, what)


def _beside(trials: Trials, e: int) -> list[int]:
    """Return the arrays that an array can be combined with: of its shape, or of one that NumPy repeats to it."""
    shape, found = trials.value(e).shape, list[int]()
    given = [i for i, x in enumerate(trials.events) if x.is_given and x.role]
    near = range(e - 1, max(-1, e - 400), -1)
    for i in (*near, *given):
        x = trials.value(i)
        if x.dtype.kind != "f" or x.size < 2 or i == e or len(found) >= MOST_OTHERS or i in found or i > e:
            continue
        if x.shape == shape or (
            x.ndim <= len(shape) and all(a in (1, b) for a, b in zip(x.shape[::-1], shape[::-1], strict=False))
        ):
            found.append(i)
    return found


def _more(trials: Trials, e: int, v: int, what: str) -> Edit:
    make = JOINS[what][1]

    def change(i: int) -> Change | None:
        other = _mapped(trials, e, v, i)
        return None if other is None else {i: ((i, other), make)}

    name = called(trials, v)
    if what in ("added", "subtracted"):
        told = f"an addend is missing on jax, or too much on torch: {name} is {what} on torch"
    else:
        told = f"{what} is missing on jax, or too much on torch: {name}"
    return Edit(told, e, change)
