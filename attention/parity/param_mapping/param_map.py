"""ParamMap: which arrays of one program are which of another's, exact to the bit and in both directions.

    backward(forward(x)) = x        forward(backward(y)) = y        every element of a matched array is used exactly once

Two recurrent biases that one program keeps apart and the other adds up stand beside the bijection as `added`, from either side:
the sum is what counts, its gradient is that of each, and taken apart it is the one of the bijection, and zero.

A tied array, held once by one program and twice by the other, stands beside the bijection as a copy: its values are copied,
and its gradients are added up before they are compared.
"""

# JSON may hold anything.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from attention.parity.adapters import Arrays
from attention.parity.param_mapping import map_table
from attention.parity.param_mapping.block_moves import Block, Move, Shape
from attention.parity.param_mapping.coverage import by_name, faults
from attention.spec.errors import FileError, ParamError
from attention.spec.options import PATH, Option, check_options, checked
from attention.spec.storage.disk import brief, listed, read_json, write_text

FORMAT = "attention.parity.ParamMap"
VERSION = 1

Given = Mapping[str, np.ndarray]

GIVEN = Option(
    "NumPy arrays by name",
    lambda value: isinstance(value, Mapping) and all(isinstance(array, np.ndarray) for array in value.values()),
    ParamError,
)
MOVES = Option("a tuple of Move", lambda value: isinstance(value, tuple) and all(isinstance(move, Move) for move in value))
NAMES = Option("a tuple of names", lambda value: isinstance(value, tuple) and all(type(name) is str for name in value))


