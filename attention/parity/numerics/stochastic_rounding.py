"""Stochastic rounding: the jaxpr interpreter with every float64 result rounded at random, as in a real program.

    perturbed result = o + max(spread, min(|o|, floor)) * xi        xi ~ U(-1, 1), whose standard deviation is 1 / sqrt(3)

    spread = 0                                        exact results: moves, selections, comparisons, signs
    spread = u |o|                                    add, mul, div, tanh, ...
    spread = 1.5 u |o|                                exp, log; 2.4 of tanh, 1.2 of logistic: see FACTORS
    spread = u max(1.8 |o|, 6 + 6 |x|)                lgamma, whose terms are larger than their difference: see LARGER_TERMS
    spread = u sqrt(depth sum (a_k b_k)^2 + o^2)      a sum of n terms or products, depth = max(log2 n, n / 16)
    spread = 0                                        results of constants that the dtype represents exactly: 2.0 - 1.0

u is the unit roundoff of the compute dtype, or of the storage dtype where the program calls `stored`, or, with `casts`, of
the coarser dtype that the program casts to; below floor a result may underflow. To first order a spread is the same in every
run, so the unperturbed run computes those of sums, and the others reuse them. A rounding error is uniform over an interval,
and so is xi.

References:
    Parker, Monte Carlo Arithmetic, 1997; Higham and Mary, SIAM J. Sci. Comput. 41, 2019 (the sqrt(log2 n) of a tree sum).
"""

# JAX leaves the types of its arrays and equations unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np

from attention.parity.numerics.array_kinds import is_complex, is_float
from attention.parity.numerics.jaxpr_interpreter import LOOPS, JaxprInterpreter, apply
from attention.parity.numerics.rounding_tables import CORRECT, EXACT, FACTORS, LARGER_TERMS, NARROW, TERMS, depth_of, of_terms

Array = Any


def _held(x: Array, unit: float) -> Array:
    """Return where a dtype of this unit roundoff represents a float64 exactly."""
    if unit == 2.0**-24:
        with np.errstate(over="ignore"):
            return x.astype(np.float32) == x
    whole = np.frexp(x)[0] / unit
    return whole == np.rint(whole)


def _exact(eqn: Any, operands: Sequence[Array], result: Array, unit: float) -> Array | None:
    """Return where a result of constants is exact, or None where nowhere."""
    name = eqn.primitive.name
    if name in TERMS:
        # A sum of whole numbers, all of them small enough, is exact in any order.
        if not all(x.dtype.kind in "biu" or (is_float(x) and bool((x == np.rint(x)).all())) for x in operands):
            return None
        return np.asarray(apply(eqn, [np.abs(x) for x in operands])[0] < 1 / unit)
    if name not in CORRECT or not is_float(result):
        return None
    held = _held(result, unit) & (result != 0)
    if not held.any():
        return None
    for x in operands:
        held = held & (_held(x, unit) if is_float(x) else True)
    return held if held.any() else None


def _rounds(eqn: Any) -> bool:
    name = eqn.primitive.name
    if name == "convert_element_type":
        return eqn.params["new_dtype"].name in NARROW
    if name == "abs" and is_complex(eqn.invars[0].aval):
        return True
    if name in EXACT or name in LOOPS or not any(is_float(v.aval) or is_complex(v.aval) for v in eqn.outvars):
        return False
    return name != "stored" or eqn.params["forward"]


MOST_KEPT = 2**28
"""Bytes of spreads that one budget keeps for its runs; those beyond are recomputed in each."""


class Spreads:
    """The spreads of an unperturbed run, in the order of its operations, for the perturbed runs."""

    def __init__(self) -> None:
        self.kept: list[list[Array] | None] = []
        self.size = 0

    def keep(self, spreads: list[Array]) -> None:
        """Keep the spreads of one operation, each an array or a relative error; at most `MOST_KEPT` bytes in all."""
        narrow = [_narrow(s) if isinstance(s, np.ndarray) else s for s in spreads]
        self.size += sum(s.nbytes for s in narrow if isinstance(s, np.ndarray))
        self.kept.append(narrow if self.size <= MOST_KEPT else None)


def _narrow(spread: Array) -> Array:
    """Return a spread in float32, half the memory, if that can hold it."""
    with np.errstate(over="ignore", under="ignore"):
        narrow = spread.astype(np.float32)
    lost = ~np.isfinite(narrow) | ((narrow < np.finfo(np.float32).tiny) & (spread > 0))
    return spread if lost.any() else narrow


