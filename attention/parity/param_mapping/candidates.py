"""The ambiguous parameter map (`Plan`): the possible layouts of each array, most likely first.

map = what was decided + the first choice of every entry + biases that follow their kernels + the rest by name
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from attention.parity.adapters import Arrays
from attention.parity.param_mapping.bias_inference import follow
from attention.parity.param_mapping.block_moves import Move, Shape
from attention.parity.param_mapping.name_assignment import assign, described, share_a_word, words
from attention.parity.param_mapping.param_map import ParamMap
from attention.parity.param_mapping.recurrent_biases import summed
from attention.parity.param_mapping.shape_layouts import Layout, layouts
from attention.parity.param_mapping.value_search import Moves

Kinds = Mapping[str, frozenset[str]]
"""What each parameter is used for."""
ANY: frozenset[str] = frozenset()
ALONE = "the only ones of their size"
Preference = Callable[[list[Layout], Shape, Shape], list[Layout]]
"""Puts the layouts between two shapes in order, the likely one first."""
Best = Callable[[str, str], Preference]
"""The preference for a parameter of the first and one of the second, by their names."""


def backward(best: Preference) -> Preference:
    """Return what prefers, from the second's arrays to the first's, the inverse of what `best` does."""

    def order(found: list[Layout], start: Shape, end: Shape) -> list[Layout]:
        inverses = [each.inverse for each in found]
        ranked = best(inverses, end, start)
        return [found[inverses.index(each)] for each in ranked]

    return order


@dataclass(frozen=True)
class Entry:
    """Arrays that belong together.

    Attributes:
        choices: the moves that may join them, the most likely first.
        evidence: why they are thought to belong together.
    """

    choices: tuple[Moves, ...]
    evidence: str

    @property
    def moves(self) -> Moves:
        """The first choice."""
        return tuple(replace(move, evidence=self.evidence) for move in self.choices[0])

    @property
    def kind(self) -> tuple[object, ...]:
        """What entries have in common whose layout is one question: names but for numbers, shapes, and choices.

        Fused arrays are fused alike everywhere, so that their parts alone count.
        """
        if len(self.choices[0]) > 1:
            move = self.choices[0][0]
            return (len(self.choices[0]), len(self.choices), len(move.first.shape), len(move.second.shape), move.first.whole)
        ends = [(numberless(m.first.name), m.first.shape, numberless(m.second.name), m.second.shape) for m in self.choices[0]]
        return (tuple(ends), len(self.choices))

    def __str__(self) -> str:
        firsts, seconds = ({m.first.name: None for m in self.choices[0]}, {m.second.name: None for m in self.choices[0]})
        return f"{', '.join(firsts)} -> {', '.join(seconds)}"


def numberless(name: str) -> tuple[str, ...]:
    """Return what a name means, numbers aside: the same in all layers."""
    return tuple(word for word in words(name) if not word.isdigit())


@dataclass(frozen=True, eq=False)
class Plan:
    """An open map between the parameters of two programs.

    Attributes:
        first: the first program's parameters.
        second: the second's.
        entries: what is matched, biases that follow aside.
        copies: tied arrays.
        siblings: sets of entries, by their places, that their names do not tell apart.
        apart: names of the first that are to be left over.
        kinds: what the parameters of both are used for, where that is known: "product 16", "gather", "scale", "sum".
        biases: what each program adds to the product of a parameter, by the name of the parameter.
    """

    first: Arrays
    second: Arrays
    entries: tuple[Entry, ...] = ()
    copies: Moves = ()
    siblings: tuple[tuple[int, ...], ...] = ()
    apart: frozenset[str] = frozenset()
    kinds: tuple[Kinds, Kinds] = ({}, {})
    biases: tuple[Mapping[str, str], Mapping[str, str]] = ({}, {})

    @property
    def left(self) -> tuple[Arrays, Arrays]:
        """The parameters of both that no entry and no copy has; empty arrays have nothing to match."""
        moves = [move for entry in self.entries for move in entry.choices[0]] + list(self.copies)
        used = {move.first.name for move in moves} | self.apart, {move.second.name for move in moves}
        sides = zip((self.first, self.second), used, strict=True)
        return tuple({name: x for name, x in arrays.items() if name not in gone and x.size} for arrays, gone in sides)  # pyright: ignore[reportReturnType]

    @cached_property
    def map(self) -> ParamMap:
        """The map that the first choices make."""
        moves = [move for entry in self.entries for move in entry.moves]
        moves += follow(moves, *self.left, self.biases)
        moves += [move for entry in paired(*self._without(moves).left, kinds=self.kinds) for move in entry.moves]
        moves, added, parted = summed(moves, self.first, self.second)
        every = (*moves, *self.copies, *added, *parted)
        ends = [{move.first.name for move in every}, {move.second.name for move in every}]
        left = [
            tuple(name for name in arrays if name not in end)
            for arrays, end in zip((self.first, self.second), ends, strict=True)
        ]
        return ParamMap(tuple(moves), self.copies, (left[0], left[1]), added=tuple(added), parted=tuple(parted))

    def _without(self, moves: Iterable[Move]) -> Plan:
        """Return the plan in which these moves are decided."""
        return replace(self, entries=(*self.entries, *(Entry(((move,),), "") for move in moves)))

    def chosen(self, places: Iterable[int], choice: int) -> Plan:
        """Return the plan in which these entries have another of their choices first."""
        entries = list(self.entries)
        for place in places:
            choices = entries[place].choices
            entries[place] = replace(entries[place], choices=(choices[choice], *choices[:choice], *choices[choice + 1 :]))
        return replace(self, entries=tuple(entries))

    def swapped(self, one: int, other: int) -> Plan:
        """Return the plan in which two entries have exchanged the second's arrays."""
        entries = list(self.entries)
        for place, source in ((one, other), (other, one)):
            name = self.entries[source].choices[0][0].second.name
            choices = tuple(tuple(m.between(m.first.name, name) for m in moves) for moves in entries[place].choices)
            entries[place] = replace(entries[place], choices=choices)
        return replace(self, entries=tuple(entries))

    def with_evidence(self, places: Iterable[int], evidence: str) -> Plan:
        """Return the plan with other evidence for some entries."""
        places = set(places)
        entries = (replace(e, evidence=evidence) if at in places else e for at, e in enumerate(self.entries))
        return replace(self, entries=tuple(entries))


