r"""Maps that a user writes, that a framework's own table holds, or that a dialect's table holds, as moves.

    {"fc.weight": ("fc.kernel", "transpose"), "in_proj_weight": ["q.kernel", "k.kernel", "v.kernel"], "unused": None}
    {"layers.{i}.fc.weight": "blocks_{i}.fc.kernel"}                    for every number i
    {"layers.{i}.fc.weight": "blocks.fc.kernel"}                        all numbers, stacked along the first axis
    {("q.weight", "k.weight", "v.weight"): "qkv.kernel"}                one after another
    {r"layers\.(\d+)\.fc\.weight": (r"layers.\1.fc.w", ((1, 0), None))}  a regular expression, a transpose and a reshape
    [("fc.weight", "fc.kernel")]                                        pairs
    (dialect, contract)        stored <-> canonical        (dialect, dialect, contract)        stored <-> stored

A table is a function of arrays that computes nothing: given arrays that hold their own addresses, it says where each went.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from itertools import zip_longest
from typing import Any, cast

import numpy as np

from attention.exchange.dialect import Dialect, write
from attention.parity.adapters import Arrays, Program
from attention.parity.param_mapping.block_moves import Move, simplified
from attention.parity.param_mapping.layout_conventions import preference
from attention.parity.param_mapping.param_map import by_name, faults
from attention.parity.param_mapping.permutation import Pool, moves_of
from attention.parity.param_mapping.shape_layouts import fusions, layouts
from attention.parity.param_mapping.value_search import Moves
from attention.spec.errors import ParamError, shown
from attention.spec.layers.contract import Contract

Line = str | None | list[str] | tuple[Any, ...]
Given = Mapping[Any, Line]


def explicit(
    first: Program, second: Program, given: Given | Sequence[tuple[Any, Any]]
) -> tuple[tuple[Move, ...], frozenset[str]]:
    """Return the moves of a mapping that the user wrote, and the names that it leaves over.

    Args:
        first: the program whose names are the keys; the other's are the values, or the other way round.
        second: the other program.
        given: the mapping, or pairs. A key is a name, a name with numbers in braces, a regular expression, or a tuple of names. A
            value is a name; a name with "transpose", with the order of axes that `np.transpose` takes, or with a pair of
            such an order and a shape; a list of names, in the order in which the first's array holds them; or None. A shape
            that can be had in several ways without an order is read as it is, or by convention.

    Raises:
        ParamError: a name is unknown or used twice, or no reshape and transpose leads from one shape to the other.
    """
    lines = list(given.items()) if isinstance(given, Mapping) else [(pair[0], pair[1]) for pair in given]
    if lines and not any(_matches(first, key) for key, _ in lines) and all(_matches(second, key) for key, _ in lines):
        moves, apart = explicit(second, first, given)
        return tuple(move.inverse for move in moves), frozenset(apart)
    moves = [move for key, line in lines if line is not None for move in _lines(first, second, key, line)]
    for blocks in (by_name(move.first for move in moves), by_name(move.second for move in moves)):
        for wrong in faults(blocks).values():
            raise ParamError(f"the given map must use each parameter once, not {wrong}")
    return tuple(moves), frozenset(name for key, line in lines if line is None for name, _ in _named(first, key))


Found = Callable[[str], str]
"""Fills what a key matched into a name of the other program."""


def _matches(program: Program, key: Any) -> list[tuple[str, Found]]:
    """Return the parameters that a key names, each with what fills the numbers that it matched into another name."""
    if not isinstance(key, str):
        return [found for each in key for found in _matches(program, each)] if isinstance(key, tuple) else []
    known = _canonical(program)
    if _plain(key) in known:
        return [(known[_plain(key)], lambda text: text)]
    braces = re.findall(r"\{(\w+)\}", key)
    pattern = key
    if braces:
        pieces = re.split(r"\{\w+\}", _plain(key))
        names = [f"(?P<{name}>\\d+)" if name not in braces[:at] else f"(?P={name})" for at, name in enumerate(braces)]
        pattern = "".join(re.escape(piece) + name for piece, name in zip_longest(pieces, names, fillvalue=""))
    try:
        hits = [(name, hit) for plain, name in known.items() if (hit := re.fullmatch(pattern, plain))]
    except re.error:
        return []
    return [(name, partial(_filled, hit, braces)) for name, hit in sorted(hits, key=lambda each: _order(each[1]))]


def _order(hit: re.Match[str]) -> tuple[int, ...]:
    return tuple(int(group) for group in hit.groups() if group and group.isdigit())


def _filled(hit: re.Match[str], braces: Sequence[str], text: str) -> str:
    if braces:
        for name in braces:
            text = text.replace(f"{{{name}}}", hit[name])
        return text
    try:
        return hit.expand(text)
    except (re.error, IndexError) as error:
        raise ParamError(f"{shown(text)} must be filled by what {shown(hit.re.pattern)} matches: {error}") from None


def _plain(name: str) -> str:
    """Return a name as it is spelt with dots alone: layers[0].kernel and layers/0/kernel are layers.0.kernel."""
    return re.sub(r"[\[\]/']+", ".", name).strip(".").replace("..", ".") if not set("\\(*+^$") & {*name} else name


def _canonical(program: Program) -> dict[str, str]:
    return {_plain(name): name for name in program.params}


def _named(program: Program, key: Any) -> list[tuple[str, Found]]:
    """Return what a key names.

    Raises:
        ParamError: it names nothing.
    """
    several: tuple[Any, ...] = key if isinstance(key, tuple) else (key,)
    found = [_matches(program, each) for each in several]
    for each, hits in zip(several, found, strict=True):
        if not hits:
            _ = _known(program, each)
    return [hit for hits in found for hit in hits]


def _lines(first: Program, second: Program, key: Any, line: Any) -> list[Move]:
    """Return the moves of one line."""
    names = _named(first, key)
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
        several = [name for name, _ in _named(second, ends[0])]
        return [move.inverse for move in _joined(second, first, several, names[0][0], None, stacked=True)]
    return [
        move
        for (name, _), end in zip(names, ends, strict=True)
        for move in _line(first, second, name, (end, line[1]) if isinstance(line, tuple) else end)
    ]


def _line(first: Program, second: Program, name: str, line: Any) -> Moves:
    start = _known(first, name).shape
    other, order = (line, None) if isinstance(line, str) else cast("tuple[str, Any]", line)
    other = _spelt(second, other)
    end = _known(second, other).shape
    if _is_pair(order):
        order, shape = order
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
    names, whole = [_spelt(first, name) for name in names], _spelt(second, whole)
    shape, parts = _known(second, whole).shape, {name: _known(first, name).shape for name in names}
    best = preference(names[0], whole, (first.framework, second.framework))
    axes = int(stacked and shape[:1] == (len(names),))
    if _is_pair(order):
        order, end = order
        if end is not None and tuple(end) != shape[axes:]:
            raise ParamError(f"shape {end} of {names[0]} must be {shape[axes:]}, that of a layer of {whole}")
    wanted = tuple(reversed(range(len(parts[names[0]])))) if order == "transpose" else order
    for moves in fusions(whole, shape, parts, best, stacked=axes):
        if wanted is None or (moves[0].axes, moves[0].order) == simplified(parts[names[0]], tuple(wanted)):
            return moves
    sizes = ", ".join(f"{part} {end}" for part, end in list(parts.items())[:4])
    raise ParamError(f"{whole} {shape} must be what {sizes} are, one after another along one axis")


def _spelt(program: Program, name: str) -> str:
    return _canonical(program).get(_plain(name), name)


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
