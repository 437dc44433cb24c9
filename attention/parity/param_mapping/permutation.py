"""Recover reshapes, transposes and slices from a permutation, given the addresses along each axis.

    address(b[i, j, ...]) = base + line_0[i] + line_1[j] + ...          any reshape, transpose, split or concatenation
    line[i] = digit_1 * stride_1 + digit_2 * stride_2 + ...             i in mixed radix: the axes that were merged

An address is a position in the first program's arrays laid end to end (`Pool`). A line that is no such sum, or that leaves
its array, is cut: one after another, or within each of G equal groups, as when q, k and v are interleaved per head.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from attention.parity.param_mapping.block_moves import Block, Move, Shape, Spans
from attention.parity.param_mapping.strided_blocks import Factors, strided_block

MOST_PIECES = 1024
"""An array that is cut into more is not explained by its layout."""
MOST_ENDS = 48
"""How many ends of a piece are tried, the farthest first."""


@dataclass(frozen=True)
class Pool:
    """Arrays laid end to end, so that one integer says where an element is.

    Args:
        shapes: of the arrays, by name, in their order.
    """

    shapes: Mapping[str, Shape]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The arrays, in order."""
        return tuple(self.shapes)

    @cached_property
    def starts(self) -> np.ndarray:
        """The address of the first element of each, and, at the end, the size of all."""
        return np.cumsum([0, *(math.prod(shape) for shape in self.shapes.values())])

    def labels(self) -> dict[str, np.ndarray]:
        """Return arrays of these shapes that hold their own addresses."""
        spans = zip(self.shapes.items(), self.starts[:-1], strict=True)
        return {name: start + np.arange(math.prod(shape)).reshape(shape) for (name, shape), start in spans}

    def owners(self, addresses: np.ndarray) -> np.ndarray:
        """Return which array, by its place in `names`, each address belongs to."""
        return np.searchsorted(self.starts, addresses, side="right") - 1


@dataclass(frozen=True, eq=False)
class Lines:
    """Where the elements of an array come from, axis by axis.

    Attributes:
        base: the address of its first element.
        lines: for each axis, the addresses along it, from 0.
    """

    base: int
    lines: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, labels: np.ndarray) -> Lines | None:
        """Return the lines of an array of addresses, or None where they do not add up to it."""
        first = (0,) * labels.ndim
        base = int(labels[first])
        lines = cls(base, tuple(labels[(*first[:axis], slice(None), *first[axis + 1 :])] - base for axis in range(labels.ndim)))
        return lines if np.array_equal(lines.addresses, labels) else None

    @property
    def addresses(self) -> np.ndarray:
        """The address of every element."""
        return np.asarray(self.base + sum(np.ix_(*self.lines))) if self.lines else np.asarray(self.base)


@dataclass(frozen=True)
class Piece:
    """A part of an axis that is read as (groups, width): columns `start:stop` of every group."""

    groups: int
    start: int
    stop: int

    def of(self, line: np.ndarray) -> np.ndarray:
        """Return the piece of a line."""
        return line.reshape(self.groups, -1)[:, self.start : self.stop].ravel()


def moves_of(pool: Pool, labels: Mapping[str, np.ndarray]) -> tuple[Move, ...] | None:
    """Return the moves that fill the second's arrays, which hold each address of the pool once; None where there are none.

    Args:
        pool: the first's arrays.
        labels: for each array of the second, the addresses of its elements.
    """
    filled = [_filled(name, addresses, pool) for name, addresses in labels.items()]
    if None not in filled:
        return tuple(move for moves in filled for move in moves or ())
    # Parts of unequal strides do not add up to lines of the whole, but each of them is a box of it.
    other = Pool({name: addresses.shape for name, addresses in labels.items()})
    back = np.empty(int(pool.starts[-1]), int)
    back[np.concatenate([addresses.ravel() for addresses in labels.values()])] = np.arange(back.size)
    emptied = [_filled(name, back[own], other) for name, own in pool.labels().items()]
    return None if None in emptied else tuple(move.inverse for moves in emptied for move in moves or ())


def _filled(name: str, addresses: np.ndarray, pool: Pool) -> tuple[Move, ...] | None:
    lines = Lines.of(addresses)
    return None if lines is None else solve(name, lines, pool)


def solve(name: str, lines: Lines, pool: Pool) -> tuple[Move, ...] | None:
    """Return the moves that fill an array of the second program, or None where no splits and transposes do.

    Args:
        name: of the array.
        lines: where its elements come from.
        pool: the arrays of the first program.
    """
    whole = [radix(line) for line in lines.lines]
    mixed = [axis for axis, line in enumerate(lines.lines) if whole[axis] is None or len(_runs(lines.base + line, pool)) > 1]
    if len(mixed) > 1:
        return None
    axis = mixed[0] if mixed else 0
    cut = (
        _cuts(lines.base + lines.lines[axis], pool) if mixed else [Piece(1, 0, len(lines.lines[0]))] if lines.lines else [None]
    )
    moves = [_move(name, lines, whole, axis, piece, pool) for piece in cut or [None]] if cut else []
    return tuple(move for move in moves if move is not None) if moves and None not in moves else None


