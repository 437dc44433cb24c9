"""The map that a weight map's table holds, as moves.

    (weight_map, contract)        stored <-> canonical        (weight_map, weight_map, contract)        stored <-> stored

A table is a function of arrays that computes nothing: given arrays that hold their own addresses, it says where each went.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attention.checkpoints.weight_map import WeightMap, write
from attention.parity.adapters import Arrays, Program
from attention.parity.param_mapping.block_moves import Move
from attention.parity.param_mapping.permutation import Pool, moves_of
from attention.parity.param_mapping.value_search import Moves
from attention.spec.errors import ParamError
from attention.spec.layers.contract import Contract


def table(first: Program, second: Program, tables: Sequence[WeightMap], contract: Contract) -> tuple[Move, ...]:
    """Return the moves that weight maps' tables say, for every layer of the contract that both programs hold.

    Args:
        first: a program.
        second: another.
        tables: the weight maps of the first and of the second; with one alone, the other program has the canonical names.
        contract: gives the canonical shapes.

    Raises:
        ParamError: neither reading finds a layer, or the programs hold different numbers of them.
    """
    canonical = Pool({name: param.shape for name, param in contract.params.items()})
    named = [write(canonical.labels(), weight_map, contract) for weight_map in tables]
    sides = (named[0], canonical.labels()) if len(named) == 1 else (named[0], named[1])
    for ours, theirs in (sides, sides[::-1]) if len(named) == 1 else (sides,):
        at = _prefixes(first.params, ours), _prefixes(second.params, theirs)
        if at[0] and len(at[0]) == len(at[1]):
            return tuple(move for a, b in zip(*at, strict=True) for move in _composed(ours, theirs, a, b))
    wanted = [", ".join(f"{name} {labels.shape}" for name, labels in side.items()) for side in sides]
    raise ParamError(f"{first.name} and {second.name} must hold equally often, under any prefix, {wanted[0]} and {wanted[1]}")


def _prefixes(params: Arrays, wanted: Arrays) -> list[str]:
    """Return the prefixes under which a program holds all these arrays, in the program's order."""
    some = next(iter(wanted))
    prefixes = [name.removesuffix(some) for name in params if name.endswith(some)]
    shapes = {name: array.shape for name, array in params.items()}
    return [at for at in prefixes if all(shapes.get(at + name) == labels.shape for name, labels in wanted.items())]


def _composed(ours: Arrays, theirs: Arrays, at: str, to: str) -> Moves:
    """Return the moves between two readings of the same labels."""
    pool = Pool({at + name: labels.shape for name, labels in ours.items()})
    address = np.empty(int(pool.starts[-1]), int)
    for name, own in pool.labels().items():
        address[ours[name.removeprefix(at)].ravel()] = own.ravel()
    return moves_of(pool, {to + name: address[labels] for name, labels in theirs.items()}) or ()
