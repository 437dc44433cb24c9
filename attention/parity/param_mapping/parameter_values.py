"""Parameter values of both programs: copied from one to the other through the map, or checked to be equal.

load="first":  second = forward(first)        load="second":  first = backward(second)        None: they must be equal
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from attention.parity.adapters import Arrays, Call, Program
from attention.parity.param_mapping.map_table import snippet
from attention.parity.param_mapping.result_pairing import names_of
from attention.parity.param_mapping.state_pairing import SAME, carried, load_state
from attention.spec.errors import OptionError, ParamError, shown
from attention.spec.storage.disk import brief

if TYPE_CHECKING:
    from attention.parity.param_mapping.param_map import ParamMap

LOADS = (None, "first", "second")


@dataclass(frozen=True, eq=False)
class ParameterValues:
    """The parameters of both programs.

    Attributes:
        map: how they belong together; None if one program has none.
        values: of the first and of the second program, all of them.
        notes: lines for the report.
        failure: why the programs cannot be compared with these values, or "".
        open: what no evidence says of the map, where that is why they cannot be compared.
    """

    map: ParamMap | None
    values: tuple[Arrays, Arrays]
    notes: tuple[str, ...] = ()
    failure: str = ""
    open: tuple[str, ...] = ()


def resolve_values(
    programs: tuple[Program, Program], labels: tuple[str, str], call: Call, given: Any, load: str | None
) -> ParameterValues:
    """Return the values that both programs run with.

    Args:
        programs: the first and the second.
        labels: what the report calls them.
        call: inputs for functional evidence.
        given: a ParamMap, a mapping of names, a weight map, or None if the map is to be solved.
        load: whose values are copied onto the other.

    Raises:
        OptionError: `load` is none of `LOADS`.
        ParamError: the map that is given does not fit.
    """
    if load not in LOADS:
        raise OptionError(f"load {shown(load)} must be None, 'first' or 'second'")
    own = (programs[0].params, programs[1].params)
    for label, params in zip(labels, own, strict=True):
        clashes = sorted(call.leaves.keys() & params.keys())
        if clashes:
            raise OptionError(
                f"inputs {', '.join(clashes)} must not be called as parameters of {label} are: give them by position"
            )
    if not all(own):
        return ParameterValues(None, own, _alone(labels, own))
    from attention.parity.param_mapping import match  # noqa: PLC0415 - a pair without parameters does not need it

    try:
        found = match(programs[0], programs[1], call, given=given)
    except ParamError as error:
        if given is not None:
            raise
        return ParameterValues(None, own, failure=f"parameters of {labels[0]} and {labels[1]} cannot be matched: {error}")
    notes = _notes(found, labels, own)
    if not found.moves:
        return ParameterValues(
            None, own, notes, f"no parameter of {labels[0]} ({_few(own[0])}) fits any of {labels[1]} ({_few(own[1])})"
        )
    values = (
        {**own[0], **({**found.backward(own[1]), **carried(programs, found.state, load)[0]} if load == "second" else {})},
        {**own[1], **({**found.forward(own[0]), **carried(programs, found.state, load)[0]} if load == "first" else {})},
    )
    differing = {} if load else _differing(found, *values)
    # Two programs that run with their own values need a map for their gradients alone.
    if found.open and (load or differing):
        return ParameterValues(found, values, notes, _open(found), found.open)
    failure = (
        f"values of {_few(differing)} differ between {labels[0]} and {labels[1]}:"
        " pass load='first' or load='second' to copy those of one onto the other"
    )
    return ParameterValues(found, values, notes, failure if differing else "")


def _open(found: ParamMap) -> str:
    """Return what is open of a map, and how to say it."""
    said = "; ".join(brief(line, 120) for line in found.open[:2])
    more = f"; and {len(found.open) - 2} more" if len(found.open) > 2 else ""
    return f"cannot compare: the parameter map is open: {said}{more}. Say it, as in params={brief(snippet(found), 120)}"


def alike(programs: tuple[Program, Program], call: Call, given: Any, load: str | None) -> tuple[Program, Program]:
    """Return the programs, each with the values and the state that `load` says; as they are if it is None.

    Args:
        programs: the first and the second.
        call: inputs for functional evidence.
        given: a ParamMap, a mapping of names, a weight map, or None if the map is to be solved.
        load: whose values are copied onto the other.

    Raises:
        OptionError: `load` is none of `LOADS`.
        ParamError: the parameters cannot be matched.
    """
    if load is None:
        return programs
    labels = "the first side", "the second side"
    known = resolve_values(programs, labels, call, given, load)
    if known.failure:
        raise ParamError(known.failure)
    first, second = load_state(programs, labels, known.map, load).programs
    return first.loaded(known.values[0]), second.loaded(known.values[1])


def _differing(found: ParamMap, first: Arrays, second: Arrays) -> dict[str, float]:
    """Return the largest difference of each parameter whose values differ once both are in the coarser of their dtypes."""
    worst: dict[str, float] = {}
    sums = {move.second.name for move in found.added}, {move.first.name for move in found.parted}
    whole = found.forward(first) if sums[0] else {}, found.backward(second) if sums[1] else {}
    for side, own in enumerate((second, first)):
        for name in sums[side]:
            gap = np.abs(whole[side][name].astype(np.float64) - own[name])
            # A sum is rounded once, here or there.
            if float(np.max(gap, initial=0.0)) > SAME * float(np.max(np.abs(own[name]), initial=0.0)):
                worst[name] = float(np.max(gap))
    for move in (*found.moves, *found.copies):
        if move.second.name in sums[0] or move.first.name in sums[1]:
            continue
        one, other = move.forward(move.first.of(first[move.first.name])), move.second.of(second[move.second.name])
        if one.dtype == other.dtype and np.array_equal(one, other):
            continue
        coarse = min(one.dtype, other.dtype, key=lambda dtype: dtype.itemsize)
        one, other = (x.astype(coarse).astype(np.float64) for x in (one, other))
        if not np.array_equal(one, other, equal_nan=True):
            worst[move.second.name] = max(worst.get(move.second.name, 0.0), float(np.nanmax(np.abs(one - other))))
    return {name: worst[name] for name in (*second, *first) if name in worst}


def _notes(found: ParamMap, labels: tuple[str, str], own: tuple[Arrays, Arrays]) -> tuple[str, ...]:
    counts = [len(names_of(found, side)) - len(found.left_over[side]) for side in (0, 1)]
    told = [f"parameters: {counts[0]} of {len(own[0])} of {labels[0]}, {counts[1]} of {len(own[1])} of {labels[1]} matched"]
    stated = {name for pair in found.state for name in pair}
    for label, left in zip(labels, found.left_over, strict=True):
        names = [name for name in left if name not in stated]
        told += [f"parameters left over in {label}, their gradients not compared: {', '.join(names)}"] if names else []
    told += [
        f"{one} of {labels[0]} is {other} of {labels[1]}: a parameter of one, state of the other" for one, other in found.state
    ]
    return (*told, *(f"parameters that no evidence tells apart: {tie}" for tie in found.ties))


def _alone(labels: tuple[str, str], own: tuple[Arrays, Arrays]) -> tuple[str, ...]:
    """Return the note on parameters that only one program has."""
    if not any(own):
        return ()
    side = 0 if own[0] else 1
    return (f"parameters of {labels[side]} ({_few(own[side])}) are not compared: {labels[1 - side]} has none",)


def _few(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