def same_kind(one: str, other: str) -> bool:
    """Return whether two uses are one: of as many inputs, where both say it.

    >>> same_kind("product 16", "product 24"), same_kind("product 16", "product")
    (False, True)
    """
    (kind, _, inputs), (wanted, _, others) = one.partition(" "), other.partition(" ")
    return kind == wanted and (inputs == others or not inputs or not others)


def paired(
    first: Arrays,
    second: Arrays,
    best: Best = lambda _one, _other: lambda found, _start, _end: found,
    kinds: tuple[Kinds, Kinds] = ({}, {}),
) -> list[Entry]:
    """Return the pairing of whole arrays that their names and shapes say, each in every layout that the shapes leave.

    Args:
        first: the first program's parameters that are left.
        second: the second's.
        best: of two names: what puts layouts in order of preference.
        kinds: what the parameters are used for.
    """
    names = described(list(first)), described(list(second))
    ways: dict[tuple[Shape, Shape], list[Layout]] = {}

    def between(one: str, other: str) -> list[Layout]:
        shapes = first[one].shape, second[other].shape
        if shapes not in ways:
            ways[shapes] = layouts(*shapes)
        return ways[shapes]

    def unlike(one: str, other: str) -> bool:
        ours, theirs = kinds[0].get(one, ANY), kinds[1].get(other, ANY)
        known = ANY not in (ours, theirs) and "other" not in ours | theirs
        return known and not any(same_kind(a, b) for a in ours for b in theirs)

    found: dict[str, Entry] = {}
    # Only arrays of one size can be the same, so that the pairs are sought size by size.
    for size in dict.fromkeys(array.size for array in first.values()):
        mine, yours = (
            {n: said[n] for n, x in side.items() if x.size == size} for said, side in zip(names, (first, second), strict=True)
        )
        for one, (other, score) in assign(mine, yours, lambda a, b: bool(between(a, b)), unlike).items():
            start, end = first[one].shape, second[other].shape
            ranked = best(one, other)(between(one, other), start, end)
            choices = tuple((each.move(one, start, other, end),) for each in ranked)
            alone = len(mine) == len(yours) == 1
            evidence = "names" if score > 0 and share_a_word(mine[one], yours[other]) else ALONE if alone else "shapes"
            found[one] = Entry(tuple(dict.fromkeys(choices)), evidence)
    return [found[one] for one in first if one in found]
