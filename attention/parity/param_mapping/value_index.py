"""Find where the numbers of an array stand among other arrays, in time linear in their size.

    owners_of(second, first)[name] = the arrays of the first that hold sampled elements of an array of the second
    values[address(x)] = x          for the x that occur once; the rest follow, because addresses add up along the axes

A sample of every array is looked for in one pass over all others; only the arrays in which all of it is found are sorted and
searched. A sample that is not found says that the values do not agree, and nothing is sorted. What is found is checked on
every element, to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from attention.parity.adapters import Arrays
from attention.parity.param_mapping.block_moves import Move
from attention.parity.param_mapping.permutation import Lines, Pool, solve

SAMPLES, MORE_SAMPLES = 256, 8192
"""Elements of an array that are looked for, all of which must be found; more where those that hold them are large.

A drawn float32 has 24 bits, so that any array of 16 million holds 63 % of all of them."""
LARGE = 2**20
"""Elements of arrays that are sorted only after more samples."""
ROWS = 1024
"""Lines along an axis that are looked at."""
CHUNK = 2**14
"""Elements that are read at once, few enough to stay in a core's cache."""
MOST_LARGER = 3
"""Several arrays that hold the sample by chance are larger together than this many times the array."""
ODD = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)
"""Odd factors that mix the bits of a number: those of splitmix64."""
_FILTER_BITS = 22


def bits_of(array: np.ndarray, kind: np.dtype) -> Iterator[np.ndarray]:
    """Yield the bits of an array's elements as uint64, chunk by chunk, after a cast to `kind`; the two zeros are one."""
    flat = array.reshape(-1)
    zero = kind.type(0)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, flat.size, CHUNK):
            part = flat[start : start + CHUNK].astype(kind, copy=False) + zero
            yield part.view(f"u{kind.itemsize}").astype(np.uint64)


def fingerprint(array: np.ndarray, kind: np.dtype | None = None) -> int:
    """Return a number that arrays with the same elements share, in whatever order, and that adds up over parts."""
    total = 0
    for bits in bits_of(array, kind or array.dtype):
        mixed = bits + ODD[0]
        mixed *= ODD[0]
        mixed ^= mixed >> np.uint64(29)
        mixed *= ODD[1]
        mixed ^= mixed >> np.uint64(32)
        total += int(np.sum(mixed, dtype=np.uint64))
    return total % 2**64


def owners_of(second: Arrays, first: Arrays, kind: np.dtype) -> dict[str, tuple[str, ...]]:
    """Return, for each array of the second whose sample is found in the first, the fewest arrays of the first that hold it.

    Args:
        second: arrays that are looked for.
        first: arrays that are searched, once.
        kind: the dtype in which numbers are compared.
    """
    samples = {name: _sample(array, kind, SAMPLES) for name, array in second.items()}
    if not samples or not first:
        return {}
    wanted = np.unique(np.concatenate([*samples.values()]))
    held = _held(first, kind, wanted)
    found: dict[str, tuple[str, ...]] = {}
    for name, sample in samples.items():
        at = np.searchsorted(wanted, sample)
        owners = _cover({owner: has[at] for owner, has in held.items()})
        large = sum(first[owner].size for owner in owners)
        if not owners or (len(owners) > 1 and large > MOST_LARGER * second[name].size):
            continue
        if large > LARGE:
            more = np.unique(_sample(second[name], kind, MORE_SAMPLES))
            every = _held({owner: first[owner] for owner in owners}, kind, more)
            if not np.all(np.any([*every.values()], axis=0)):
                continue
        found[name] = owners
    return found


def _sample(array: np.ndarray, kind: np.dtype, count: int) -> np.ndarray:
    """Return the bits of about so many elements of an array, spread over it."""
    flat = array.reshape(-1)
    # An odd step visits all columns of an array whose rows are a power of 2 long.
    return np.concatenate([*bits_of(flat[:: max(1, flat.size // count) | 1], kind)])


def _slot(bits: np.ndarray) -> np.ndarray:
    return (bits * ODD[0]) >> np.uint64(64 - _FILTER_BITS)


def _held(arrays: Arrays, kind: np.dtype, wanted: np.ndarray) -> dict[str, np.ndarray]:
    """Return which of the wanted numbers, which are sorted, each array holds."""
    seen = np.zeros(2**_FILTER_BITS, bool)
    seen[_slot(wanted)] = True
    held: dict[str, np.ndarray] = {}
    for owner, array in arrays.items():
        held[owner] = np.zeros(wanted.size, bool)
        for bits in bits_of(array, kind):
            near = bits[seen[_slot(bits)]]
            at = np.minimum(np.searchsorted(wanted, near), wanted.size - 1)
            held[owner][at[wanted[at] == near]] = True
    return held


def _cover(held: dict[str, np.ndarray]) -> tuple[str, ...]:
    """Return few arrays that hold a whole sample together, or none."""
    names, has = list(held), np.stack([*held.values()])
    open_, chosen = np.ones(has.shape[1], bool), list[str]()
    while open_.any():
        counts = has[:, open_].sum(axis=1)
        best = int(np.argmax(counts))
        if not counts[best]:
            return ()
        chosen.append(names[best])
        open_ &= ~has[best]
    return tuple(name for name in names if name in chosen)


class Lookup:
    """The numbers of some arrays, sorted.

    Args:
        arrays: of one dtype.
    """

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays
        self.pool = Pool({name: array.shape for name, array in arrays.items()})

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
