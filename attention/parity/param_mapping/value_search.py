"""Values: which arrays hold the same numbers, and where each number went, when weights were carried over already.

    fingerprint(x) = sum over elements of mix(bits) mod 2^64        whatever the order
    fingerprint(x ++ y) = fingerprint(x) + fingerprint(y)

Whole arrays are paired by fingerprint. The rest (fused, split, interleaved) is found by looking up, for one line along each
axis of an array, where its numbers stand in the first program; what is found is then checked on every element. Constant
arrays say nothing, and equal ones (layers that were cloned) are told apart by name.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from attention.parity.adapters import Arrays
from attention.parity.param_mapping.block_moves import Move
from attention.parity.param_mapping.name_assignment import assign, numbered
from attention.parity.param_mapping.param_map import by_name, faults
from attention.parity.param_mapping.permutation import Pool, moves_of
from attention.parity.param_mapping.shape_layouts import layouts
from attention.parity.param_mapping.value_index import Lookup

Moves = tuple[Move, ...]
Words = Mapping[str, Counter[str]]
ODD = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)
"""Odd factors that mix the bits of a number: those of splitmix64."""


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


def fingerprint(array: np.ndarray) -> int:
    """Return a number that arrays with the same elements share, in whatever order, and that adds up over parts."""
    # 0 + x makes the two zeros one.
    bits = np.ascontiguousarray(array + array.dtype.type(0)).view(f"u{array.dtype.itemsize}").astype(np.uint64)
    mixed = (bits + ODD[0]) * ODD[0]
    mixed = (mixed ^ (mixed >> np.uint64(29))) * ODD[1]
    return int(np.sum(mixed ^ (mixed >> np.uint64(32)), dtype=np.uint64))


def told(array: np.ndarray) -> bool:
    """Return whether an array's numbers say which it is: they are floats, more than one, and not all the same."""
    return array.size > 1 and array.dtype.kind in FLOATS and bool(np.any(array.ravel()[0] != array))


def same_dtype(*sides: Arrays) -> list[Arrays]:
    """Return the arrays in the narrowest float dtype among them, so that a port's float32 meets a checkpoint's bfloat16."""
    kinds = {array.dtype for arrays in sides for array in arrays.values()}
    narrow = min(kinds, key=lambda kind: (kind.itemsize, str(kind)), default=np.dtype(np.float32))
    with np.errstate(over="ignore", invalid="ignore"):
        return [{name: array.astype(narrow, copy=False) for name, array in arrays.items()} for arrays in sides]


def search(first: Arrays, second: Arrays) -> Found:
    """Return what equal numbers say about the parameters of two programs."""
    one, other = same_dtype(*({name: x for name, x in side.items() if told(x)} for side in (first, second)))
    found = _wholes(one, other)
    one, other = _without(one, other, [move for choices in found.entries for move in choices[0]] + list(found.copies))
    entries = _parts(one, other)
    one, other = _without(one, other, [move for moves in entries for move in moves])
    # A fused array of parts with unequal strides is no sum of lines, but each part is a box of it.
    entries += [tuple(move.inverse for move in moves) for moves in _parts(other, one)]
    return Found((*found.entries, *((moves,) for moves in entries)), found.copies)


def _without(first: Arrays, second: Arrays, moves: Sequence[Move]) -> tuple[Arrays, Arrays]:
    """Return the arrays that no move has."""
    gone = {move.first.name for move in moves}, {move.second.name for move in moves}
    ours, theirs = ({n: x for n, x in side.items() if n not in used} for side, used in zip((first, second), gone, strict=True))
    return ours, theirs


def _parts(first: Arrays, second: Arrays) -> list[Moves]:
    """Return, for each array of the second that is made of parts of the first's, its moves."""
    ours, theirs = _equal(first), _equal(second)
    lookup = Lookup({name: first[name] for name in ours})
    solved = {name: moves for name in theirs if (moves := lookup.solve(name, second[name])) is not None}
    return _used_once(_spread(solved, ours, theirs))


def _wholes(first: Arrays, second: Arrays) -> Found:
    """Return the arrays that hold the same numbers as one of the other program's; equal ones are paired by name."""
    groups: dict[tuple[int, int], tuple[list[str], list[str]]] = {}
    for side, arrays in enumerate((first, second)):
        for name, array in arrays.items():
            groups.setdefault((fingerprint(array), array.size), ([], []))[side].append(name)
    words = [numbered(list(first)), numbered(list(second))]
    found = Found()
    for ours, theirs in groups.values():
        pairs = _paired(ours, theirs, words)
        entries = [choices for other, one in pairs.items() if (choices := _exact(one, first[one], other, second[other]))]
        if len(entries) == len(pairs):
            spare = _tied(pairs, ours, theirs)
            copies = [_exact(one, first[one], other, second[other])[0] for one, other in spare]
            found = Found((*found.entries, *entries), (*found.copies, *(move for moves in copies for move in moves)))
    return found


def _exact(one: str, ours: np.ndarray, name: str, theirs: np.ndarray) -> tuple[Moves, ...]:
    """Return all moves that lead from one array to another of the same numbers."""
    pool = Pool({one: ours.shape})
    exact = [each for each in layouts(ours.shape, theirs.shape) if np.array_equal(each.of(ours, theirs.shape), theirs)]
    found = [moves_of(pool, {name: each.of(pool.labels()[one], theirs.shape)}) for each in exact]
    looked = None if exact else Lookup({one: ours}).solve(name, theirs)
    return tuple(tuple(replace(move, evidence="values") for move in moves) for moves in (*found, looked) if moves)


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
