r"""Maps that a user writes, or that a framework's own table holds, as moves.

{"fc.weight": ("fc.kernel", "transpose"), "in_proj_weight": ["q.kernel", "k.kernel", "v.kernel"], "unused": None}
{"layers.{i}.fc.weight": "blocks_{i}.fc.kernel"}                    for every number i
{"layers.{i}.fc.weight": "blocks.fc.kernel"}                        all numbers, stacked along the first axis
{("q.weight", "k.weight", "v.weight"): "qkv.kernel"}                one after another
{r"layers\.(\d+)\.fc\.weight": (r"layers.\1.fc.w", ((1, 0), None))}  a regular expression, a transpose and a reshape
[("fc.weight", "fc.kernel")]                                        pairs
"""

# A given map may hold anything.
# pyright: standard

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from attention.parity.adapters import Program
from attention.parity.param_mapping.block_moves import Move, simplified
from attention.parity.param_mapping.fused_layouts import fusions
from attention.parity.param_mapping.layout_conventions import preference
from attention.parity.param_mapping.name_patterns import known, matches, named, spelt_as
from attention.parity.param_mapping.param_map import by_name, faults
from attention.parity.param_mapping.permutation import Pool, moves_of
from attention.parity.param_mapping.shape_layouts import layouts
from attention.parity.param_mapping.value_search import Moves
from attention.spec.errors import ParamError

Line = str | None | list[str] | tuple[Any, ...]
Given = Mapping[Any, Line]


def explicit(
    first: Program, second: Program, given: Given | Sequence[tuple[Any, Any]]
) -> tuple[tuple[Move, ...], frozenset[str]]:
    """Return the moves of a mapping that the user wrote, and the names that it leaves over.

    Args:
        first: the program whose names are the keys; the other's are the values, or the other way round.
        second: the other program.
        given: the mapping, or pairs. A key is a name, one with numbers in braces, a regular expression, or a tuple of names. A
            value is a name; a name with "transpose", with the order of axes that `np.transpose` takes, or with a pair of
            such an order and a shape; a list of names, in the order in which the first's array holds them; or None. A shape
            that can be had in several ways without an order is read as it is, or by convention.

    Raises:
        ParamError: a name is unknown or used twice, or no reshape and transpose leads from one shape to the other.
    """
    lines = list(given.items()) if isinstance(given, Mapping) else [(pair[0], pair[1]) for pair in given]
    if lines and not any(matches(first, key) for key, _ in lines) and all(matches(second, key) for key, _ in lines):
        moves, apart = explicit(second, first, given)
        return tuple(move.inverse for move in moves), frozenset(apart)
    moves = [move for key, line in lines if line is not None for move in _lines(first, second, key, line)]
    for blocks in (by_name(move.first for move in moves), by_name(move.second for move in moves)):
        for wrong in faults(blocks).values():
            raise ParamError(f"the given map must use each parameter once, not {wrong}")
    return tuple(moves), frozenset(name for key, line in lines if line is None for name, _ in named(first, key))


def _lines(first: Program, second: Program, key: Any, line: Any) -> list[Move]:
    """Return the moves of one line."""
    names = named(first, key)
    size = len(cast("tuple[Any, ...]", line)) if isinstance(line, (str, list, tuple)) else 0
    if not size or (isinstance(line, tuple) and size != 2):
        raise ParamError(f"{key!r} is given {line!r}, which must be a name, (name, order), a list of names, or None")
    target = line[0] if isinstance(line, tuple) else line
    if not isinstance(target, str):
        return [
            move
            for name, fill in names
            for move in _parts(first, second, name, [fill(str(part)) for part in cast("Any", target)])
        ]
    ends = [fill(target) for _, fill in names]
    if len({*ends}) == 1 and len(names) > 1:
        order = line[1] if isinstance(line, tuple) else None
        return list(_joined(first, second, [name for name, _ in names], ends[0], order, stacked=not isinstance(key, tuple)))
    if len(names) == 1 and "{" in ends[0]:
        several = [name for name, _ in named(second, ends[0])]
        return [move.inverse for move in _joined(second, first, several, names[0][0], None, stacked=True)]
    return [
        move
        for (name, _), end in zip(names, ends, strict=True)
        for move in _line(first, second, name, (end, line[1]) if isinstance(line, tuple) else end)
    ]