@dataclass(frozen=True)
class ParamMap:
    """A reversible map between the parameters of two programs.

    Args:
        moves: the bijection.
        copies: moves to or from a whole array that the other program, which holds it once, has in the bijection already.
        left_over: the names that have no counterpart, of the first and of the second.
        ties: what the evidence could not tell apart, a line each; empty where no other map fits as well.
        open: why two programs whose outputs differ under this map cannot be compared by it, a line each: what no evidence says;
            empty where the map is established.
        added: moves to blocks of the second that the bijection has already, to be added to what is there.
        parted: moves from blocks of the first that the bijection has already, to what the second adds to them: zero.
        state: pairs of names, of the first and of the second: a parameter that is left over, and the other's state that it is.
        provable: names of the second of an open map, which is established after all if each of their uses makes an array of the
            first program; empty where that would not show it.

    Raises:
        ParamError: an element of a matched array is used twice or never, or a name is both matched and left over.
    """

    moves: tuple[Move, ...] = ()
    copies: tuple[Move, ...] = ()
    left_over: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    ties: tuple[str, ...] = ()
    open: tuple[str, ...] = ()
    state: tuple[tuple[str, str], ...] = ()
    added: tuple[Move, ...] = ()
    parted: tuple[Move, ...] = ()
    provable: tuple[str, ...] = ()

    OPTIONS: ClassVar[Mapping[str, Option]] = {
        "moves": MOVES,
        "copies": MOVES,
        "left_over": Option(
            "a pair of tuples of names",
            lambda value: isinstance(value, tuple) and len(value) == 2 and all(map(NAMES.holds, value)),
        ),
        "ties": NAMES,
        "open": NAMES,
        "provable": NAMES,
        "added": MOVES,
        "parted": MOVES,
        "state": Option(
            "a tuple of pairs of names",
            lambda value: isinstance(value, tuple) and all(NAMES.holds(pair) and len(pair) == 2 for pair in value),
        ),
    }

    def __post_init__(self) -> None:
        check_options(self, "ParamMap ")
        for side, blocks, left in zip(("first", "second"), (self.firsts, self.seconds), self.left_over, strict=True):
            wrong = list(faults(blocks).values())
            wrong += [f"{name} is both matched and left over" for name in left if name in blocks]
            if wrong:
                raise ParamError(f"the {side} program's parameters must each be used exactly once: {listed(wrong)}")
        for copy in self.copies:
            ends = (copy.first.name in self.firsts, copy.second.name in self.seconds)
            if sum(ends) != 1 or not (copy.first.whole and copy.second.whole):
                ends = f"{brief(copy.first, 100)} -> {brief(copy.second, 100)}"
                raise ParamError(f"a tied {ends} must be whole, one end of it in the bijection")

    @cached_property
    def firsts(self) -> dict[str, list[Block]]:
        """The blocks of each matched array of the first program, copies aside."""
        return by_name(move.first for move in (*self.moves, *self.added))

    @cached_property
    def seconds(self) -> dict[str, list[Block]]:
        """The blocks of each matched array of the second program, copies aside."""
        return by_name(move.second for move in (*self.moves, *self.parted))

    @property
    def every(self) -> tuple[Move, ...]:
        """All moves: the bijection, copies, and what is added or parted."""
        return (*self.moves, *self.copies, *self.added, *self.parted)

    @property
    def inverse(self) -> ParamMap:
        """The map from the second program to the first."""
        groups = self.moves, self.copies, self.parted, self.added
        moves, copies, added, parted = (tuple(move.inverse for move in group) for group in groups)
        state = tuple((second, first) for first, second in self.state)
        return ParamMap(moves, copies, (self.left_over[1], self.left_over[0]), self.ties, self.open, state, added, parted)

    @checked(arrays=GIVEN)
    def forward(self, arrays: Given) -> Arrays:
        """Return the second program's arrays of the first's: values, or gradients; some of them, or all.

        An array of the second is returned if all that it is made of is given; what is left over is passed over. A tied array
        is copied, which is right for values; for its gradients see `gradients`.

        Raises:
            ParamError: an array is unknown or misshapen.
        """
        check(arrays, self)
        blocks = [
            (move.second, move.forward(move.first.of(arrays[move.first.name]))) for move in self._from(arrays, self.moves)
        ]
        blocks += [
            (move.second, np.zeros(move.second.sizes, arrays[move.first.name].dtype))
            for move in self._from(arrays, self.parted)
        ]
        made = _whole(blocks)
        for move in self.added:
            if move.first.name not in arrays:
                _ = made.pop(move.second.name, None)
            elif move.second.name in made:
                move.second.of(made[move.second.name])[...] += move.forward(move.first.of(arrays[move.first.name]))
        tied = self._from(arrays, [copy for copy in self.copies if copy.second.name not in self.seconds])
        return {**made, **{copy.second.name: copy.forward(arrays[copy.first.name]).copy() for copy in tied}}

    @checked(arrays=GIVEN)
    def backward(self, arrays: Given) -> Arrays:
        """Return the first program's arrays of the second's: the inverse of `forward`, and like it in all else."""
        return self.inverse.forward(arrays)

    @checked(first=GIVEN, second=GIVEN)
    def gradients(self, first: Given, second: Given) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return both programs' gradients side by side, by the names and in the layout of the second.

        The gradients of the two copies of a tied array are added up, as the program that holds it once has done. Where
        only a part of an array of the second is given, that part is named: "qkv (24, 8) rows 0:8".

        Args:
            first: gradients of the first program's parameters, by name; some of them, or all.
            second: those of the second's.

        Raises:
            ParamError: an array is unknown or misshapen.
        """
        check(first, self)
        check(second, self.inverse)
        found: dict[Block, tuple[np.ndarray, np.ndarray]] = {}
        for move in self._from(first, self.moves):
            if move.second.name in second:
                ours, theirs = move.forward(move.first.of(first[move.first.name])), move.second.of(second[move.second.name])
                for copy in self.copies:
                    if copy.second.name == move.second.name and copy.first.name in first:
                        ours = ours + move.second.of(copy.forward(first[copy.first.name]))
                    elif copy.first.name == move.first.name and copy.second.name in second:
                        theirs = theirs + move.forward(move.first.of(copy.backward(second[copy.second.name])))
                found[move.second] = (ours, theirs)
        sides = [_whole([(block, pair[side]) for block, pair in found.items()]) for side in (0, 1)]
        parts = {str(block): pair for block, pair in found.items() if block.name not in sides[0]}
        return {**{name: (sides[0][name], sides[1][name]) for name in sides[0]}, **parts}

    def _from(self, arrays: Given, moves: Iterable[Move]) -> list[Move]:
        return [move for move in moves if move.first.name in arrays]

    def __str__(self) -> str:
        groups = (self.moves, ""), (self.copies, ", tied"), (self.added, ", added"), (self.parted, ", added: zero")
        moves = [(move, f"{move.words}{how}") for group, how in groups for move in group]
        rows = [(f"{m.first.name} {m.first.shape}", f"{m.second.name} {m.second.shape}", said, m.evidence) for m, said in moves]
        wide = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
        lines = [f"{a:{wide[0]}}  ->  {b:{wide[1]}}   {c:{wide[2]}}   by {d}" for a, b, c, d in rows]
        for side, names in zip(("first", "second"), self.left_over, strict=True):
            lines += [f"left over in the {side}: {', '.join(names)}"] if names else []
        return "\n".join(
            [line.removesuffix("   by ").rstrip() for line in lines]
            + [f"{first}  ->  {second}   a parameter of one, state of the other" for first, second in self.state]
            + [f"tie: {tie}" for tie in self.ties]
            + [f"open: {each}" for each in self.open]
        )

    @property
    def table(self) -> str:
        """The map block by block, what is alike in several layers on one line."""
        return map_table.table(self)

    @checked(path=PATH)
    def to_json(self, path: str | Path) -> None:
        """Write the map to a file, whole or not at all.

        Raises:
            FileError: the path cannot be written.
        """
        data = {
            "format": FORMAT,
            "version": VERSION,
            "moves": [move.to_dict() for move in self.moves],
            "copies": [copy.to_dict() for copy in self.copies],
            "added": [move.to_dict() for move in self.added],
            "parted": [move.to_dict() for move in self.parted],
            "left_over": self.left_over,
            "ties": self.ties,
            "open": self.open,
            "state": self.state,
        }
        write_text(path, json.dumps(data, indent=1) + "\n")

    @classmethod
    @checked(path=PATH)
    def from_json(cls, path: str | Path) -> ParamMap:
        """Read a map that `to_json` wrote.

        Raises:
            FileError: the file cannot be read, is not ours, is of a later version, or is damaged.
            ParamError: what it describes is no bijection.
        """
        said = f"path {brief(repr(str(path)))}"
        data = read_json(path, "a parameter map in JSON")
        if not isinstance(data, dict) or (data.get("format"), data.get("version")) != (FORMAT, VERSION):
            raise FileError(f"{said} must have format {FORMAT!r} and version {VERSION}")
        try:
            return _parsed(data)
        except ParamError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise FileError(f"{said} is damaged: {type(error).__name__} {brief(error)}") from error


def _parsed(data: dict[str, Any]) -> ParamMap:
    # Files that were written before sums were known hold none.
    groups = data["moves"], data["copies"], data.get("added", []), data.get("parted", [])
    moves, copies, added, parted = (tuple(map(Move.from_dict, group)) for group in groups)
    first, second = map(_texts, data["left_over"])
    state = tuple(_texts(pair) for pair in data.get("state", []))
    ties, still = _texts(data["ties"]), _texts(data.get("open", []))
    return ParamMap(moves, copies, (first, second), ties, still, state, added, parted)  # pyright: ignore[reportArgumentType]


def _texts(texts: Any) -> tuple[str, ...]:
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"{brief(repr(texts), 60)} must be a list of texts")
    return tuple(texts)


def check(arrays: Given, found: ParamMap) -> None:
    """Refuse arrays that the first program of a map does not have.

    Raises:
        ParamError: an array is unknown or misshapen.
    """
    wanted: dict[str, Shape] = {move.first.name: move.first.shape for move in found.every}
    wrong = [
        f"{name} {array.shape} must be {wanted[name]}" if name in wanted else f"{name} must be a parameter of the map"
        for name, array in arrays.items()
        if wanted.get(name) != array.shape and name not in found.left_over[0]
    ]
    if wrong:
        raise ParamError(listed(wrong))


def _whole(filled: list[tuple[Block, np.ndarray]]) -> Arrays:
    """Return the arrays all of whose elements are given."""
    groups: dict[str, list[tuple[Block, np.ndarray]]] = {}
    for block, value in filled:
        groups.setdefault(block.name, []).append((block, value))
    made: Arrays = {}
    for name, parts in groups.items():
        if sum(value.size for _, value in parts) == math.prod(parts[0][0].shape):
            made[name] = np.empty(parts[0][0].shape, np.result_type(*(value for _, value in parts)))
            for block, value in parts:
                block.of(made[name])[...] = value
    return made
