"""Recurrent biases: torch has two in every gate, which are added up; most other programs have one.

bias_ih[g] + bias_hh[g]    <->    hg.bias        an LSTM, and the first gates of a GRU
bias_hh[n]                 <->    hn.bias        the gate of a GRU whose second bias is reset
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from attention.parity.adapters import Arrays
from attention.parity.param_mapping.bias_inference import stem
from attention.parity.param_mapping.block_moves import Block, Move
from attention.parity.param_mapping.coverage import by_name, faults
from attention.parity.param_mapping.name_assignment import words

Split = tuple[list[Move], list[Move], list[Move]]


def summed(moves: list[Move], first: Arrays, second: Arrays) -> Split:
    """Return the moves with both halves of recurrent biases that one program adds up: the bijection, added and parted ones.

    Args:
        moves: all that are known.
        first: the first program's parameters.
        second: the second's.
    """
    moves, added = _side(moves, first, second)
    turned, parted = _side([move.inverse for move in moves], second, first)
    if not parted:
        return moves, added, []
    return [move.inverse for move in turned], added, [move.inverse for move in parted]


def _side(moves: list[Move], first: Arrays, second: Arrays) -> tuple[list[Move], list[Move]]:
    """Return the moves, and those of the halves of the first program that are added to what its others are moved to.

    Where it is not clear what a half is added to, its other half is not moved either.
    """
    added: list[Move] = []
    moved = {move.first.name for move in moves}
    for name, twin in _halves(first):
        if name in moved or twin not in moved:
            continue
        found = _beside(name, twin, moves, {n: x for n, x in second.items() if n not in {m.second.name for m in moves}})
        more = [] if found is None else found[0]
        extra = [] if found is None else found[1]
        if found is None or faults(by_name(move.first for move in (*more, *extra))):
            moves = [move for move in moves if move.first.name != twin]
            continue
        moves, added = [*moves, *more], [*added, *extra]
    return moves, added


def _halves(params: Arrays) -> list[tuple[str, str]]:
    """Return the recurrent biases, each with the other half."""
    biases = [name for name in params if "bias" in words(name)]
    swaps = (("ih", "hh"), ("hh", "ih"))
    return [(n, n.replace(a, b)) for n in biases for a, b in swaps if a in n and n.replace(a, b) in params]


def _beside(name: str, twin: str, moves: Sequence[Move], left: Arrays) -> tuple[list[Move], list[Move]] | None:
    """Return the moves of a half whose other half is moved: to biases of its own gates, and to be added to those of the other.

    Args:
        name: of the half.
        twin: of the other half.
        moves: all that are known.
        left: the second program's parameters that are not matched.
    """
    biases = {stem(other): other for other in left if "bias" in words(other)}
    gates = {_rows(move.first): move for move in moves if stem(move.first.name) == stem(name) and len(move.first.shape) > 1}
    own: list[Move] = []
    added: list[Move] = []
    for move in (move for move in moves if move.first.name == twin):
        if len(move.first.split) != 1:
            return None
        block = replace(move.first, name=name)
        gate = gates.get(move.first.spans[0])
        mine = biases.get(stem(gate.second.name)) if gate is not None else None
        if mine is not None and left[mine].size == math.prod(block.sizes):
            end = Block.all_of(mine, left[mine].shape)
            own.append(Move(block, end, block.sizes, (0,), f"its kernel {gate.second.name if gate else ''}"))
        else:
            added.append(replace(move, first=block, evidence=f"added to {twin}"))
    return own, added


def _rows(block: Block) -> tuple[int, int]:
    return block.spans[0]
