"""Find the arrays of one program that join several of the other's, by the words of their names.

attn.in_proj_weight (3 HD, M)    <->    attn.q.kernel, attn.k.kernel, attn.v.kernel (M, H, D)
lstm.weight_ih_l0 (4 H, I)       <->    ii.kernel, if.kernel, ig.kernel, io.kernel (I, H)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import islice

from attention.parity.adapters import Arrays
from attention.parity.param_mapping.block_moves import Shape
from attention.parity.param_mapping.candidates import Best, Entry, backward
from attention.parity.param_mapping.fused_layouts import MOST_ORDERED, fusions
from attention.parity.param_mapping.name_assignment import assign, numbered, spelt, words
from attention.parity.param_mapping.param_use import Uses
from attention.parity.param_mapping.value_search import Moves


@dataclass(frozen=True)
class Parts:
    """Words of which several names have one each.

    Attributes:
        words: in the order of convention.
        whole: what the name of all of them has; all words if "".
        family: a name with one of these words is about that.
    """

    words: tuple[str, ...]
    whole: str = ""
    family: tuple[str, ...] = ()

    def of(self, name: str) -> set[str]:
        """Return which of the family's words a name has."""
        return {*(self.family or self.words)} & {*words(name)}

    def joins(self, name: str) -> bool:
        """Return whether a name says that its array holds all parts."""
        return self.whole in words(name) if self.whole else self.of(name) == {*self.words}


QKV = ("q", "k", "v")
PARTS = (
    Parts(QKV),
    Parts(("k", "v"), family=QKV),
    Parts(("gate", "up")),
    # The gates of torch's LSTM and GRU in their documented order, and Flax' names for them.
    Parts(("ii", "if", "ig", "io"), "ih"),
    Parts(("hi", "hf", "hg", "ho"), "hh"),
    Parts(("ir", "iz", "in"), "ih"),
    Parts(("hr", "hz", "hn"), "hh"),
)
MOST_TOGETHER = 64
"""Arrays that may be one of the other program's, where no word says so."""
MOST_UNNAMED = 4
"""Up to so many such arrays may stand in any order."""
MOST_CHOICES = 48
"""How many layouts of a fused array are kept."""


def fused(first: Arrays, second: Arrays, best: Best) -> list[Entry]:
    """Return the entries of arrays of either program that are several of the other's."""
    found: list[Entry] = []
    for parts in PARTS:
        for flipped in (False, True):
            used = {block.name for entry in found for m in entry.choices[0] for block in (m.first, m.second)}
            ours, theirs = ({n: x for n, x in side.items() if n not in used} for side in (first, second))
            found += _joined(*((theirs, ours) if flipped else (ours, theirs)), parts, best, flipped=flipped)
    return found


def leftover(
    first: Arrays,
    second: Arrays,
    best: Best,
    uses: tuple[Uses | None, Uses | None],
    defined: tuple[Sequence[str], Sequence[str]] = ((), ()),
) -> list[Entry]:
    """Return the entries of arrays that neither names nor shapes have paired, and that hold several of the other's.

    Several belong together if they differ in a number alone, then in the order of the numbers; or if they are used on the same
    arrays, or have the shape of the whole but for one size, then most likely in the order of their definition. They must be as
    large as the whole together, and as many sets must be so as there are wholes.

    Args:
        first: the first program's parameters that are left, in the order of use.
        second: the second's.
        best: the preference among layouts, by the names of two parameters.
        uses: of both programs, where they are known.
        defined: the names of both programs in the order of their definition, where it is known.
    """
    found: list[Entry] = []
    for flipped in (False, True):
        wholes, singles = (second, first) if flipped else (first, second)
        sets = _together(singles, uses[0] if flipped else uses[1])
        for size in dict.fromkeys(array.size for array in wholes.values()):
            several = [name for name, array in wholes.items() if array.size == size]
            # What several are used on says more than their numbers.
            ways = ([names for names in each if sum(singles[name].size for name in names) == size] for each in sets)
            ways = (*ways, _of_one_cut([wholes[name].shape for name in several], singles))
            fitting = next((way for way in ways if len(way) == len(several)), None)
            for whole, names in zip(several, fitting or (), strict=fitting is not None):
                said = _conventional(names) or next((each for each in sets[1] if {*each} == {*names}), None)
                order = said or _sorted(names, defined[0] if flipped else defined[1])
                parts = {name: singles[name].shape for name in order}
                most = MOST_ORDERED if said else MOST_UNNAMED
                choices = _choices(whole, wholes[whole].shape, parts, best, flipped=flipped, ordered=most)
                # No convention says in which order they stand, unless they are q, k, v or the like, or counted.
                found += [Entry(choices, "names" if said else "shapes")] if choices else []
        gone = {block.name for entry in found for m in entry.choices[0] for block in (m.first, m.second)}
        first, second = ({n: x for n, x in side.items() if n not in gone} for side in (first, second))
    return found


