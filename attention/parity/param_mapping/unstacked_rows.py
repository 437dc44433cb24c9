"""Unstacked rows: an array used one row at a time is split into one parameter per layer, as `scan` stores them.

layers.wqkv (L, M, 3 HD), used as wqkv[0], wqkv[1], ...        ->        layers.0.wqkv, layers.1.wqkv, ... (M, 3 HD)

Row by row, what is stacked and fused at once, or called otherwise, is matched as any other parameter is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import takewhile

import numpy as np

from attention.parity.adapters import Arrays, Call, Made, Program
from attention.parity.param_mapping.block_moves import Block, Move
from attention.parity.param_mapping.coverage import by_name, faults
from attention.parity.param_mapping.param_map import ParamMap
from attention.parity.param_mapping.param_use import Uses, View

MOST_ROWS = 4096
"""Rows of all arrays together."""


class Unstacked(Program):
    """A program whose stacked parameters stand row by row.

    Args:
        inner: the program.
        rows: the names of the rows of each stacked parameter.
        uses: how the program uses its parameters.
    """

    def __init__(self, inner: Program, rows: Mapping[str, tuple[str, ...]], uses: Uses) -> None:
        self.inner, self.rows = inner, rows
        self.name, self.framework = inner.name, inner.framework
        self.params: Arrays = {}
        for name, array in inner.params.items():
            self.params |= dict(zip(rows[name], array, strict=True)) if name in rows else {name: array}
        transposed = {row for name in uses.transposed for row in rows.get(name, (name,))}
        self.uses = Uses([replace(use, view=self._view(use.view)) for use in uses.found], uses.before, transposed)

    def _view(self, view: View) -> View:
        if view.name not in self.rows:
            return view
        row, start = divmod(view.start, self.inner.params[view.name][0].size)
        return replace(view, name=self.rows[view.name][row], start=start)

    @property
    def state(self) -> Arrays:
        return self.inner.state

    def holding(self, state: Arrays) -> Unstacked:
        return self.changed(inner=self.inner.holding(state))

    def run(
        self, call: Call, *, params: Arrays | None = None, cotangents: Arrays | None = None, dtype: str | None = None
    ) -> Made:
        given = self.params if params is None else params
        whole = {
            name: np.stack([given[row] for row in self.rows[name]]) if name in self.rows else given[name]
            for name in self.inner.params
        }
        return self.inner.run(call, params=whole, cotangents=cotangents, dtype=dtype)

    @property
    def blocks(self) -> dict[str, Block]:
        """The block of the program's own array that each row is."""
        found: dict[str, Block] = {}
        for name, rows in self.rows.items():
            shape = self.inner.params[name].shape
            rest = tuple((0, size) for size in shape[1:])
            found |= {row: Block(name, shape, shape, ((at, at + 1), *rest)) for at, row in enumerate(rows)}
        return found


def unstacked(programs: tuple[Program, Program], uses: tuple[Uses, Uses]) -> tuple[Program, Program] | None:
    """Return both programs with the rows of what one uses row by row and the other lacks, or None where there are none.

    Args:
        programs: the first and the second.
        uses: how they use their parameters.
    """
    held = [Counter(array.size for array in each.params.values()) for each in programs]
    found: list[Program] = []
    for at, each in enumerate(programs):
        by_row = _by_row(each.params, uses[at])
        # An array that the other program has as it is, is no stack.
        stacks = [name for name in by_row if held[at][each.params[name].size] > held[1 - at][each.params[name].size]]
        rows = _named(stacks, each.params)
        found.append(Unstacked(each, rows, uses[at]) if rows else each)
    return None if found[0] is programs[0] and found[1] is programs[1] else (found[0], found[1])


def _by_row(params: Arrays, uses: Uses) -> list[str]:
    """Return the parameters of which every use is of one row, and of which all rows are used."""
    rows: dict[str, set[int]] = {}
    whole: set[str] = set()
    for use in uses.found:
        name, (low, high) = use.view.name, use.view.span
        size = params[name][0].size if params[name].ndim > 1 else 0
        if not size or use.view.strides is None or low // size != (high - 1) // size:
            whole.add(name)
        else:
            rows.setdefault(name, set()).add(low // size)
    return [n for n, seen in rows.items() if n not in whole and len(seen) == len(params[n]) > 1]


def _named(stacks: list[str], params: Arrays) -> dict[str, tuple[str, ...]]:
    """Return the names of the rows of stacked parameters: a number where the names part, as a list of layers has it."""
    found: dict[str, tuple[str, ...]] = {}
    for count in dict.fromkeys(len(params[name]) for name in stacks):
        names = [name for name in stacks if len(params[name]) == count]
        pieces = [re.split(r"(?<=[.\]])", name)[:-1] for name in names]
        prefix = "".join(each[0] for each in takewhile(lambda each: len({*each}) == 1, zip(*pieces, strict=False)))
        for name in names:
            found[name] = tuple(f"{prefix}{row}.{name[len(prefix) :].lstrip('.')}" for row in range(count))
    taken = {*params} - {*stacks}
    rows = [row for each in found.values() for row in each]
    return found if len(rows) <= MOST_ROWS and not taken & {*rows} else {}


def stacked(found: ParamMap, programs: tuple[Program, Program]) -> ParamMap:
    """Return the map between two programs of that between their rows, without arrays only some of whose rows are matched.

    Args:
        found: the map of `programs`.
        programs: as `unstacked` returns them.
    """
    moves, copies = ([_whole(move, programs) for move in group] for group in (found.moves, found.copies))
    while True:
        wrong = faults(by_name(move.first for move in moves)).keys(), faults(by_name(move.second for move in moves)).keys()
        kept = [move for move in moves if move.first.name not in wrong[0] and move.second.name not in wrong[1]]
        if len(kept) == len(moves):
            break
        moves = kept
    ends = {m.first.name for m in moves}, {m.second.name for m in moves}
    # A copy is of a whole array, which a row is not.
    tied = [c for c in copies if c.first.whole and c.second.whole and (c.first.name in ends[0]) != (c.second.name in ends[1])]
    ends = ends[0] | {c.first.name for c in tied}, ends[1] | {c.second.name for c in tied}
    own = (getattr(each, "inner", each).params for each in programs)
    left = [tuple(name for name in params if name not in end) for params, end in zip(own, ends, strict=True)]
    return ParamMap(tuple(moves), tuple(tied), (left[0], left[1]), found.ties, found.open, found.state)


def _whole(move: Move, programs: tuple[Program, Program]) -> Move:
    """Return a move between rows as one between the arrays that they are of."""
    ends: list[Block] = []
    for block, each in zip((move.first, move.second), programs, strict=True):
        row = each.blocks.get(block.name) if isinstance(each, Unstacked) else None
        if row is not None:
            block = Block(row.name, row.shape, (row.shape[0], *block.split), (row.spans[0], *block.spans))  # noqa: PLW2901
        ends.append(block)
    return replace(move, first=ends[0], second=ends[1])
