"""Bias mapping: a bias is permuted as the output axis of its kernel is.

    kernel[..., o] -> kernel'[..., o']        implies        bias[o] -> bias'[o']

So a zero bias, of which values say nothing and shapes little, is fused, split or reordered as its kernel is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from attention.parity.adapters import Arrays
from attention.parity.param_mapping.block_moves import Block, Move, Shape
from attention.parity.param_mapping.coverage import by_name, faults
from attention.parity.param_mapping.name_assignment import spelt, words
from attention.parity.param_mapping.permutation import Lines, Pool, solve


def follow(
    moves: Sequence[Move],
    first: Arrays,
    second: Arrays,
    added: tuple[Mapping[str, str], Mapping[str, str]] = ({}, {}),
) -> list[Move]:
    """Return the moves of the biases whose kernels are matched.

    Args:
        moves: those of the kernels.
        first: the first program's parameters that are not matched yet.
        second: the second's.
        added: what each program adds to the product of a parameter, by the name of the parameter: its bias, if no name says so.
    """
    ours, theirs = (
        _biases(side, uses, {getattr(move, end).name for move in moves})
        for side, uses, end in zip((first, second), added, ("first", "second"), strict=True)
    )
    pool = Pool({name: first[name].shape for name in dict.fromkeys(ours.values())})
    labels = pool.labels()
    into: dict[str, list[Move]] = {}
    for move in moves:
        into.setdefault(move.second.name, []).append(move)
    found: list[Move] = []
    for kernel, parts in into.items():
        name = theirs.get(kernel)
        biases = {move.first.name: ours.get(move.first.name) for move in parts}
        known = {source: labels[bias] for source, bias in biases.items() if bias is not None}
        if name is not None and name != kernel and len(known) == len(biases):
            bias = ours[parts[0].first.name]
            led = _plain(bias, first[bias].shape, parts, name, second[name].shape)
            led = led or _led(name, second[name].shape, parts, known, pool)
            found += [replace(move, evidence=f"its kernel {kernel}") for move in led]
    while True:
        # Names may give one bias to two kernels, which then belongs to neither.
        wrong = faults(by_name(move.first for move in found)), faults(by_name(move.second for move in found))
        gone = {move.second.name for move in found if move.first.name in wrong[0]} | wrong[1].keys()
        if not gone:
            return found
        found = [move for move in found if move.second.name not in gone]


def _biases(arrays: Arrays, added: Mapping[str, str], kernels: set[str]) -> dict[str, str]:
    """Return the bias of each kernel: of its name, or else what is added to its product."""
    named = {stem(name): name for name in arrays if "bias" in words(name)}
    found = {kernel: named.get(stem(kernel)) or added.get(kernel, "") for kernel in kernels}
    return {kernel: bias for kernel, bias in found.items() if bias in arrays and bias != kernel}


@cache
def stem(name: str) -> tuple[str, ...]:
    """Return the pieces of a name that a kernel and its bias share.

    >>> stem("attn.in_proj_weight"), stem("attn.wq"), stem("attn.bq")
    (('attn', 'in', 'proj'), ('attn', 'q'), ('attn', 'q'))
    >>> stem("rnn.bias_hh_l0_reverse") == stem("rnn.weight_hh_l0_reverse")
    True
    """
    pieces = spelt(name)
    roles = {"weight", "bias"}
    found: list[str] = []
    for at, piece in enumerate(pieces):
        # What is called gamma within a name is a module; weight_hh_l0_reverse is a weight.
        meant = words(piece) if at >= len(pieces) - 2 or piece in {"weight", "bias", "kernel"} else ()
        found += [word for word in meant if word not in roles] if roles & {*meant} else [piece]
    return tuple(found)


def _plain(bias: str, shape: Shape, parts: list[Move], name: str, end: Shape) -> tuple[Move, ...]:
    """Return the move of a bias whose kernel moves as a whole and keeps its outputs in order, or none."""
    [move, *others] = parts
    size = math.prod(shape)
    whole = not others and move.first.whole and move.second.whole and size in move.axes and size == math.prod(end)
    return (Move(Block.all_of(bias, shape), Block.all_of(name, end), (size,), (0,)),) if whole else ()


def _led(name: str, shape: Shape, parts: list[Move], biases: Arrays, pool: Pool) -> tuple[Move, ...]:
    """Return the moves of a bias whose kernel is made of `parts`, or none where it is no bias of its outputs."""
    kernel = parts[0].second.shape
    spreads = [list(_spread(biases[move.first.name], move.first.shape)) for move in parts]
    for choice in range(min(len(each) for each in spreads)):
        filled = np.full(kernel, -1)
        for move, spread in zip(parts, spreads, strict=True):
            move.second.of(filled)[...] = move.forward(move.first.of(spread[choice]))
        for start, stop in _places(shape, kernel):
            other = tuple(0 if not start <= axis < stop else slice(None) for axis in range(len(kernel)))
            line = filled[other]
            wide = line.reshape(*(1,) * start, *kernel[start:stop], *(1,) * (len(kernel) - stop))
            lines = Lines.of(line.reshape(shape)) if np.array_equal(np.broadcast_to(wide, kernel), filled) else None
            moves = None if lines is None else solve(name, lines, pool)
            if moves is not None:
                return moves
    return ()


def _spread(bias: np.ndarray, kernel: Shape) -> Iterator[np.ndarray]:
    """Yield the labels of a bias at every element of its kernel, for each run of axes that may be the outputs."""
    for start, stop in _places(bias.shape, kernel):
        wide = bias.reshape(*(1,) * start, *kernel[start:stop], *(1,) * (len(kernel) - stop))
        # A block of it is sliced and reshaped next, which a broadcast view allows only as a copy.
        yield np.broadcast_to(wide, kernel).copy()


def _places(bias: Shape, kernel: Shape) -> list[tuple[int, int]]:
    """Return the runs of a kernel's axes that are as large as the bias, those of its very shape first."""
    size = math.prod(bias)
    runs = [(start, stop) for start in range(len(kernel)) for stop in range(start + 1, len(kernel) + 1)]
    fit = [run for run in runs if math.prod(kernel[slice(*run)]) == size]
    return sorted(fit, key=lambda run: (kernel[slice(*run)] != bias, run[1] - run[0]))
