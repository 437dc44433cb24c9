"""Given: a map that the user writes, or that a dialect's table holds, as moves.

    {"fc.weight": ("fc.kernel", "transpose"), "in_proj_weight": ["q.kernel", "k.kernel", "v.kernel"], "unused": None}
    (dialect, contract)        stored <-> canonical        (dialect, dialect, contract)        stored <-> stored

A table is a function of arrays that computes nothing: given arrays that hold their own addresses, it says where each went.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, cast

import numpy as np

from attention.exchange.dialect import Dialect, write
from attention.parity.adapters import Arrays, Program
from attention.parity.param_mapping.block_moves import Move, Shape
from attention.parity.param_mapping.layout_conventions import preference
from attention.parity.param_mapping.param_map import by_name, faults
from attention.parity.param_mapping.permutation import Pool, moves_of
from attention.parity.param_mapping.shape_layouts import fusions, layouts
from attention.parity.param_mapping.value_search import Moves
from attention.spec.errors import ParamError, shown
from attention.spec.layers.contract import Contract

Line = str | None | list[str] | tuple[Any, ...]
Given = Mapping[str, Line]


def explicit(first: Program, second: Program, given: Given) -> tuple[tuple[Move, ...], frozenset[str]]:
    """Return the moves of a mapping that the user wrote, and the names that it leaves over.

    Args:
        first: the program whose names are the keys.
        second: the other. A value is its name; a name with "transpose", or with the order of axes that `np.transpose`
            takes; a list of names, in the order in which the first's array holds them; or None.
        given: the mapping. A shape that can be had in several ways without an order is read as it is, or by convention.

    Raises:
        ParamError: a name is unknown or used twice, or no reshape and transpose leads from one shape to the other.
    """
    moves = [move for name, line in given.items() if line is not None for move in _line(first, second, name, line)]
    for blocks in (by_name(move.first for move in moves), by_name(move.second for move in moves)):
        for wrong in faults(blocks).values():
            raise ParamError(f"the given map must use each parameter once, not {wrong}")
    return tuple(moves), frozenset(name for name, line in given.items() if line is None and _known(first, name).size)


def _line(first: Program, second: Program, name: str, line: Any) -> Moves:
    start = _known(first, name).shape
    size = len(cast("tuple[Any, ...]", line)) if isinstance(line, (str, list, tuple)) else 0
    if not size or (isinstance(line, tuple) and size != 2):
        raise ParamError(f"{name!r} is given {line!r}, which must be a name, (name, order), a list of names, or None")
    if isinstance(line, list):
        parts = cast("list[str]", line)
        return _parts(name, start, {part: _known(second, part).shape for part in parts}, (first, second))
    other, order = (line, None) if isinstance(line, str) else cast("tuple[str, Any]", line)
    end = _known(second, other).shape
    labels = Pool({name: start}).labels()[name]
    laid = labels if order is None else _transposed(name, labels, order)
    if order is None and laid.size == np.prod(end) and start != end:
        ranked = preference(name, other, (first.framework, second.framework))(layouts(start, end), start, end)
        laid = ranked[0].of(labels, end) if ranked else labels
    moves = moves_of(Pool({name: start}), {other: laid.reshape(end)}) if laid.size == np.prod(end) else None
    if moves is None:
        raise ParamError(f"{name} {start} must be a reshape of {other} {end}, after {order or 'any transpose'}")
    return moves


def _transposed(name: str, labels: np.ndarray, order: object) -> np.ndarray:
    if order == "transpose":
        return labels.T
    if isinstance(order, (tuple, list)):
        axes = cast("Sequence[Any]", order)
        if all(isinstance(axis, int) for axis in axes) and sorted(axes) == list(range(labels.ndim)):
            return labels.transpose(axes)
    raise ParamError(f"order {order!r} of {name} {labels.shape} must be 'transpose' or an order of its {labels.ndim} axes")


def _parts(name: str, shape: Shape, parts: dict[str, Shape], programs: tuple[Program, Program]) -> Moves:
    """Return the moves of an array that holds several of the second's one after another."""
    ways = (programs[1].framework, programs[0].framework)
    moves = next(fusions(name, shape, parts, preference(next(iter(parts)), name, ways)), None)
    if moves is None:
        sizes = ", ".join(f"{part} {end}" for part, end in parts.items())
        raise ParamError(f"{name} {shape} must be what {sizes} are, one after another along one axis")
    return tuple(move.inverse for move in moves)


def _known(program: Program, name: str) -> np.ndarray:
    if name not in program.params:
        close = get_close_matches(str(name), program.params, n=3) or list(program.params)[:3]
        raise ParamError(
            f"{shown(name)} must be a parameter of {program.name}, such as {', '.join(close) or 'none: it has none'}"
        )
    return program.params[name]


def table(first: Program, second: Program, tables: Sequence[Dialect], contract: Contract) -> tuple[Move, ...]:
    """Return the moves that dialects' tables say, for every layer of the contract that both programs hold.

    Args:
        first: a program.
        second: another.
        tables: the dialects of the first and of the second; with one alone, the other program has the canonical names.
        contract: gives the canonical shapes.

    Raises:
        ParamError: neither reading finds a layer, or the programs hold different numbers of them.
    """
    canonical = Pool({name: param.shape for name, param in contract.params.items()})
    named = [write(canonical.labels(), dialect, contract) for dialect in tables]
    sides = (named[0], canonical.labels()) if len(named) == 1 else (named[0], named[1])
    for ours, theirs in (sides, sides[::-1]) if len(named) == 1 else (sides,):
        at = _prefixes(first.params, ours), _prefixes(second.params, theirs)
        if at[0] and len(at[0]) == len(at[1]):
            return tuple(move for a, b in zip(*at, strict=True) for move in _composed(ours, theirs, a, b))
    wanted = [", ".join(f"{name} {labels.shape}" for name, labels in side.items()) for side in sides]
    raise ParamError(f"{first.name} and {second.name} must hold equally often, under any prefix, {wanted[0]} and {wanted[1]}")


def _prefixes(params: Arrays, wanted: Arrays) -> list[str]:
    """Return the prefixes under which a program holds all these arrays, in the program's order."""
    some = next(iter(wanted))
    prefixes = [name.removesuffix(some) for name in params if name.endswith(some)]
    shapes = {name: array.shape for name, array in params.items()}
    return [at for at in prefixes if all(shapes.get(at + name) == labels.shape for name, labels in wanted.items())]


def _composed(ours: Arrays, theirs: Arrays, at: str, to: str) -> Moves:
    """Return the moves between two readings of the same labels."""
    pool = Pool({at + name: labels.shape for name, labels in ours.items()})
    address = np.empty(int(pool.starts[-1]), int)
    for name, own in pool.labels().items():
        address[ours[name.removeprefix(at)].ravel()] = own.ravel()
    return moves_of(pool, {to + name: address[labels] for name, labels in theirs.items()}) or ()
