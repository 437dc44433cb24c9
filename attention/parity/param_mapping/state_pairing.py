"""State pairing: match running statistics, tables and codebooks of two programs, which are no parameters.

    pairs = paired(first, second, map)          ("bn.running_mean", "bn.mean"): the same module, the same kind
    load="first": second.state[mean] = first.state[running_mean]

A pair is made by the module that the parameter map gives, or else by equal names; what has no counterpart stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from attention.parity.adapters import Arrays, Call, Program
from attention.parity.param_mapping.name_assignment import assign, numbered
from attention.spec.errors import AttentionError

KINDS = {
    "running_mean": "mean",
    "running_var": "var",
    "moving_mean": "mean",
    "moving_variance": "var",
    "moving_var": "var",
    "average": "mean",
    "variance": "var",
}
"""Names of the same statistics in torch, Keras and Haiku, as Flax has them."""
COLLECTIONS = ("batch_stats", "stats", "state", "buffers", "constants")
"""First words of a path in Linen that no parameter has."""
SAME = 1e-6
"""Relative difference of two tables that were computed in other ways and mean the same."""
SHOWN = 3
LOADS = ("first", "second")
MOST_STATE = 16
"""States that are tried whether a program reads them."""

Pairs = tuple[tuple[str, str], ...]
"""Names in the first program and in the second."""


@dataclass(frozen=True, eq=False)
class State:
    """The state of two programs.

    Attributes:
        pairs: names in the first and in the second program.
        programs: both, with the values that the comparison uses.
        notes: lines for the report.
    """

    pairs: Pairs
    programs: tuple[Program, Program]
    notes: tuple[str, ...] = ()

    @property
    def alone(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The numbers that one program holds as state, and no evidence says which of the other's they are."""
        taken = [{pair[side] for pair in self.pairs} for side in (0, 1)]
        found = [
            tuple(name for name, x in each.state.items() if name not in taken[side] and x.dtype.kind == "f" and x.size > 1)
            for side, each in enumerate(self.programs)
        ]
        return found[0], found[1]


def load_state(programs: tuple[Program, Program], labels: tuple[str, str], params: Any, load: str | None) -> State:
    """Return the programs with state that corresponds, and what has to be known of it.

    Args:
        programs: the first and the second.
        labels: what the report calls them.
        params: the map of their parameters, or None.
        load: "first" or "second", whose state is copied onto the other; None leaves both as they are.
    """
    own = (programs[0].state, programs[1].state)
    pairs = tuple(paired(own[0], own[1], params))
    crossed: Pairs = params.state if params is not None else ()
    if load is not None and (taken := carried(programs, crossed, load)[1]):
        told = programs[1 - LOADS.index(load)].holding(taken)
        programs = (programs[0], told) if load == "first" else (told, programs[1])
    apart = {pair: gap for pair in pairs if (gap := _gap(own[0][pair[0]], own[1][pair[1]])) > SAME}
    notes = tuple(_notes(own, pairs, apart, labels, load))
    if load is None or not apart:
        return State(pairs, programs, notes)
    source = LOADS.index(load)
    taken = {pair[1 - source]: own[source][pair[source]].reshape(own[1 - source][pair[1 - source]].shape) for pair in apart}
    told = programs[1 - source].holding(taken)
    return State(pairs, (told, programs[1]) if source else (programs[0], told), notes)


def paired(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray], params: Any = None) -> Iterator[tuple[str, str]]:
    """Yield which state of the first program is which of the second: of one module and kind, or of the same name.

    Args:
        first: by name.
        second: by name.
        params: the map of the parameters, which tells whose modules correspond; None for names alone.
    """
    owners = {_owner(move.first.name): _owner(move.second.name) for move in (params.moves if params is not None else ())}
    rules: tuple[tuple[Callable[[str], Any], Callable[[str], Any]], ...] = (
        (lambda name: (owners.get(_owner(name)), _kind(name)), lambda name: (_owner(name), _kind(name))),
        (lambda name: (_words(_owner(name)), _kind(name)), lambda name: (_words(_owner(name)), _kind(name))),
        # The only ones of their kind and size, whatever holds them.
        (_kind, _kind),
    )
    done: set[str] = set()
    for mine, theirs in rules:
        for name, x in first.items():
            same = [other for other, y in second.items() if theirs(other) == mine(name) and y.size == x.size]
            alike = [other for other, y in first.items() if mine(other) == mine(name) and y.size == x.size]
            if name not in done and len(same) == 1 and same[0] not in done and (mine is not _kind or len(alike) == 1):
                done |= {name, same[0]}
                yield name, same[0]


