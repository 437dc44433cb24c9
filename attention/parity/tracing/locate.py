"""Locate the source lines at which two programs diverge.

record both    ->    align by fingerprint    ->    walk back from what differs    ->    swap arrays to prove it
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from attention._extras import require
from attention.parity.adapters import Arrays, Call, Program, program
from attention.parity.adapters.detect_numpy import as_numpy_program
from attention.parity.adapters.inputs import DTYPE, LOAD, call_of
from attention.parity.numerics.dtype_rounding import ROUNDINGS
from attention.parity.param_mapping.parameter_values import alike
from attention.parity.tracing.array_difference import Difference, difference
from attention.parity.tracing.backward_slice import ancestors
from attention.parity.tracing.candidate_swaps import MOST_REGION
from attention.parity.tracing.choice import Choice
from attention.parity.tracing.confirmed_params import confirmed
from attention.parity.tracing.constant_tables import share_constants
from attention.parity.tracing.divergence import Coverage, Divergence, TimelineRow
from attention.parity.tracing.error_attribution import AttributedDivergence, attribute, carried_state
from attention.parity.tracing.faulty_line import event_to_show
from attention.parity.tracing.loop_stacks import with_loops
from attention.parity.tracing.stop_gradient import differing_stops
from attention.parity.tracing.suspect_lines import merged, stopped, suspects
from attention.parity.tracing.trace import Event, Recording
from attention.parity.tracing.trace_alignment import Alignment
from attention.spec.errors import OptionError
from attention.spec.options import SWITCH, checked

# A share of the error that is none.
NOTHING = 1e-9


@checked(load=LOAD, gradients=SWITCH, dtype=DTYPE | ", or None")
def locate(
    torch_side: Any,
    jax_side: Any,
    inputs: Any,
    *,
    params: Any = None,
    load: str | None = None,
    gradients: bool = False,
    dtype: str | None = "float64",
) -> Divergence:
    """Find the first operation at which two programs part.

    Args:
        torch_side: a module, a function, or what else `parity.program` takes.
        jax_side: the same, in JAX.
        inputs: of both: an array, a tuple of positional ones, a dict of keywords, or a `Call`.
        params: how parameters belong together, as `compare` takes it; None if it is to be solved. Asked only with `load`.
        load: "first" or "second", whose parameter values are copied onto the other; None if each has the right ones already.
        gradients: look at the gradients of inputs and parameters too, once all outputs agree.
        dtype: what both are run in. In float64, rounding cannot hide a mistake, nor look like one.

    Raises:
        SideFailed: a program raised, or returned what is no array.
        OptionError: a side is neither torch nor JAX.
    """
    call = call_of(inputs)
    both = as_numpy_program(program(torch_side, "torch"), call), as_numpy_program(program(jax_side, "jax"), call)
    first, second = alike(both, call, params, load)
    if (first.framework, second.framework) == ("jax", "torch"):
        # The recordings are told by their framework, in whichever order they are given.
        first, second = second, first
    found = divergence_of(record(first, call, dtype), record(second, call, dtype))
    if gradients and not found.found:
        here = record(first, call, dtype, gradients=True)
        # Both go back from the same weights, so that rounding errors of the outputs do not become some of the gradients.
        weights = {e.name.removeprefix("cotangent of "): e.value for e in here.events if e.is_given and e.role == "cotangent"}
        found = divergence_of(here, record(second, call, dtype, gradients=True, weights=weights))
    return found


def record(
    side: Program,
    call: Call,
    dtype: str | None,
    *,
    gradients: bool = False,
    weights: Arrays | None = None,
) -> Recording:
    """Return every event of one run of a program.

    Args:
        side: the program.
        call: the inputs.
        dtype: what float parameters and inputs are cast to.
        gradients: whether the backward pass is recorded too.
        weights: the cotangents of a JAX program's outputs.

    Raises:
        OptionError: it is neither in torch nor in JAX.
    """
    # A framework is imported when a program of it is recorded, not before.
    if side.framework == "torch":
        require("torch", extra="torch", wanted_by="locate")
        from attention.parity.tracing.torch_tracer import record_torch  # noqa: PLC0415

        return record_torch(side, call, None, dtype, gradients=gradients)  # pyright: ignore[reportArgumentType]
    if side.framework == "jax":
        require("jax", extra="jax", wanted_by="locate")
        from attention.parity.tracing.jax_tracer import record_jax  # noqa: PLC0415

        return record_jax(side, call, None, dtype, gradients=gradients, weights=weights)  # pyright: ignore[reportArgumentType]
    raise OptionError(f"side {side.name} is in {side.framework}, and must be in torch or jax to be traced")


def divergence_of(torch: Recording, jax: Recording, unit: float = ROUNDINGS["float32"].unit) -> Divergence:
    """Return where two recordings part.

    Args:
        torch: the recording of the torch side.
        jax: that of the JAX side.
        unit: the unit roundoff of the dtype that the programs run in: what it explains is no divergence.
    """
    notes = share_constants(torch, jax)
    alignment = Alignment(torch, jax)
    coverage = _coverage(torch, alignment.partners[0]), _coverage(jax, alignment.partners[1])
    if not alignment.unequal:
        return Divergence(False, coverage, timeline=_timeline(alignment, None), notes=notes)
    alignment = with_loops(alignment)
    stops = differing_stops(alignment)
    if stops is not None:
        kind, t, j = stops
        said = Difference("stop", "the gradient is stopped on one side, or of another array", {})
        outputs, lines = _outputs(alignment), stopped(alignment, (t, j))
        return Divergence(True, coverage, kind, t, j, difference=said, outputs=outputs, notes=notes, suspects=lines)
    parts = attribute(alignment, unit)
    told = [_divergence(part, coverage) for part in parts]
    notes = (*notes, *(_benign(each) for part, each in zip(parts, told, strict=True) if part.benign))
    grave = _merged([each for part, each in zip(parts, told, strict=True) if not part.benign])
    grave.sort(key=lambda each: -each.share)
    # What explains nothing is no divergence beside one that explains something.
    grave = [each for each in grave if each.share > NOTHING] or grave[:1]
    outputs = _outputs(alignment)
    if not grave:
        return Divergence(False, coverage, timeline=_timeline(alignment, None), outputs=outputs, notes=notes)
    suspects = merged([each.suspects for each in grave])
    sure = confirmed(carried_state(parts))
    return replace(grave[0], outputs=outputs, notes=notes, others=tuple(grave[1:]), suspects=suspects, confirmed=sure)


def _merged(found: list[Divergence]) -> list[Divergence]:
    """Return divergences with those of the same two lines as further runs of one, which explains what they explain together."""
    lines: dict[tuple[object, ...], Divergence] = {}
    for each in found:
        key = each.kind, each.torch and each.torch.place, each.jax and each.jax.place
        first = lines.setdefault(key, each)
        if first is not each:
            lines[key] = replace(first, share=min(1.0, first.share + each.share), runs=(*first.runs, each, *each.runs))
    return list(lines.values())


def _benign(found: Divergence) -> str:
    """Return what a reader is told of a difference that a rounding explains."""
    said = found.difference.text if found.difference else ""
    if found.kind == "unproven":
        return f"what is left of the outputs' difference is of the size of a rounding: {said}"
    return (
        f"within a rounding, so no divergence: {found.torch and found.torch.place} and {found.jax and found.jax.place}: {said}"
    )


def _divergence(part: AttributedDivergence, coverage: tuple[Coverage, Coverage]) -> Divergence:
    alignment, choice = part.alignment, part.choice
    t, j = (event_to_show(alignment, which, i) for which, i in enumerate((choice.torch, choice.jax)))
    before = [(a, b) for a, b in alignment.pairs if a < t.index and b < j.index]
    agreed = (alignment.torch.events[before[-1][0]], alignment.jax.events[before[-1][1]]) if before else None
    swapped = choice.swap
    ends = (alignment.torch.events[swapped.torch], alignment.jax.events[swapped.jax]) if swapped else None
    return Divergence(
        True,
        coverage,
        choice.kind,
        t,
        j,
        ends,
        agreed,
        _apart(alignment, choice),
        _timeline(alignment, choice),
        share=part.share,
        runs=tuple(_divergence(run, coverage) for run in part.runs),
        given=_given(alignment),
        region=_region(alignment, choice),
        suspects=suspects(alignment, choice, (t, j)),
        alignment=alignment,
    )


def _region(alignment: Alignment, choice: Choice) -> tuple[tuple[Event, ...], tuple[Event, ...]]:
    """Return what lies behind the arrays that part, on either side, and the agreeing arrays that this was made from."""
    ends = (choice.swap.torch, choice.swap.jax) if choice.swap else (choice.torch, choice.jax)
    found: list[tuple[Event, ...]] = []
    for which, (side, fine, end) in enumerate(zip((alignment.torch, alignment.jax), alignment.fine, ends, strict=True)):
        inside = ancestors(side, end, frozenset(i for i, ok in enumerate(fine) if not ok), MOST_REGION)
        if choice.kind == ("absent in torch", "absent in jax")[which]:
            inside = {end}
        around = {n for i in inside for n in side.events[i].inputs}
        found.append(tuple(side.events[i] for i in sorted(inside | around)))
    return found[0], found[1]


def _given(alignment: Alignment) -> tuple[tuple[Event, Event], ...]:
    """Return the arrays that both programs were given, or hold, each torch one with the first of JAX that is equal to it."""
    torch, jax = alignment.torch.events, alignment.jax.events
    leaves = [e for e in torch if e.is_given and e.is_float and e.value.size > 1]
    pairs = ((e, next((jax[j] for j in alignment.partners[0][e.index] if jax[j].is_given), None)) for e in leaves)
    return tuple((t, j) for t, j in pairs if j is not None)


def _outputs(alignment: Alignment) -> dict[str, str]:
    """Return the outputs and gradients that differ, and how."""
    sides = alignment.torch.events, alignment.jax.events
    return {sides[0][a].name: difference(sides[0][a].value, sides[1][b].value).text for a, b in alignment.unequal}


def _apart(alignment: Alignment, choice: Choice) -> Difference:
    """Return how the arrays differ: the pair that a swap proved, which may lie behind the pair that is shown."""
    t, j = (choice.swap.torch, choice.swap.jax) if choice.swap else (choice.torch, choice.jax)
    return difference(alignment.torch.events[t].value, alignment.jax.events[j].value)


def _coverage(side: Recording, partners: list[list[int]]) -> Coverage:
    operations = [event.index for event in side.events if event.is_operation]
    return Coverage(len(operations), sum(1 for i in operations if partners[i]))


def _timeline(alignment: Alignment, choice: Choice | None) -> tuple[TimelineRow, ...]:
    """Return the operations of both sides in order, pairs side by side."""
    moments: list[TimelineRow] = []
    last = -1, -1
    torch, jax = alignment.torch.events, alignment.jax.events
    for i, j in [*alignment.pairs, (len(torch), len(jax))]:
        alone = [(e, None) for e in torch[last[0] + 1 : i]], [(None, e) for e in jax[last[1] + 1 : j]]
        for a, b in [*alone[0], *alone[1]]:
            event = a or b
            if event is not None and event.is_operation:
                partners = alignment.partners[0 if a else 1][event.index]
                first = choice is not None and event.index == (choice.torch if a else choice.jax)
                moments.append(TimelineRow(a, b, bool(partners), first))
        if i < len(torch):
            moments.append(TimelineRow(torch[i], jax[j], True))
        last = i, j
    return tuple(moments)
