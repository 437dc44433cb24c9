"""Ambiguous parameter maps: locate the divergence under the likeliest map, and decide whether the trace confirms that map.

    established    <=>    each use of a doubtful parameter (`ParamMap.provable`) makes an array that the other program makes

Until it is, a line is shown under the likeliest map, but that the programs differ is not said.
"""

# Programs are whatever their users brought, of types that strict mode cannot know.
# pyright: standard

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from attention.parity.adapters.inputs import call_of
from attention.parity.param_mapping import ParamMap, match
from attention.parity.tracing import Divergence, locate
from attention.spec.errors import AttentionError

EXPLAINED = 0.9995
"""The share of the error that is all of it."""
EVIDENCE = 5
"""So many operations must agree for what they are made from to be the same."""


@dataclass(frozen=True, eq=False)
class OpenMapResult:
    """What the likeliest of the open maps shows.

    Attributes:
        divergence: where the programs part, or None if that is not clear enough to be shown.
        notes: what must be known about it.
        map: the map, if the trace establishes it.
    """

    divergence: Divergence | None = None
    notes: tuple[str, ...] = ()
    map: ParamMap | None = None


def likeliest(torch_side: Any, jax_side: Any, inputs: Any, dtype: str, *, params: Any, **more: Any) -> OpenMapResult:
    """Return where two programs part under the likeliest of the maps that are open.

    A wrong map is wrong in many places; so the place is shown if the trace establishes the map, if most operations agree, or if
    one place alone explains all that differs, and much is computed after it.
    """
    try:
        found = match(torch_side, jax_side, call_of(inputs), given=params)
    except AttentionError:
        return OpenMapResult()
    if not found.open:
        return OpenMapResult()
    likely = replace(found, open=(), ties=(), provable=())
    divergence, notes = located(torch_side, jax_side, inputs, dtype, differs=True, params=likely, **more)
    if divergence is None or not divergence.found:
        return OpenMapResult()
    told = f"matched torch {divergence.coverage[0]}, jax {divergence.coverage[1]}"
    if found.provable and divergence.confirmed.issuperset(found.provable):
        note = (
            f"parameter map: what was open is shown by the trace: {told}, every use of {', '.join(found.provable)} among them"
        )
        return OpenMapResult(divergence, (note, *notes), likely)
    proven = all(each.kind != "unproven" for each in divergence.all)
    alone = len(divergence.all) == 1 and divergence.share >= EXPLAINED and _after(divergence) >= EVIDENCE
    if not proven or not (alone or all(2 * side.matched > side.operations for side in divergence.coverage)):
        note = f"not located: under the likeliest parameter map, the programs differ in more than one place ({told})"
        return OpenMapResult(None, (note,))
    note = f"located under the likeliest parameter map, which is not established: {told}; params= says which parameter is which"
    return OpenMapResult(replace(divergence, notes=(note, *divergence.notes)), (note, *notes))


def _after(divergence: Divergence) -> int:
    """Return how many operations follow the arrays that were put in each other's place, in the program that has fewer."""
    if divergence.ends is None:
        return 0
    later = [0, 0]
    for moment in divergence.timeline:
        for side, (event, end) in enumerate(zip((moment.torch, moment.jax), divergence.ends, strict=True)):
            later[side] += event is not None and event.is_operation and event.index > end.index
    return min(later)


def located(
    torch_side: Any, jax_side: Any, inputs: Any, dtype: str, *, differs: bool, **more: Any
) -> tuple[Divergence | None, tuple[str, ...]]:
    """Return where two programs part, and what must be known about the looking.

    In float64 first, where rounding hides nothing; in the dtype of the comparison where a program cannot run in float64, or
    where it is a rounding that they do not share.
    """
    found, notes = None, []
    for each in dict.fromkeys(("float64", dtype)):
        try:
            found = locate(torch_side, jax_side, inputs, dtype=each, **more)
        except AttentionError as error:
            notes.append(f"not traced in {each}: {error}")
            continue
        if found.found or not differs:
            break
        notes.append(f"traced in {each}, the programs do not part: what differs is rounding, or lies beyond what was traced")
    return found, tuple(notes)
