"""Result pairing: match outputs and gradients of one program with those of the other by name.

onto(0, 1, made by the first, reference of the second) = {name: (got, wanted)}        by the names of the reference
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from attention.parity.adapters import Arrays
from attention.spec.errors import ShapeError

if TYPE_CHECKING:
    from attention.parity.param_mapping.param_map import ParamMap

Given = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Pairing:
    """How the names of two programs belong together.

    Args:
        outputs: pairs of names, of the first program and of the second.
        params: how their parameters map; None if one of them has none.
    """

    outputs: tuple[tuple[str, str], ...]
    params: ParamMap | None

    def onto(self, of: int, side: int, made: Given, reference: Given) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return what one program made beside a reference in the names and layout of either.

        Args:
            of: whose results are given: 0 for the first program, 1 for the second.
            side: whose names the reference bears.
            made: outputs by name and gradients as "d NAME".
            reference: the same.

        Returns:
            What both have, by the reference's names; parameters of two programs by the names and in the layout of the second.

        Raises:
            ParamError: a gradient is not shaped as its parameter is.
        """
        if of == side:
            return {name: (made[name], reference[name]) for name in made if name in reference}
        names = {pair[of]: pair[side] for pair in self.outputs}
        mine, theirs = self._learned(of, made), self._learned(side, reference)
        rest = {names.get(name, name): x for name, x in made.items() if name[2:] not in mine}
        pairs = {name: (x, reference[name]) for name, x in rest.items() if name in reference}
        if self.params is None:
            return pairs
        mapped = self.params.gradients(*((mine, theirs) if of == 0 else (theirs, mine)))
        return {**pairs, **{f"d {name}": (one, other) if of == 0 else (other, one) for name, (one, other) in mapped.items()}}

    def _learned(self, side: int, results: Given) -> Arrays:
        """Return the gradients of one program's parameters, by the names of the parameters."""
        known = names_of(self.params, side) if self.params is not None else ()
        return {name[2:]: x for name, x in results.items() if name.startswith("d ") and name[2:] in known}


def names_of(params: ParamMap, side: int) -> set[str]:
    """Return the names that a map knows of one program, what is left over included."""
    return {(move.second if side else move.first).name for move in params.every} | set(params.left_over[side])


def outputs(first: Given, second: Given, labels: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    """Return which output of the first program is which of the second: by name, or else by their order.

    Raises:
        ShapeError: there are more of one than of the other, or a pair differs in shape.
    """
    if len(first) != len(second):
        raise ShapeError(f"outputs {_listed(first)} of {labels[0]} must be as many as those of {labels[1]}, {_listed(second)}")
    pairs = [(name, name) for name in first] if first.keys() == second.keys() else list(zip(first, second, strict=True))
    for one, other in pairs:
        if first[one].shape != second[other].shape:
            wanted = f"{second[other].shape} as {'that' if one == other else other} of {labels[1]} is"
            raise ShapeError(f"{one} {first[one].shape} of {labels[0]} must be {wanted}")
    return tuple(pairs)


def _listed(arrays: Given) -> str:
    return ", ".join(f"{name} {x.shape}" for name, x in arrays.items())