def radix(line: np.ndarray) -> Factors | None:
    """Return the digits in which a line of addresses counts, or None where it does not count upwards in any.

    >>> radix(np.array([0, 1, 2, 30, 31, 32]))
    ((2, 30), (3, 1))
    """
    factors: Factors = ()
    while len(line) > 1:
        steps = np.diff(line)
        breaks = np.flatnonzero(steps != steps[0])
        run = int(breaks[0]) + 1 if len(breaks) else len(line)
        if steps[0] <= 0 or len(line) % run:
            return None
        rows = line.reshape(-1, run)
        if np.any(rows - rows[:, :1] != rows[0] - rows[0, 0]):
            return None
        factors = ((run, int(steps[0])), *factors)
        line = rows[:, 0]
    return factors


def _runs(addresses: np.ndarray, pool: Pool) -> np.ndarray:
    """Return where a line enters an array, its start included."""
    return np.flatnonzero(np.diff(pool.owners(addresses), prepend=-1))


def _cuts(line: np.ndarray, pool: Pool) -> list[Piece] | None:
    """Return the fewest pieces, over all sizes of a group, that each lie in one array and count in digits."""
    best: list[Piece] | None = None
    owners = pool.owners(line)
    for groups in (g for g in range(1, len(line) + 1) if len(line) % g == 0):
        most = MOST_PIECES if best is None else len(best) - 1
        found = _pieces(line.reshape(groups, -1), owners.reshape(groups, -1), most)
        best = best if found is None else found
    return best


def _pieces(table: np.ndarray, owners: np.ndarray, most: int) -> list[Piece] | None:
    """Return the pieces of a line in groups, taken greedily, each as long as can be; None where they are too many."""
    apart = np.any(np.diff(owners, axis=1) != 0, axis=0) | np.any(np.diff(table - table[:1], axis=1) != 0, axis=0)
    walls = [*(np.flatnonzero(apart) + 1).tolist(), table.shape[1]]
    if len(walls) > most or np.any(owners != owners[0]):
        return None
    pieces: list[Piece] = []
    start = 0
    while start < table.shape[1]:
        wall = next(w for w in walls if w > start)
        stop = next((end for end in _ends(table[0], start, wall) if radix(table[:, start:end].ravel()) is not None), None)
        if stop is None or len(pieces) == most:
            return None
        pieces.append(Piece(len(table), start, stop))
        start = stop
    return pieces


def _ends(row: np.ndarray, start: int, wall: int) -> list[int]:
    """Return where a piece may end: at the wall, or where the step changes, the farthest first, one element at the least."""
    steps = np.diff(row[start:wall])
    changes = (start + 1 + np.flatnonzero(np.diff(steps, prepend=steps[:1]))).tolist()
    return [wall, *reversed(changes[:MOST_ENDS]), start + 1]


def _move(name: str, lines: Lines, whole: Sequence[Factors | None], axis: int, piece: Piece | None, pool: Pool) -> Move | None:
    """Return the move of one piece of one axis, over the whole of the other axes; None where it is no box of an array."""
    shape = tuple(len(line) for line in lines.lines)
    origin, digits, split = lines.base, list(whole), shape
    spans: Spans = tuple((0, size) for size in shape)
    if piece is not None:
        part = piece.of(lines.lines[axis])
        origin, digits[axis] = origin + int(part[0]), radix(part)
        grouped, inner = shape[:axis], shape[axis] // piece.groups
        split = (*grouped, *((piece.groups,) if piece.groups > 1 else ()), inner, *shape[axis + 1 :])
        spans = tuple((0, size) for size in split)
        at = axis + (piece.groups > 1)
        spans = (*spans[:at], (piece.start, piece.stop), *spans[at + 1 :])
    factors = _merged(factor for each in digits if each is not None for factor in each)
    owner = int(pool.owners(np.asarray(origin)))
    source = pool.names[owner]
    first = strided_block(source, pool.shapes[source], origin - int(pool.starts[owner]), factors)
    if first is None:
        return None
    ranked = sorted(range(len(factors)), key=lambda each: -factors[each][1])
    axes = tuple(factors[each][0] for each in ranked)
    return Move(first, Block(name, shape, split, spans), axes, tuple(ranked.index(each) for each in range(len(factors))))


def _merged(factors: Iterable[tuple[int, int]]) -> Factors:
    """Return the digits with those joined that count on from one another."""
    joined: list[tuple[int, int]] = []
    for size, stride in factors:
        if joined and joined[-1][1] == size * stride:
            joined[-1] = (joined[-1][0] * size, stride)
        else:
            joined.append((size, stride))
    return tuple(joined)
