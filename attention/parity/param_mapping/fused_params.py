"""Fused: one array of a program that is several of the other's, as far as names and shapes tell.

attn.in_proj_weight (3 HD, M)    <->    attn.q.kernel, attn.k.kernel, attn.v.kernel (M, H, D)        by their words
blocks.kernel (L, M, F)          <->    blocks.0.kernel, ..., blocks.L-1.kernel (M, F)               by their number
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import reduce
from itertools import islice

from attention.parity.adapters import Arrays
from attention.parity.param_mapping.block_moves import Shape
from attention.parity.param_mapping.candidates import Best, Entry, Preference
from attention.parity.param_mapping.name_assignment import assign, numbered, words
from attention.parity.param_mapping.permutation import Pool, moves_of
from attention.parity.param_mapping.shape_layouts import Layout, fusions
from attention.parity.param_mapping.value_search import Moves

PARTS = (("q", "k", "v"), ("k", "v"), ("gate", "up"))
"""Words that one name has together and several names have one each, in the order of convention."""
MOST_CHOICES = 48
"""How many layouts of a fused array are kept."""


def fused(first: Arrays, second: Arrays, best: Best) -> list[Entry]:
    """Return the entries of arrays of either program that are several of the other's."""
    found: list[Entry] = []
    for parts in (*PARTS, None):
        for flipped in (False, True):
            taken = [{end for entry in found for m in entry.choices[0] for end in (m.first.name, m.second.name)}] * 2
            ours, theirs = (
                {n: x for n, x in side.items() if n not in gone} for side, gone in zip((first, second), taken, strict=True)
            )
            found += _joined(*((theirs, ours) if flipped else (ours, theirs)), parts, best, flipped=flipped)
    return found


def _joined(wholes: Arrays, singles: Arrays, parts: Sequence[str] | None, best: Best, *, flipped: bool) -> list[Entry]:
    """Return the entries in which an array of `wholes` is several of `singles`; `flipped` where the first has the singles."""
    groups = _groups(singles, parts)
    described = numbered(list(wholes))
    if parts is not None:
        described = {name: Counter(found) for name, found in described.items() if _parts(name) == set(parts)}
        for said in described.values():
            for part in parts:
                del said[part]
    single = numbered(list(singles))
    shared = {names: _shared([single[name] for name in names]) for names in groups}
    keys = {" ".join(names): names for names in shared}

    def fits(whole: str, key: str) -> bool:
        return wholes[whole].size == sum(singles[name].size for name in keys[key])

    pairs = assign(described, {key: shared[names] for key, names in keys.items()}, fits)
    found: list[Entry] = []
    for whole, (key, score) in pairs.items():
        choices = _choices(whole, wholes[whole].shape, {name: singles[name].shape for name in keys[key]}, best, flipped=flipped)
        if choices and score > 0:
            found.append(Entry(choices, "names"))
    return found


def _shared(counters: list[Counter[str]]) -> Counter[str]:
    """Return the words that all have."""
    return reduce(lambda one, other: one & other, counters)


def _parts(name: str) -> set[str]:
    return {word for parts in PARTS for word in parts} & {*words(name)}


def _groups(singles: Arrays, parts: Sequence[str] | None) -> list[tuple[str, ...]]:
    """Return the names that differ in one of the parts alone, all parts present; without parts, in a number alone."""
    found: dict[tuple[object, ...], dict[str, str]] = {}
    for name in singles:
        said = words(name)
        if parts is None:
            numbers = [at for at, word in enumerate(said) if word.isdigit()]
            for at in numbers[:1]:
                key = (*said[:at], "#", *said[at + 1 :], singles[name].shape)
                found.setdefault(key, {})[f"{int(said[at]):09d}"] = name
        elif len(mine := _parts(name)) == 1 and mine <= set(parts):
            key = tuple(word for word in said if word not in mine)
            found.setdefault(key, {})[next(iter(mine))] = name
    if parts is None:
        return [tuple(group[number] for number in sorted(group)) for group in found.values() if len(group) > 1]
    return [tuple(group[part] for part in parts) for group in found.values() if len(group) == len(parts)]


def _choices(whole: str, shape: Shape, parts: dict[str, Shape], best: Best, *, flipped: bool) -> tuple[Moves, ...]:
    """Return the distinct ways to make an array of parts, as moves from the first program to the second."""
    pool = Pool(parts)
    name = next(iter(parts))
    order = best(name, whole) if flipped else _backward(best(whole, name))
    labels = pool.labels()
    made = (moves_of(pool, {whole: each}) for each in fusions(shape, [labels[part] for part in parts], order))
    moves = (each if flipped else tuple(move.inverse for move in each) for each in made if each)
    return tuple(dict.fromkeys(islice(moves, MOST_CHOICES)))


def _backward(best: Preference) -> Preference:
    """Return what prefers, from the second's arrays to the first's, the inverse of what `best` does."""

    def order(found: list[Layout], start: Shape, end: Shape) -> list[Layout]:
        inverses = [each.inverse for each in found]
        ranked = best(inverses, end, start)
        return [found[inverses.index(each)] for each in ranked]

    return order