class StochasticRounding(JaxprInterpreter):
    """Interprets a jaxpr in NumPy, and perturbs every result as rounding would.

    Args:
        draws: the generator of xi; None perturbs nothing, which is the oracle.
        units: `(2, 2)`: unit roundoff and floor of the compute dtype, and those of the storage dtype.
        spreads: filled by an unperturbed run, read by perturbed ones of the same program and arguments.
        casts: whether results that the program casts to bfloat16 or float16 are rounded as those are.
    """

    def __init__(
        self, draws: np.random.Generator | None, units: Array, spreads: Spreads | None = None, *, casts: bool = False
    ) -> None:
        self.draws, self.units, self.casts = draws, units, casts
        self.spreads = spreads
        self.known = iter(() if spreads is None or draws is None else spreads.kept)

    def results(self, eqn: Any, operands: list[Array], *, constant: bool) -> list[Array]:
        """Return the results of one primitive, perturbed."""
        results = super().results(eqn, operands, constant=constant)
        if (self.draws is None and self.spreads is None) or not _rounds(eqn):
            return results
        if self.draws is None:
            cast("Spreads", self.spreads).keep(self._spreads(eqn, operands, results, constant=constant))
            return results
        known = next(self.known, None)
        spreads = self._spreads(eqn, operands, results, constant=constant) if known is None else known
        moved = zip(results, spreads, strict=True)
        return [_perturb(self.draws, o, s) if is_float(o) or is_complex(o) else o for o, s in moved]

    def _spreads(self, eqn: Any, operands: list[Array], results: list[Array], *, constant: bool) -> list[Any]:
        """Return the largest rounding error of each result: per element, or as a float, relative to each element."""
        name = eqn.primitive.name
        unit, floor = self.units[1 if name == "stored" else 0]
        narrow, low = NARROW.get(eqn.outvars[0].aval.dtype.name, (0.0, 0.0))
        if self.casts and narrow > unit:
            unit, floor = narrow, low
        elif name == "convert_element_type":
            return [0.0 for _ in results]
        if name == "fft":
            return [_transformed(eqn, results[0], unit)]
        if name in LARGER_TERMS:
            return [_raised(results[0], unit * of_terms(name, abs(results[0]), abs(operands[0])), floor)]
        exact = _exact(eqn, operands, results[0], unit) if constant else None
        if name in TERMS:
            depth = depth_of(TERMS[name](eqn.params, *operands))
            squares = apply(eqn, [_squared(x) for x in operands])
            spreads = [
                _raised(o, unit * np.sqrt(depth * s + _squared(o)), floor) for s, o in zip(squares, results, strict=True)
            ]
        else:
            share = float(unit * FACTORS.get(name, 1.0))
            spreads = [_share(o, share, floor) for o in results]
            if exact is not None and isinstance(spreads[0], float):
                spreads[0] = np.abs(results[0]) * spreads[0]
        return spreads if exact is None else [np.where(exact, 0.0, spread) for spread in spreads]

    @contextmanager
    def branch(self) -> Generator[None]:
        """Neither keep nor reuse spreads: perturbed runs may take another branch, or repeat a loop another number of times."""
        spreads, known = self.spreads, self.known
        self.spreads, self.known = None, iter(())
        yield
        self.spreads, self.known = spreads, known


def _squared(x: Array) -> Array:
    return x.real**2 + x.imag**2 if is_complex(x) else x * x


def _transformed(eqn: Any, o: Array, unit: float) -> Array:
    """Return the spread of a Fourier transform: the error of each element has the size of all, log2(n) roundings deep."""
    axes = tuple(range(-len(eqn.params["fft_lengths"]), 0))
    depth = math.log2(max(2, math.prod(eqn.params["fft_lengths"])))
    return np.broadcast_to(unit * np.sqrt(depth * np.mean(_squared(o), axes, keepdims=True)), o.shape)


def _raised(o: Array, spread: Array, floor: float) -> Array:
    """Return the spread where underflow is possible too, and 0 where a result is not finite."""
    spread = np.maximum(spread, np.minimum(abs(o), floor))
    return np.where(np.isfinite(spread), spread, 0.0)


def _share(o: Array, share: float, floor: float) -> Array | float:
    """Return the spread of a result with one relative error: that error, or an array if some elements may underflow."""
    if not is_float(o):
        return share * np.abs(o) if is_complex(o) else share
    size = abs(o)
    small = (size < floor / share) & (size > 0)
    return _raised(o, share * size, floor) if small.any() else share


def _perturb(draws: np.random.Generator, o: Array, spread: Array | float) -> Array:
    """Return `o` with a random error of at most `spread`, or of that relative error."""
    if is_complex(o):
        return _perturb(draws, o.real, spread) + 1j * _perturb(draws, o.imag, spread)
    xi = draws.random(o.shape, np.float32) * np.float32(2) - np.float32(1)
    if isinstance(spread, float):
        # inf * 0 is NaN and inf * (1 + xi) is not: so that infinity stays infinite.
        return o * np.add(xi * np.float32(spread), 1.0, dtype=np.float64)
    return o + xi * spread
