"""Known differences of framework conventions (padding_idx, running variance, float masks), excluded from the comparison.

    a mask of floats                one program differentiates it, the other does not
    padding_idx                     torch freezes a row of the table
    a running variance              torch takes n / (n - 1) of the batch's variance, Flax and Keras take it as it is

Each is recognised by its own evidence and named; everything else of the same array is still compared.
"""

# Modules of torch are read through their attributes.
# pyright: standard

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from attention.parity.adapters import Arrays, Program
from attention.parity.numerics.array_kinds import is_float

Triple = tuple[np.ndarray, np.ndarray, np.ndarray]
"""What a program made, what it should be, and its budget."""
VERY_NEGATIVE = -1e4
"""At or below it a value among the inputs hides a score."""
BATCH = 2**20
"""The largest batch that the ratio of two variances is read for."""


@dataclass(frozen=True, eq=False)
class Conventions:
    """What is known of a pair.

    Attributes:
        inputs: of the call.
        frozen: rows that torch freezes, by the names that the reference has for the tables: the row and the table's length.
        before: state before the call, by what a report calls it afterwards.
    """

    inputs: Mapping[str, np.ndarray]
    frozen: Mapping[str, tuple[int, int]]
    before: Mapping[str, np.ndarray]

    def left_out(self, name: str, triple: Triple) -> tuple[np.ndarray, str] | None:
        """Return which elements of an array are not compared, and why; None if all are."""
        rules: tuple[Callable[[str, Triple], tuple[np.ndarray, str] | None], ...] = (self._mask, self._row, self._variance)
        return next((found for rule in rules if (found := rule(name, triple)) is not None), None)

    def _mask(self, name: str, triple: Triple) -> tuple[np.ndarray, str] | None:
        got, wanted, _ = triple
        x = self.inputs.get(name.removeprefix("d "))
        if not name.startswith("d ") or x is None or not is_mask(x) or bool(got.any()) == bool(wanted.any()):
            return None
        told = f"{name} is not compared: one program differentiates this mask and the other does not"
        return np.ones(got.shape, bool), told

    def _row(self, name: str, triple: Triple) -> tuple[np.ndarray, str] | None:
        got = triple[0]
        row, length = self.frozen.get(name.removeprefix("d "), (0, 0))
        if not name.startswith("d ") or not length or length not in got.shape:
            return None
        place = (slice(None),) * got.shape.index(length) + (row,)
        # Of a table that is the head too, the row has the gradient of the head on torch, and of both uses on JAX.
        out = np.zeros(got.shape, bool)
        out[place] = True
        why = "torch gives its lookup no gradient (padding_idx), an optimizer of JAX moves it"
        return out, f"{name}, row {row} is not compared: {why}"

    def _variance(self, name: str, triple: Triple) -> tuple[np.ndarray, str] | None:
        got, wanted, sigma = triple
        before = self.before.get(name)
        if before is None or "var" not in name or got.size < 2 or before.size != got.size:
            return None
        old = before.reshape(got.shape).astype(np.float64)
        n = _batch(got - old, wanted - old, old, np.maximum(sigma, 1e-6 * np.abs(wanted)))
        if n is None:
            return None
        told = f"{name} is not compared: torch takes {n} / {n - 1} of the batch's variance, the other program takes it as it is"
        return np.ones(got.shape, bool), told


def _batch(moved: np.ndarray, other: np.ndarray, old: np.ndarray, sigma: np.ndarray) -> int | None:
    """Return n if m (n / (n - 1) v - old) and m (v - old) are the two moves for one momentum m and any batch variance v."""
    # moved - other = m v / (n - 1), other + m old = m v: linear in m and in 1 / (n - 1).
    for one, two in ((moved, other), (other, moved)):
        columns = np.stack([(two / (one - two)).ravel(), (old / (one - two)).ravel()], -1)
        if not np.isfinite(columns).all():
            return None
        # (two + m old) / (one - two) = n - 1 for every element.
        gaps = columns - columns.mean(0)
        spread = float(gaps[:, 1] @ gaps[:, 1])
        momenta = [-float(gaps[:, 0] @ gaps[:, 1]) / spread] if spread > 1e-12 else [0.1, 0.01, 0.001, 0.05, 0.2, 0.5, 1.0]
        for m in momenta:
            n = round(float((columns[:, 0] + m * columns[:, 1]).mean())) + 1
            fits = np.abs(one - two - (two + m * old) / max(n - 1, 1)) <= 4 * sigma
            if 2 <= n <= BATCH and 0 < m <= 1 and fits.all():
                return n
    return None


def is_mask(x: np.ndarray) -> bool:
    """Return whether floats mean a mask: two values, one of them 0 and the other 1 or one that hides a score."""
    if not is_float(x) or not x.size:
        return False
    values = np.unique(x)
    return len(values) == 2 and 0 in values and (1 in values or float(values.min()) <= VERY_NEGATIVE)


def frozen_rows(programs: tuple[Program, Program], side: int, params: Any) -> dict[str, tuple[int, int]]:
    """Return the rows that torch's embeddings freeze, by the names of one program.

    Args:
        programs: the first and the second.
        side: whose names are wanted.
        params: the map of the parameters, or None.
    """
    found: dict[str, tuple[int, int]] = {}
    for of, program in enumerate(programs):
        for name, row in _padding(program):
            moves = params.moves if params is not None else ()
            theirs = {(m.first, m.second)[side].name for m in moves if (m.first, m.second)[of].name == name}
            found |= dict.fromkeys([name] if of == side else theirs, row)
    return found


def _padding(program: Program) -> Iterator[tuple[str, tuple[int, int]]]:
    module = getattr(program, "module", None)
    if module is None:
        return
    names = {id(x): name for name, x in module.named_parameters()}
    for part in module.modules():
        row, table = getattr(part, "padding_idx", None), getattr(part, "weight", None)
        if isinstance(row, int) and table is not None and id(table) in names:
            yield names[id(table)], (row % len(table), len(table))


def moved_slightly(arrays: Mapping[str, np.ndarray], seed: int) -> Arrays:
    """Return float arrays that are no masks, moved by a thousandth of their size, away from ties and kinks."""
    draws = np.random.default_rng(seed)

    def each(x: np.ndarray) -> np.ndarray:
        if not is_float(x) or is_mask(x):
            return x
        finite = np.where(np.isfinite(x), x, 0).astype(np.float64)
        size = float(np.sqrt(np.mean(finite**2))) if x.size else 0.0
        # NumPy makes a number of an array without axes.
        return np.asarray(x.astype(np.float64) + 1e-3 * (size or 1.0) * draws.standard_normal(x.shape), x.dtype)

    return {name: each(x) for name, x in arrays.items()}


def before(program: Program) -> dict[str, np.ndarray]:
    """Return the state before a call, by what a report calls it afterwards."""
    state = program.state
    return {label: state[name] for name, label in program.watched.items() if name in state}
