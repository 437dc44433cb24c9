"""Edits: search for the one change of the JAX program that makes its outputs equal to those of torch.

    for each operation where the programs part, for each change of it: run again; do the outputs agree?

An edit is proven by the run that it repairs; of a result of one or two numbers, which many edits make, it is likely at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np

from attention.parity.diagnosis.edits import (
    functions,
    layouts,
    missing_operation,
    numbers,
    operands,
    operation_variants,
    order,
    regions,
)
from attention.parity.diagnosis.edits.edit import Edit
from attention.parity.diagnosis.edits.trial import FAILURES, Trials
from attention.parity.diagnosis.rules.operand_pair import Finding
from attention.parity.tracing import Divergence
from attention.parity.tracing.backward_slice import backward_slice
from attention.parity.tracing.trace import Event

__all__ = ["name"]

Family = Callable[[Trials, int], Iterator[Edit]]
FAMILIES: tuple[Family, ...] = (
    operation_variants.flipped_signs,
    operation_variants.binary_variants,
    operands.exchanged,
    operands.exchanged_siblings,
    operation_variants.other_parameters,
    operation_variants.other_reductions,
    operation_variants.keepdims_reductions,
    operation_variants.shifted_starts,
    functions.other_functions,
    functions.removed,
    layouts.other_layouts,
    order.exchanged_order,
    numbers.scaled,
    operands.replaced,
    operands.added,
)
"""What is tried, the likeliest first."""
MOST_EVENTS, MOST_CHOSEN, MOST_THEIRS, MOST_TRIED = 80, 40, 200, 250


def name(divergence: Divergence, *, whole: bool = True) -> tuple[Finding, ...]:
    """Return what the edit is called that repairs a divergence; nothing where none of those tried does.

    Args:
        divergence: of `locate`.
        whole: whether all that differs is proven, here and at the other places.
    """
    trials = _trials(divergence, whole=whole)
    if trials is None:
        return ()
    if whole and (read_off := missing_operation.name(divergence)):
        return read_off
    # A function may be tried where it has no value: what it makes there equals nothing.
    with np.errstate(all="ignore"):
        holding = (edit for edit in _edits(divergence, trials) if trials.holds(edit))
        found = next(holding, None)
        if found is None:
            return ()
        # One number is made by many edits: what another one makes too is the likeliest of several.
        sure = not trials.weak or all(edit.name == found.name for edit in holding)
    evidence = found.evidence or "jax with it makes what torch makes"
    return (Finding(found.name, evidence, found.torch, found.jax, sure),)


def _trials(divergence: Divergence, *, whole: bool) -> Trials | None:
    alignment = divergence.alignment
    if not divergence.found or alignment is None or not alignment.jax.steps or divergence.torch is None:
        return None
    # The backward pass would have to be made anew from an edited forward one.
    if any(alignment.torch.events[i].name.startswith("d ") for i, _ in alignment.unequal):
        return None
    # One array is proof only where all that differs is proven.
    ends = divergence.ends if whole else None
    return Trials(alignment, (ends[0].index, ends[1].index) if ends else None)


def _edits(divergence: Divergence, trials: Trials) -> Iterator[Edit]:
    """Yield what is tried, the likeliest first, of each family no more than it may cost."""
    events, fine = _where(divergence, trials), trials.alignment.fine[1]
    theirs = _theirs(divergence, trials)
    read = list(dict.fromkeys(n for e in events for n in trials.events[e].inputs))
    inside = [e for e in events if not fine[e]]
    border = [n for n in read if fine[n]]
    # What torch does to an agreeing array before it is read, and what JAX does: an edit of the array itself.
    within = {*inside}
    events += [n for n in border if trials.events[n].is_operation and within.issuperset(trials.jax.consumers[n])]
    events = list(dict.fromkeys(events))
    yield from islice(_each(lambda t, i: numbers.other_numbers(t, i, theirs), trials, read), MOST_TRIED)
    yield from islice(_each(numbers.tables, trials, read), MOST_TRIED)
    yield from islice(_each(regions.complemented, trials, list(dict.fromkeys([*read, *events]))), MOST_TRIED)
    for family in FAMILIES:
        yield from islice(_each(family, trials, events), MOST_TRIED)
        if family is operands.exchanged_siblings and inside and divergence.kind != "unproven":
            yield from islice(regions.replaced_inputs(trials, border, inside), MOST_TRIED)
    yield from islice(_each(layouts.other_layouts, trials, _upstream(trials, border)), MOST_TRIED)


def _each(family: Family, trials: Trials, events: list[int]) -> Iterator[Edit]:
    for e in events:
        try:
            yield from family(trials, e)
        # A family may not fit an array that it did not foresee; the mistake may still be found at another one.
        except FAILURES:
            continue


def _upstream(trials: Trials, border: list[int]) -> list[int]:
    """Return what agreeing arrays were made of: arrays agree in whatever layout they are, of which one may be wrong."""
    found: dict[int, None] = {}
    waiting = [i for i in border if trials.value(i).ndim > 1]
    while waiting and len(found) < MOST_CHOSEN:
        i = waiting.pop(0)
        if i not in found and trials.value(i).ndim > 1 and trials.value(i).size > 1:
            found[i] = None
            waiting += trials.events[i].inputs
    return list(found)


def _theirs(divergence: Divergence, trials: Trials) -> tuple[Event, ...]:
    """Return the operations of torch where the programs part, and what they read."""
    if divergence.kind != "unproven":
        return divergence.region[0]
    torch, fine = trials.alignment.torch, trials.alignment.fine[0]
    inside = backward_slice(torch, fine, [t for t, _ in trials.alignment.unequal]).inside[:MOST_THEIRS]
    return tuple(torch.events[i] for i in sorted({*inside, *(n for i in inside for n in torch.events[i].inputs)}))


def _where(divergence: Divergence, trials: Trials) -> list[int]:
    """Return the events of JAX that may be made otherwise: those behind the arrays that part, and what chose or reads them."""
    fine = trials.alignment.fine[1]
    region = [e.index for e in divergence.region[1]]
    inside = [i for i in region if not fine[i]]
    if divergence.kind == "unproven" or not inside:
        inside = [*backward_slice(trials.jax, fine, [j for _, j in trials.alignment.unequal]).inside]
    if divergence.kind.startswith("absent"):
        ends = [divergence.ends[1].index] if divergence.ends else []
        readers = [n for i in ends for n in trials.jax.consumers[i]]
        inside = [*ends, *readers, *inside]
    # What runs again, for the next layer or in the next turn, is made otherwise together with the first run.
    lines = {trials.line(i): i for i in reversed(inside) if trials.events[i].op != "output"}
    inside = list(reversed(lines.values()))[:MOST_EVENTS]
    return list(dict.fromkeys([*inside, *_chosen(trials, inside)]))


def _chosen(trials: Trials, inside: list[int]) -> list[int]:
    """Return the masks, the indices and the new layouts that lead to some events, nearest first."""
    found: dict[int, None] = {}
    waiting = list(inside)
    while waiting and len(found) < MOST_CHOSEN:
        for n in trials.events[waiting.pop(0)].inputs:
            event = trials.events[n]
            odd = not event.is_float and (not trials.alignment.alike[1][n] or event.value.dtype == bool)
            odd = odd or event.is_move or event.op in ("slice", "concatenate", "split", "gather", "pad")
            if odd and n not in found:
                found[n] = None
                waiting.append(n)
    return list(found)
