"""Pair the parts of two models that are compared one by one, from the parameter map and the module tree of the first.

    Unit("model.layers.3", "layers.3")        a repeated block, or a part beside the blocks, and its counterpart

Blocks are numbered submodules: the members of a list, or attributes such as `layer_0`, `layer_1`. The counterpart of a part is
a module of the other model that holds all parameters which the map gives for those of the part, and no others. Several nested
modules may: the outermost is tried first, since a part also does what has no parameters.
"""

# Modules come from users, with types that strict mode cannot know.
# pyright: standard

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import takewhile

from attention.parity.param_mapping import ParamMap


@dataclass(frozen=True)
class Unit:
    """A part of the first model and its counterpart.

    Attributes:
        first: its path in the first model.
        second: that of its counterpart in the second.
        params: the map of their parameters, by the names within each.
    """

    first: str
    second: str
    params: ParamMap


def parts(modules: Mapping[str, object], params: Iterable[str]) -> Iterator[str]:
    """Yield the paths of a model's parts, in the order of its modules: blocks, and the parts beside them.

    Args:
        modules: every module by its path, "" the model itself.
        params: the names of the parameters.
    """
    names = tuple(params)
    blocks = outermost(numbered(modules))

    def walk(path: str) -> Iterator[str]:
        if path in blocks:
            yield path
        elif any(block.startswith(f"{path}." if path else "") for block in blocks):
            for child in children(modules, path):
                yield from walk(child)
        elif path and any(name.startswith(f"{path}.") for name in names):
            yield path

    if blocks:
        yield from walk("")
    else:
        for child in children(modules, ""):
            yield from walk(child)


def numbered(modules: Mapping[str, object]) -> set[str]:
    """Return the paths of numbered siblings: members of a list, or attributes that differ in a number and share a class."""
    groups: dict[tuple[str, type], list[str]] = {}
    for path in modules:
        parent, _, last = path.rpartition(".")
        if found := re.fullmatch(r"(.*?)(\d+)", last):
            stem = f"{parent}.{found[1]}" if parent else found[1]
            # A list may hold blocks of several classes; attributes of one stem and several classes are no list.
            kind = type(modules[path]) if found[1] else object
            groups.setdefault((stem, kind), []).append(path)
    return {path for paths in groups.values() if len(paths) > 1 or paths[0].rpartition(".")[2].isdigit() for path in paths}


def outermost(paths: Iterable[str]) -> set[str]:
    """Return those of the paths that lie in none of the others."""
    found = set(paths)
    return {path for path in found if not any(other != path and path.startswith(f"{other}.") for other in found)}


def children(modules: Mapping[str, object], path: str) -> list[str]:
    """Return the paths of the direct children of a module."""
    depth = path.count(".") + 1 if path else 0
    return [other for other in modules if other.startswith(f"{path}." if path else "") and other and other.count(".") == depth]


def units(paths: Iterable[str], found: ParamMap, modules: Mapping[str, object]) -> tuple[list[list[Unit]], list[str]]:
    """Return each part with its counterparts, the outermost first, and a line for each part that has none.

    Args:
        paths: of the parts of the first model.
        found: the parameter map.
        modules: every module of the second model by its path.
    """
    made: list[list[Unit]] = []
    notes: list[str] = []
    every = {move.second.name for move in found.moves}
    for path in paths:
        moves = [move for move in found.moves if move.first.name.startswith(f"{path}.")]
        others = counterparts({move.second.name for move in moves}, every, modules)
        left = [name for name in found.left_over[0] if name.startswith(f"{path}.")]
        if not others:
            why = (
                "no module of the other model holds its parameters and no others"
                if moves
                else "none of its parameters is mapped"
            )
            notes.append(f"{path} was not compared by itself: {why}")
            continue
        notes += [f"{path}: {', '.join(left[:3])} of it are left over in the map"] if left else []
        made.append([Unit(path, other, within(found, path, other, moves)) for other in others])
    return made, notes


def counterparts(names: set[str], every: set[str], modules: Mapping[str, object]) -> list[str]:
    """Return the paths of the modules that hold these of all parameters and no others, the outermost first.

    >>> counterparts({"a.0.k", "a.0.b"}, {"a.0.k", "a.0.b", "a.1.k"}, dict.fromkeys(["a", "a.0"]))
    ['a.0']
    """
    split = [name.split(".") for name in names]
    if not split:
        return []
    common = [parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, zip(*split, strict=False))]
    prefixes = [".".join(common[:end]) for end in range(1, min(len(common), min(map(len, split)) - 1) + 1)]
    return [path for path in prefixes if path in modules and {name for name in every if name.startswith(f"{path}.")} == names]


def within(found: ParamMap, first: str, second: str, moves: list) -> ParamMap:
    """Return the map of two parts, by the names that their parameters have in a module that holds the part as `block`."""

    def renamed(move):
        ends = ((move.first, first), (move.second, second))
        one, other = (replace(block, name=f"block.{block.name.removeprefix(f'{path}.')}") for block, path in ends)
        return replace(move, first=one, second=other)

    ends = [f"{path}." if path else "" for path in (first, second)]
    copies = [copy for copy in found.copies if copy.first.name.startswith(ends[0]) and copy.second.name.startswith(ends[1])]
    return ParamMap(tuple(map(renamed, moves)), tuple(map(renamed, copies)))
