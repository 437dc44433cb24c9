"""Lookup: where each number of an array stands among other arrays, when it stands there but once.

    values[address(x)] = x          for the x that occur once; the rest follow, because addresses add up along the axes

Among millions of float32 numbers many occur twice by chance, so the arrays that a few dozen elements point to are found
first, and only those are searched. What is found is checked on every element, to the bit.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from attention.parity.adapters import Arrays
from attention.parity.param_mapping.block_moves import Move
from attention.parity.param_mapping.permutation import Lines, Pool, solve

SAMPLES = 256
"""Elements of an array that are asked which arrays they come from."""
ROWS = 1024
"""Lines along an axis that are looked at."""


class Lookup:
    """The numbers of some arrays, sorted.

    Args:
        arrays: of one dtype.
    """

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays
        self.pool = Pool({name: array.shape for name, array in arrays.items()})
        self._narrower: dict[tuple[str, ...], Lookup] = {}

    @cached_property
    def values(self) -> np.ndarray:
        """The numbers, by address."""
        return np.concatenate([array.ravel() for array in self.arrays.values()])

    @cached_property
    def order(self) -> np.ndarray:
        """The addresses of the numbers, smallest first."""
        return np.argsort(self.values, kind="stable")

    @cached_property
    def sorted(self) -> np.ndarray:
        """The numbers, smallest first."""
        return self.values[self.order]

    @cached_property
    def single(self) -> np.ndarray:
        """Whether each of the sorted numbers occurs once."""
        apart = self.sorted[1:] != self.sorted[:-1]
        return np.append(True, apart) & np.append(apart, True)

    def solve(self, name: str, array: np.ndarray) -> tuple[Move, ...] | None:
        """Return the moves that make an array of these, or None where there are none.

        Args:
            name: of the array.
            array: of the same dtype.
        """
        if not self.arrays:
            return None
        flat = array.ravel()
        asked, known = self._find(flat[:: max(1, flat.size // SAMPLES)])
        owners = tuple(self.pool.names[int(place)] for place in np.unique(self.pool.owners(asked[known])).tolist())
        if len(owners) == len(self.arrays):
            return self._solve(name, array)
        if owners and owners not in self._narrower:
            self._narrower[owners] = Lookup({owner: self.arrays[owner] for owner in owners})
        return self._narrower[owners].solve(name, array) if owners else None

    def _solve(self, name: str, array: np.ndarray) -> tuple[Move, ...] | None:
        lines = _lines(*self._find(array))
        if lines is None:
            return None
        addresses = lines.addresses
        inside = addresses.min() >= 0 and addresses.max() < self.values.size
        return solve(name, lines, self.pool) if inside and np.array_equal(self.values[addresses], array) else None

    def _find(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the address of each number, and whether it is known."""
        at = np.minimum(np.searchsorted(self.sorted, numbers), self.sorted.size - 1)
        return self.order[at], (self.sorted[at] == numbers) & self.single[at]


def _lines(addresses: np.ndarray, known: np.ndarray) -> Lines | None:
    """Return the lines of an array some of whose addresses are known, or None where they are too few."""
    lines: list[np.ndarray] = []
    for axis in range(addresses.ndim):
        rows, sure = (np.moveaxis(x, axis, -1).reshape(-1, addresses.shape[axis]) for x in (addresses, known))
        step = max(1, len(rows) // ROWS)
        rows, sure = rows[::step], sure[::step]
        # The steps from one column to all others, each from a row in which both are known.
        column = int(np.argmax(sure.sum(axis=0)))
        both = sure & sure[:, column, None]
        if not both.any(axis=0).all():
            return None
        row = np.argmax(both, axis=0)
        line = rows[row, np.arange(rows.shape[1])] - rows[row, column]
        lines.append(line - line[0])
    if not known.any():
        return None
    spot = np.unravel_index(int(np.argmax(known)), known.shape)
    base = int(addresses[spot]) - sum(int(line[index]) for line, index in zip(lines, spot, strict=True))
    return Lines(base, tuple(lines))
