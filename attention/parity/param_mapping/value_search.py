"""Which arrays of two programs hold the same numbers, and where each number went.

    fingerprint(x) = sum over elements of mix(bits) mod 2^64        whatever the order
    fingerprint(x ++ y) = fingerprint(x) + fingerprint(y)

Whole arrays are paired by fingerprint. The rest (fused, split, interleaved) is found by looking up where the numbers of an
array stand in the other program; what is found is then checked on every element. Constant arrays say nothing, and equal ones
(layers that were cloned) are told apart by name.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from attention.parity.adapters import Arrays
from attention.parity.param_mapping.block_moves import Move
from attention.parity.param_mapping.coverage import by_name, faults
from attention.parity.param_mapping.name_assignment import assign, numbered
from attention.parity.param_mapping.shape_layouts import layouts
from attention.parity.param_mapping.value_index import Lookup, fingerprint, owners_of

Moves = tuple[Move, ...]
Words = Mapping[str, Counter[str]]


@dataclass(frozen=True)
class Found:
    """What the values say.

    Attributes:
        entries: for each matched array of the second, all sets of moves that give its numbers: several where it is symmetric.
        copies: tied arrays.
    """

    entries: tuple[tuple[Moves, ...], ...] = ()
    copies: Moves = ()


FLOATS = "fV"
"""Kinds of the dtypes that are compared; bfloat16 and its like are of kind V."""


def is_distinctive(array: np.ndarray) -> bool:
    """Return whether an array's numbers say which it is: they are floats, more than one, and not all the same."""
    if array.size < 2 or array.dtype.kind not in FLOATS:
        return False
    flat = array.reshape(-1)
    return bool(np.any(flat[0] != flat[:16])) or bool(np.any(flat[0] != flat))


def narrowest(*sides: Arrays) -> np.dtype:
    """Return the narrowest dtype of the arrays, in which a port's float32 meets a checkpoint's bfloat16."""
    kinds = {array.dtype for arrays in sides for array in arrays.values()}
    return min(kinds, key=lambda kind: (kind.itemsize, str(kind)), default=np.dtype(np.float32))


def cast(array: np.ndarray, kind: np.dtype) -> np.ndarray:
    """Return an array in another dtype, or as it is."""
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(kind, copy=False)


def search(first: Arrays, second: Arrays) -> Found:
    """Return what equal numbers say about the parameters of two programs."""
    one, other = ({name: x for name, x in side.items() if is_distinctive(x)} for side in (first, second))
    kind = narrowest(one, other)
    found = _wholes(one, other, kind)
    one, other = _without(one, other, [move for choices in found.entries for move in choices[0]] + list(found.copies))
    entries = _parts(one, other, kind)
    one, other = _without(one, other, [move for moves in entries for move in moves])
    # A fused array of parts with unequal strides is no sum of lines, but each part is a box of it.
    entries += [tuple(move.inverse for move in moves) for moves in _parts(other, one, kind)]
    return Found((*found.entries, *((moves,) for moves in entries)), found.copies)


def _without(first: Arrays, second: Arrays, moves: Sequence[Move]) -> tuple[Arrays, Arrays]:
    """Return the arrays that no move has."""
    gone = {move.first.name for move in moves}, {move.second.name for move in moves}
    ours, theirs = ({n: x for n, x in side.items() if n not in used} for side, used in zip((first, second), gone, strict=True))
    return ours, theirs


def _parts(first: Arrays, second: Arrays, kind: np.dtype) -> list[Moves]:
    """Return, for each array of the second that is made of parts of the first's, its moves."""
    held = owners_of(second, first, kind)
    if not held:
        return []
    ours, theirs = _equal(first), _equal({name: second[name] for name in held})
    stand = {name: group[0] for group in ours.values() for name in group}
    solved: dict[str, Moves] = {}
    lookup, last = Lookup({}), ()
    # Arrays with the same owners stand together, so that these are sorted once.
    for name in sorted(theirs, key=lambda each: held[each]):
        owners = tuple(dict.fromkeys(stand[owner] for owner in held[name]))
        if owners != last:
            lookup, last = Lookup({owner: cast(first[owner], kind) for owner in owners}), owners
        moves = lookup.solve(name, cast(second[name], kind))
        if moves is not None:
            solved[name] = moves
    return _used_once(_spread(solved, ours, theirs))