def _together(singles: Arrays, uses: Uses | None) -> tuple[list[tuple[str, ...]], ...]:
    """Return the sets of arrays that are used on the same, and those that differ in a number, each in order."""
    used: dict[tuple[object, ...], list[str]] = {}
    counted: dict[tuple[object, ...], list[str]] = {}
    first = {} if uses is None else {use.view.name: use for use in reversed(uses.found)}
    for name, array in singles.items():
        key = tuple("#" if piece.isdigit() else piece for piece in spelt(name))
        counted.setdefault((key, array.ndim), []).append(name)
        if name in first:
            used.setdefault((first[name].after, first[name].kind, array.ndim), []).append(name)
    for names in counted.values():
        names.sort(key=lambda name: [int(piece) for piece in spelt(name) if piece.isdigit()])
    sides = ([tuple(names) for names in sets.values() if 1 < len(names) <= MOST_TOGETHER] for sets in (used, counted))
    return tuple(sides)


def _of_one_cut(wholes: Sequence[Shape], singles: Arrays) -> list[tuple[str, ...]]:
    """Return all arrays that are as a whole but for the size of one axis, where together they are the whole; else nothing.

    Args:
        wholes: the shape of the whole; of several it is not told which parts are whose.
        singles: arrays that may be parts.
    """
    found: dict[tuple[str, ...], None] = {}
    for size in {*wholes[0]} if len(wholes) == 1 else ():
        rest = Counter(wholes[0]) - Counter([size])
        # What has no such axis is one row or column of the whole.
        shapes = {n: (*x.shape, 1) if x.ndim == len(wholes[0]) - 1 else x.shape for n, x in singles.items()}
        widths = {
            name: next(iter(Counter(shape) - rest), 1)
            for name, shape in shapes.items()
            if len(shape) == len(wholes[0]) and not rest - Counter(shape)
        }
        names = tuple(widths)
        if 1 < len(names) <= MOST_UNNAMED and sum(widths.values()) == size:
            found[names] = None
    return [*found] if len(found) == 1 else []


def _conventional(names: Sequence[str]) -> tuple[str, ...] | None:
    """Return names that say that they are all parts of something in the order that these have, or None."""
    for parts in PARTS:
        said = {next(iter(parts.of(name)), ""): name for name in names if len(parts.of(name)) == 1}
        if said.keys() == {*parts.words} and len(said) == len(names):
            return tuple(said[word] for word in parts.words)
    return None


def _sorted(names: Sequence[str], order: Sequence[str]) -> tuple[str, ...]:
    place = {name: at for at, name in enumerate(order)}
    return tuple(sorted(names, key=lambda name: place.get(name, len(place))))


def _joined(wholes: Arrays, singles: Arrays, parts: Parts, best: Best, *, flipped: bool) -> list[Entry]:
    """Return the entries in which an array of `wholes` is several of `singles`; `flipped` where the first has the singles."""
    described = {name: Counter(said) for name, said in numbered(list(wholes)).items() if parts.joins(name)}
    for said in described.values():
        for part in parts.words:
            del said[part]
    single = numbered(list(singles))
    shared = {
        names: reduce(lambda one, other: one & other, (single[name] for name in names)) for names in _groups(singles, parts)
    }
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


def _groups(singles: Arrays, parts: Parts) -> list[tuple[str, ...]]:
    """Return the names that differ in one of the parts alone, all parts present."""
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for name in singles:
        if len(mine := parts.of(name)) == 1 and mine <= {*parts.words}:
            key = tuple(word for word in words(name) if word not in mine)
            found.setdefault(key, {})[next(iter(mine))] = name
    return [tuple(group[part] for part in parts.words) for group in found.values() if len(group) == len(parts.words)]


def _choices(
    whole: str, shape: Shape, parts: dict[str, Shape], best: Best, *, flipped: bool, ordered: int = MOST_ORDERED
) -> tuple[Moves, ...]:
    """Return the distinct ways to make an array of parts, as moves from the first program to the second."""
    name = next(iter(parts))
    order = best(name, whole) if flipped else backward(best(whole, name))
    moves = (
        each if flipped else tuple(m.inverse for m in each) for each in fusions(whole, shape, parts, order, ordered=ordered)
    )
    return tuple(dict.fromkeys(islice(moves, MOST_CHOICES)))