def crossing(programs: tuple[Program, Program], call: Call, left: tuple[tuple[str, ...], tuple[str, ...]]) -> Pairs:
    """Return which parameters of one program are state of the other: statistics in a tree of JAX beside buffers of torch.

    They are paired by name and size, with state that the outputs depend on: what a program never reads is nobody's counterpart.

    Args:
        programs: the first and the second.
        call: inputs to run both on.
        left: the parameters of both that are no counterparts of parameters.
    """
    found: list[tuple[str, str]] = []
    for side, names in enumerate(left):
        ours, theirs = programs[side].params, programs[1 - side].state
        sizes = {ours[name].size for name in names}
        fitting = [name for name, x in theirs.items() if x.size in sizes and x.size][:MOST_STATE]
        read = [name for name in fitting if _reads(programs[1 - side], name, call)] if names else []
        if not read:
            continue

        mine, other_names = _by_kind([name for name in names if ours[name].size]), _by_kind(read)

        def fits(one: str, other: str, ours: Arrays = ours, theirs: Arrays = theirs, names: Any = (mine, other_names)) -> bool:
            return ours[names[0][one]].size == theirs[names[1][other]].size

        pairs = assign(numbered([*mine]), numbered([*other_names]), fits)
        named = [(mine[name], other_names[other]) for name, (other, score) in pairs.items() if score > 0]
        found += [pair if side == 0 else (pair[1], pair[0]) for pair in named]
    return tuple(found)


def _reads(program: Program, name: str, call: Call) -> bool:
    """Return whether other values of a state change what a program makes."""
    value = program.state[name]
    try:
        made = [each.run(call).outputs for each in (program, program.holding({name: 1.5 * value + 0.5}))]
    except AttentionError:
        return False
    return any(label not in made[1] or not np.array_equal(x, made[1][label], equal_nan=True) for label, x in made[0].items())


def carried(programs: tuple[Program, Program], crossed: Pairs, load: str) -> tuple[Arrays, Arrays]:
    """Return what one program takes over of the other where one's parameter is the other's state: parameters, and state.

    Args:
        programs: the first and the second.
        crossed: names of the first and of the second.
        load: "first" or "second", whose values they are.
    """
    source = LOADS.index(load)
    giver, taker = programs[source], programs[1 - source]
    params, state = dict[str, np.ndarray](), dict[str, np.ndarray]()
    for pair in crossed:
        value, name = {**giver.params, **giver.state}[pair[source]], pair[1 - source]
        into, own = (params, taker.params) if name in taker.params else (state, taker.state)
        into[name] = value.reshape(own[name].shape).astype(own[name].dtype)
    return params, state


def _owner(name: str) -> str:
    """Return the module that an array is of, by its path, without what Linen puts before it."""
    path = re.sub(r"\[(\w+)\]", r".\1", name).split(".")
    return ".".join(path[1:-1] if path[0] in COLLECTIONS and len(path) > 1 else path[:-1])


def _kind(name: str) -> str:
    owner, _, leaf = name.rpartition(".")
    # Haiku calls the averages of both by one name.
    if leaf == "average" and "var" in owner.rpartition("/")[2].rpartition(".")[2]:
        return "var"
    return KINDS.get(leaf, leaf)


def _by_kind(names: list[str]) -> dict[str, str]:
    """Return names by the same names with the last word of `KINDS`: a variance is the running_var of another library."""
    found = {f"{name[: len(name) - len(name.rpartition('.')[2])]}{_kind(name)}": name for name in names}
    return found if len(found) == len(names) else {name: name for name in names}


def _words(owner: str) -> str:
    return re.sub(r"[^a-z0-9]", "", owner.lower())


def _gap(first: np.ndarray, second: np.ndarray) -> float:
    """Return the largest difference of two arrays, as a share of the largest element."""
    one, other = (x.astype(np.float64).ravel() for x in (first, second))
    size = max(float(np.max(np.abs(one), initial=0.0)), float(np.max(np.abs(other), initial=0.0)))
    return float(np.max(np.abs(one - other), initial=0.0)) / size if size else 0.0


def _notes(
    own: tuple[Arrays, Arrays],
    pairs: tuple[tuple[str, str], ...],
    apart: Mapping[tuple[str, str], float],
    labels: tuple[str, str],
    load: str | None,
) -> Iterator[str]:
    if apart:
        names = _few([f"{one} of {labels[0]} and {other} of {labels[1]} (by {gap:.1e})" for (one, other), gap in apart.items()])
        done = f", and is copied from the {load}" if load else ": pass load='first' or load='second' to copy it"
        yield f"state differs in {names}{done}"
    for side, label in enumerate(labels):
        alone = [name for name in own[side] if name not in {pair[side] for pair in pairs}]
        # Where the other program holds no state at all, nothing could have been compared.
        if alone and own[1 - side]:
            yield f"state of {label} without a counterpart in {labels[1 - side]}: {_few(alone)}"


def _few(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
