"""Layout conventions: which of the layouts that two shapes allow is the likely one for the frameworks of the arrays.

torch `weight` (out, in, *window)        Flax, Keras `kernel` (*window, in, out)        an embedding: the same in both
"""

from __future__ import annotations

from attention.parity.param_mapping.block_moves import Shape
from attention.parity.param_mapping.candidates import Entry, Preference
from attention.parity.param_mapping.name_assignment import spelt, words
from attention.parity.param_mapping.shape_layouts import Layout

ROWS = "outputs first"
COLUMNS = "inputs first"


def stored(name: str, framework: str) -> str:
    """Return how a framework's kernel of this name is stored."""
    leaf = spelt(name)[-1:]
    if leaf == ["kernel"]:
        return COLUMNS
    # Equinox says weight, and stores it as torch does.
    return ROWS if leaf == ["weight"] or framework == "torch" else COLUMNS


DOCUMENTED = frozenset({"weight", "kernel", "w", "embedding", "scale", "bias"})
"""What the frameworks' own layers call their parameters."""


def documented(name: str) -> bool:
    """Return whether a parameter is called as one of the frameworks' own layers, whose layout is documented."""
    pieces = [piece for piece in spelt(name) if not piece.isdigit()]
    return bool({*pieces[-1:], *pieces[-2:-1]} & DOCUMENTED) or "weight" in pieces


def preference(first: str, second: str, frameworks: tuple[str, str]) -> Preference:
    """Return what puts layouts from one parameter to the other in order, the likely one first.

    Args:
        first: the name in the first program.
        second: the name in the second.
        frameworks: of the two programs.
    """
    ways = stored(first, frameworks[0]), stored(second, frameworks[1])
    kept = ways[0] == ways[1] or "embed" in words(first) or "embed" in words(second)

    def order(found: list[Layout], start: Shape, end: Shape) -> list[Layout]:
        thin = [tuple(size for size in shape if size != 1) for shape in (start, end)]
        coarse = min(thin, key=len)
        # False sorts before True, and what neither rule prefers stays as it stands.
        if kept:
            return sorted(found, key=lambda each: not each.plain)
        return sorted(found, key=lambda each: not each.turns(coarse, to_kernel=ways[0] == ROWS))

    return order


def laid_out_alike(entries: list[Entry]) -> list[Entry]:
    """Return the entries with square kernels laid out as the rectangular ones of the same names are.

    A program that keeps one kernel inputs first, as GPT-2's `Conv1D` does, keeps all so.
    """
    votes: dict[tuple[str, ...], int] = {}
    for entry in entries:
        if len(entry.choices) == 1:
            for move in entry.choices[0]:
                if len(move.first.shape) == len(move.second.shape) == 2:
                    votes[_leaves(entry)] = votes.get(_leaves(entry), 0) + (1 if move.order == (1, 0) else -1)
    found: list[Entry] = []
    for entry in entries:
        vote = votes.get(_leaves(entry), 0)
        if len(entry.choices) == 2 and all(len(moves) == 1 for moves in entry.choices) and vote:
            turned = [moves[0].order == (1, 0) for moves in entry.choices]
            if sorted(turned) == [False, True] and turned[0] != (vote > 0):
                entry = Entry((entry.choices[1], entry.choices[0]), entry.evidence)  # noqa: PLW2901
        found.append(entry)
    return found


def _leaves(entry: Entry) -> tuple[str, ...]:
    move = entry.choices[0][0]
    return tuple((spelt(name) or [""])[-1] for name in (move.first.name, move.second.name))
