"""Find the arrays of one program that hold all layers of the other along a leading axis, as `scan` and `vmap` keep them.

    blocks.kernel (L, M, F)                      <->    blocks.0.kernel, ..., blocks.L-1.kernel (M, F)
    experts.w1 (L, E, M, F)                      <->    layers.i.experts.e.w1 (M, F)
    pattern_0.kernel, pattern_1.kernel (L/2, ..) <->    layers.i.kernel, by i modulo 2

Sizes that coincide are no evidence. Layers are stacked only if every array of theirs is, biases included, all layers take part,
in order, in equal shapes, and the other program does not hold the layers one by one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, islice

from attention.parity.adapters import Arrays
from attention.parity.param_mapping.block_moves import Shape
from attention.parity.param_mapping.candidates import Best, Entry, backward
from attention.parity.param_mapping.fused_layouts import fusions
from attention.parity.param_mapping.name_assignment import assign, numbered, spelt
from attention.parity.param_mapping.shape_layouts import layouts

MOST_NUMBERS = 4
"""Numbers of a name that are tried as layer numbers."""
MOST_PERIOD = 8
"""How many unlike layers a repeated pattern has at the most."""
MOST_CHOICES = 48
"""How many layouts of a stack are kept."""


@dataclass(frozen=True)
class Group:
    """Arrays that differ in layer numbers alone.

    Attributes:
        text: their name without these numbers, but for the place in a repeated pattern.
        names: in the order of the numbers.
        axes: how many layers each number counts.
    """

    text: str
    names: tuple[str, ...]
    axes: Shape


def stacks(first: Arrays, second: Arrays, best: Best) -> list[Entry]:
    """Return the entries of arrays of either program that hold all layers of the other.

    Args:
        first: the first program's parameters that are left.
        second: the second's.
        best: the preference among layouts, by the names of two parameters.
    """
    found: list[Entry] = []
    for flipped in (False, True):
        singles, wholes = (second, first) if not flipped else (first, second)
        for groups in _containers(singles):
            used = {block.name for entry in found for m in entry.choices[0] for block in (m.first, m.second)}
            if any(name in used for group in groups for name in group.names):
                continue
            pairs, evidence = _paired(groups, singles, {name: x for name, x in wholes.items() if name not in used})
            found += [_entry(group, whole, (singles, wholes), best, evidence, flipped=flipped) for group, whole in pairs]
    return found


def _containers(singles: Arrays) -> Iterator[list[Group]]:
    """Yield the groups of each list of layers, those that several numbers count first; then in each period."""
    pieces = {name: spelt(name) for name in singles}
    digits = {name: [at for at, piece in enumerate(said) if piece.isdigit()][:MOST_NUMBERS] for name, said in pieces.items()}
    for count in (3, 2, 1):
        lists: dict[tuple[object, ...], dict[str, tuple[int, ...]]] = {}
        for name, said in pieces.items():
            for places in combinations(digits[name], count):
                # The experts of every layer are one list of lists.
                stem = enumerate(said[: places[-1] + 1])
                prefix = tuple("*" if at in places else "#" if piece.isdigit() else piece for at, piece in stem)
                lists.setdefault((places, prefix), {})[name] = tuple(int(said[at]) for at in places)
        for (places, _), members in lists.items():
            sizes = [sorted({numbers[axis] for numbers in members.values()}) for axis in range(count)]
            if min(map(len, sizes)) < 2:
                continue
            for period in [1, *(p for p in range(2, MOST_PERIOD + 1) if count == 1 and len(sizes[0]) % p == 0)]:
                groups = _groups(members, pieces, places, sizes, period)  # pyright: ignore[reportArgumentType]
                if groups:
                    yield groups


def _groups(
    members: Mapping[str, tuple[int, ...]],
    pieces: Mapping[str, list[str]],
    places: tuple[int, ...],
    sizes: list[list[int]],
    period: int,
) -> list[Group]:
    """Return the groups of one list of layers, or none where a layer lacks an array that its like have."""
    found: dict[tuple[str, int], dict[tuple[int, ...], str]] = {}
    for name, numbers in members.items():
        ranks = tuple(size.index(number) for size, number in zip(sizes, numbers, strict=True))
        turn = ranks[0] % period
        said = [piece for at, piece in enumerate(pieces[name]) if at not in places]
        text = ".".join([*said[: places[0]], *([str(turn)] if period > 1 else []), *said[places[0] :]])
        found.setdefault((text, turn), {})[ranks] = name
    axes = tuple(len(size) // period for size in sizes)
    groups = [Group(text, tuple(names[key] for key in sorted(names)), axes) for (text, _), names in found.items()]
    whole = all(len(group.names) == math.prod(axes) for group in groups)
    return groups if whole and axes[0] > 1 else []


def _paired(groups: list[Group], singles: Arrays, wholes: Arrays) -> tuple[list[tuple[Group, str]], str]:
    """Return which array holds each group and what says so, or nothing unless every group has one."""
    shapes = {group.text: singles[group.names[0]].shape for group in groups}
    if any(singles[name].shape != shapes[group.text] for group in groups for name in group.names):
        return [], ""
    held = Counter(x.size for x in wholes.values()), Counter(x.size for x in singles.values())
    if all(held[0][math.prod(shape)] >= held[1][math.prod(shape)] for shape in shapes.values()):
        return [], ""
    axes = groups[0].axes
    size = math.prod(axes)
    fitting = {
        n: x for n, x in wholes.items() if x.shape[: len(axes)] == axes and x.size // size in {*map(math.prod, shapes.values())}
    }
    if len(fitting) < len(groups):
        return [], ""
    # The other program's numbers count from 0 among these arrays alone.
    pairs = assign(
        numbered(list(shapes)),
        numbered(list(fitting)),
        lambda text, n: bool(layouts(shapes[text], fitting[n].shape[len(axes) :])),
    )
    good = {text: other for text, (other, score) in pairs.items() if score > 0}
    if len(good) == len(groups):
        return [(group, good[group.text]) for group in groups], "names"
    return _in_order(groups, singles, fitting, len(axes)), "shapes"


def _in_order(groups: list[Group], singles: Arrays, wholes: Arrays, axes: int) -> list[tuple[Group, str]]:
    """Return which array holds each group by the order in which both stand, where there are as many of each shape.

    Names that do not tell them apart are no reason to take a digit within a layer, as of its two norms, for a layer's number.
    """
    ours: dict[Shape, list[Group]] = {}
    theirs: dict[Shape, list[str]] = {}
    place = {name: at for at, name in enumerate(singles)}
    for group in sorted(groups, key=lambda group: place[group.names[0]]):
        ours.setdefault(tuple(sorted(singles[group.names[0]].shape)), []).append(group)
    for name, x in wholes.items():
        theirs.setdefault(tuple(sorted(x.shape[axes:])), []).append(name)
    if {shape: len(each) for shape, each in ours.items()} != {shape: len(each) for shape, each in theirs.items()}:
        return []
    return [pair for shape, each in ours.items() for pair in zip(each, theirs[shape], strict=True)]


def _entry(group: Group, whole: str, sides: tuple[Arrays, Arrays], best: Best, evidence: str, *, flipped: bool) -> Entry:
    singles, wholes = sides
    parts = {name: singles[name].shape for name in group.names}
    order = best(group.names[0], whole) if flipped else backward(best(whole, group.names[0]))
    made = fusions(whole, wholes[whole].shape, parts, order, stacked=len(group.axes))
    moves = (each if flipped else tuple(move.inverse for move in each) for each in made)
    return Entry(tuple(dict.fromkeys(islice(moves, MOST_CHOICES))), evidence)