def _wholes(first: Arrays, second: Arrays, kind: np.dtype) -> Found:
    """Return the arrays that hold the same numbers as one of the other program's; equal ones are paired by name."""
    groups: dict[tuple[int, int], tuple[list[str], list[str]]] = {}
    sizes = {array.size for array in first.values()} & {array.size for array in second.values()}
    for side, arrays in enumerate((first, second)):
        for name, array in arrays.items():
            if array.size in sizes:
                groups.setdefault((fingerprint(array, kind), array.size), ([], []))[side].append(name)
    words = [numbered(list(first)), numbered(list(second))]
    entries: list[tuple[Moves, ...]] = []
    copies: list[Move] = []
    for ours, theirs in groups.values():
        pairs = _paired(ours, theirs, words)
        exact = [_exact(one, first[one], other, second[other], kind) for other, one in pairs.items()]
        if all(exact):
            entries += exact
            spare = [_exact(one, first[one], other, second[other], kind) for one, other in _tied(pairs, ours, theirs)]
            copies += [move for choices in spare if choices for move in choices[0]]
    return Found(tuple(entries), tuple(copies))


def _exact(one: str, ours: np.ndarray, name: str, theirs: np.ndarray, kind: np.dtype) -> tuple[Moves, ...]:
    """Return all moves that lead from one array to another of the same numbers."""
    ours, theirs = cast(ours, kind), cast(theirs, kind)
    exact = [each for each in layouts(ours.shape, theirs.shape) if _same(each.of(ours, theirs.shape), theirs)]
    found = [(each.move(one, ours.shape, name, theirs.shape),) for each in exact]
    looked = None if exact else Lookup({one: ours}).solve(name, theirs)
    return tuple(tuple(replace(move, evidence="values") for move in moves) for moves in (*found, looked) if moves)


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    # Most layouts that do not fit differ in the first row.
    return bool(np.array_equal(one[:1], other[:1])) and bool(np.array_equal(one, other))


def _paired(ours: list[str], theirs: list[str], words: Sequence[Words]) -> dict[str, str]:
    """Return which of our equal arrays is which of theirs, by name; the more numerous side keeps some."""
    if len(ours) == len(theirs) == 1:
        return {theirs[0]: ours[0]}
    ranked = [{name: words[side][name] for name in names} for side, names in enumerate((ours, theirs))]
    found = {other: one for one, (other, _) in assign(ranked[0], ranked[1], lambda _one, _other: True).items()}
    # Names that contradict the values are overruled by them.
    rest = [one for one in ours if one not in found.values()]
    return {**found, **dict(zip((other for other in theirs if other not in found), rest, strict=False))}


def _tied(pairs: dict[str, str], ours: list[str], theirs: list[str]) -> list[tuple[str, str]]:
    """Return the further copies of an array that one program holds once and the other several times."""
    if len(ours) == 1:
        return [(ours[0], other) for other in theirs if other not in pairs]
    if len(theirs) == 1:
        return [(one, theirs[0]) for one in ours if one not in pairs.values()]
    return []


def _equal(arrays: Arrays) -> dict[str, list[str]]:
    """Return the names of arrays that are equal to the bit, by the first of them."""
    groups: dict[tuple[bytes, tuple[int, ...]], list[str]] = {}
    for name, array in arrays.items():
        digest = hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=16).digest()
        groups.setdefault((digest, array.shape), []).append(name)
    return {names[0]: names for names in groups.values()}


def _spread(solved: Mapping[str, Moves], ours: Mapping[str, list[str]], theirs: Mapping[str, list[str]]) -> list[Moves]:
    """Return the moves of every array, where so far those of one of each group of equal arrays are known."""
    words = [numbered([name for names in groups.values() for name in names]) for groups in (ours, theirs)]
    found: list[Moves] = []
    for name, moves in solved.items():
        pairs = {owner: _paired(ours[owner], theirs[name], words) for owner in {move.first.name for move in moves}}
        for other in theirs[name]:
            if all(other in pair for pair in pairs.values()):
                renamed = (move.between(pairs[move.first.name][other], other) for move in moves)
                found.append(tuple(replace(move, evidence="values") for move in renamed))
    return found


def _used_once(entries: list[Moves]) -> list[Moves]:
    """Return the entries without those whose arrays of the first are used in part, or twice."""
    while True:
        wrong = faults(by_name(move.first for moves in entries for move in moves)).keys()
        if not wrong:
            return entries
        entries = [moves for moves in entries if not any(move.first.name in wrong for move in moves)]