def _line(first: Program, second: Program, name: str, line: Any) -> Moves:
    start = known(first, name).shape
    other, order = (line, None) if isinstance(line, str) else cast("tuple[str, Any]", line)
    other = spelt_as(second, other)
    end = known(second, other).shape
    if _is_pair(order):
        order, shape = cast("tuple[Any, Any]", order)
        if shape is not None and tuple(shape) != end:
            raise ParamError(f"shape {shape} of {name} must be {end} as {other} of {second.name} is")
        order = tuple(range(len(start))) if order is None else order
    labels = Pool({name: start}).labels()[name]
    laid = labels if order is None else _transposed(name, labels, order)
    if order is None and laid.size == np.prod(end) and start != end:
        ranked = preference(name, other, (first.framework, second.framework))(layouts(start, end), start, end)
        laid = ranked[0].of(labels, end) if ranked else labels
    moves = moves_of(Pool({name: start}), {other: laid.reshape(end)}) if laid.size == np.prod(end) else None
    if moves is None:
        raise ParamError(f"{name} {start} must be a reshape of {other} {end}, after {order or 'any transpose'}")
    return moves


def _is_pair(order: Any) -> bool:
    """Return whether an order is a pair of an order and a shape, either of which may be None."""
    return (
        isinstance(order, tuple) and len(order) == 2 and any(each is None or isinstance(each, (tuple, list)) for each in order)
    )  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def _transposed(name: str, labels: np.ndarray, order: object) -> np.ndarray:
    if order == "transpose":
        return labels.T
    if isinstance(order, (tuple, list)):
        axes = cast("Sequence[Any]", order)
        if all(isinstance(axis, int) for axis in axes) and sorted(axes) == list(range(labels.ndim)):
            return labels.transpose(axes)
    raise ParamError(f"order {order!r} of {name} {labels.shape} must be 'transpose' or an order of its {labels.ndim} axes")


def _parts(first: Program, second: Program, name: str, parts: list[str]) -> Moves:
    """Return the moves of an array that holds several of the second's one after another."""
    moves = _joined(second, first, parts, name, None, stacked=False)
    return tuple(move.inverse for move in moves)


def _joined(first: Program, second: Program, names: list[str], whole: str, order: Any, *, stacked: bool) -> Moves:
    """Return the moves of several arrays of the first into one of the second, stacked or one after another.

    Raises:
        ParamError: the sizes do not fit, or no layout has this order.
    """
    names, whole = [spelt_as(first, name) for name in names], spelt_as(second, whole)
    shape, parts = known(second, whole).shape, {name: known(first, name).shape for name in names}
    best = preference(names[0], whole, (first.framework, second.framework))
    axes = int(stacked and shape[:1] == (len(names),))
    if _is_pair(order):
        order, end = cast("tuple[Any, Any]", order)
        if end is not None and tuple(end) != shape[axes:]:
            raise ParamError(f"shape {end} of {names[0]} must be {shape[axes:]}, that of a layer of {whole}")
    wanted = tuple(reversed(range(len(parts[names[0]])))) if order == "transpose" else order
    for moves in fusions(whole, shape, parts, best, stacked=axes):
        if wanted is None or (moves[0].axes, moves[0].order) == simplified(parts[names[0]], tuple(wanted)):
            return moves
    sizes = ", ".join(f"{part} {end}" for part, end in list(parts.items())[:4])
    raise ParamError(f"{whole} {shape} must be what {sizes} are, one after another along one axis")
