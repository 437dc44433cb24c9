"""Products and weighted sums: a missing factor or product, other weights, z and 1 - z exchanged, another axis.

torch = x w        jax = x                          torch = a u + b w        jax = a u + d w, or b u + a w
torch = z u + (1 - z) w        jax = (1 - z) u + z w
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations, permutations, product

import numpy as np

from attention.parity.diagnosis.rules.arrays import arranged, equal, magnitudes, near, placed
from attention.parity.diagnosis.rules.constants import is_plain, occurs
from attention.parity.diagnosis.rules.elementwise import factor_text
from attention.parity.diagnosis.rules.operand_pair import Finding, Known, OperandPair, fix

MOST_OPERANDS, MOST_ELEMENTS, LEAST = 12, 200_000, 8
"""Arrays that are tried together, their elements at most, and at least: two weights are fitted to these."""


def missing_factor(pair: OperandPair) -> Finding | None:
    """Name an array that one side multiplies by, or divides by, and the other does not."""
    for (torch, jax), known in product(_pairs(pair), pair.known):
        if known.torch.size > torch.size:
            continue
        for w in placed(known.torch, torch.shape):
            for more, less, side, other in ((torch, jax, "torch", "jax"), (jax, torch, "jax", "torch")):
                if not pair.equal(more, less * w) or magnitudes(known.torch) < 2:
                    continue
                told = f"{side} = {other} w, w = {known.label}"
                if any(pair.runs(which, "cumprod") for which in (0, 1)):
                    name = f"a cumulative product with the element itself on {side}, without it on {other}"
                    return Finding(name, told)
                if _divides(pair, 0 if other == "torch" else 1, known):
                    name = f"a divisor is missing on {side}, or too much on {other}"
                    return Finding(name, told, **(fix(side, f"/ {known.label}") | fix(other, f"without / {known.label}")))
                name = f"a factor is missing on {other}, or too much on {side}"
                return Finding(name, told, **(fix(other, f"* {known.label}") | fix(side, f"without * {known.label}")))
    return None


def _divides(pair: OperandPair, which: int, known: Known) -> bool:
    """Return whether a side divides, and does not multiply, where the programs part."""
    return pair.runs(which, "div") and not pair.runs(1 - which, "mul") and known.torch.size > 1


def missing_product(pair: OperandPair) -> Finding | None:
    """Name a product of two agreed arrays that one side adds, and the other does not."""
    for torch, jax in _pairs(pair):
        apart = torch - jax
        if not np.isfinite(apart).all():
            continue
        read = _read(pair)
        for known, other in product(read, read):
            if known.torch.size != apart.size or other.torch.size > apart.size:
                continue
            u = known.torch.reshape(apart.shape)
            for w, sign in product(placed(other.torch, apart.shape), (1.0, -1.0)):
                if pair.equal(apart, sign * u * w) and magnitudes(other.torch) > 1:
                    more, less = ("torch", "jax") if sign > 0 else ("jax", "torch")
                    evidence = f"{more} = {less} + u w, u = {known.label}, w = {other.label}"
                    return Finding(f"an addend is missing on {less}, or too much on {more}", evidence, **fix(less, "+ u * w"))
    return None


def _pairs(pair: OperandPair) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the arrays in one shape, where they are of numbers; in each order of axes that has this shape."""
    a, b = pair.torch, pair.jax
    if a.dtype.kind == b.dtype.kind == "f" and 4 <= a.size <= MOST_ELEMENTS:
        yield from ((a, x) for x in arranged(a, b))


def _operands(pair: OperandPair) -> Iterator[tuple[Known, np.ndarray, np.ndarray]]:
    """Yield what is read where the programs part, or all that is known without a record of it, in the shapes of the arrays."""
    for known in _read(pair):
        x = next(placed(known.torch, pair.torch.shape), None)
        y = next(placed(known.jax, pair.jax.shape), None)
        if x is not None and y is not None and magnitudes(x) > 2:
            yield known, x, y


def _read(pair: OperandPair) -> list[Known]:
    """Return what is read where the programs part, as it is or copied; all that is known where that is not recorded."""
    read = {id(event.value) for region in pair.region for event in region}
    copied = [event.value for event in pair.region[0] if event.is_move]
    return [k for k in pair.known if not read or {id(k.torch), id(k.jax)} & read or any(_copies(x, k.torch) for x in copied)]


def _copies(x: np.ndarray, y: np.ndarray) -> bool:
    return x.size == y.size and bool((x.ravel() == y.ravel()).all())


def other_weights(pair: OperandPair) -> Finding | None:
    """Name a sum of two agreed arrays of which one has another weight, or of which the weights are exchanged."""
    if pair.torch.dtype.kind != "f" or pair.jax.dtype.kind != "f" or not LEAST <= pair.torch.size <= MOST_ELEMENTS:
        return None
    for one, other in combinations(list(_operands(pair))[:MOST_OPERANDS], 2):
        torch = _weights(pair, pair.torch, one[1], other[1])
        jax = _weights(pair, pair.jax, one[2], other[2]) if torch else None
        if torch and jax and (name := _weighed(torch, jax)):
            told = [f"{factor_text(a)} u + {factor_text(b)} w" for a, b in (torch, jax)]
            evidence = f"torch = {told[0]}, jax = {told[1]}, u = {one[0].label}, w = {other[0].label}"
            return Finding(name, evidence, told[1], told[0])
    return None


def _weights(pair: OperandPair, value: np.ndarray, u: np.ndarray, w: np.ndarray) -> tuple[float, float] | None:
    """Return a and b of value = a u + b w, each as people write it; None where it is no such sum."""
    rows = np.stack([u.ravel(), w.ravel()])
    if not (np.isfinite(rows).all() and np.isfinite(value).all()):
        return None
    gram = rows @ rows.T
    if np.linalg.det(gram) <= 1e-6 * gram[0, 0] * gram[1, 1]:
        return None
    a, b = (_written(c) for c in np.linalg.solve(gram, rows @ value.ravel()))
    if not all(is_plain(c) or occurs(c, *pair.region) for c in (a, b)):
        return None
    return (a, b) if equal(value, a * u + b * w, max(4 * pair.limit, 1e-7)) else None


def _written(c: float) -> float:
    near = float(f"{c:.3g}")
    return near if math.isclose(c, near, rel_tol=1e-6, abs_tol=1e-9) else float(c)


def _weighed(torch: tuple[float, float], jax: tuple[float, float]) -> str:
    if not any(torch) or not any(jax):
        return ""
    if torch == jax[::-1] and all(torch) and torch != jax:
        told = [f"{factor_text(a)} and {factor_text(b)}" for a, b in (torch, jax)]
        if torch[0] == -torch[1]:
            return "the other sign: a difference is taken the other way round"
        return f"weights exchanged: {told[0]} of two arrays on torch, {told[1]} on jax"
    apart = [(a, b) for a, b in zip(torch, jax, strict=True) if a != b]
    return _weight(*apart[0]) if len(apart) == 1 else ""


def _weight(torch: float, jax: float) -> str:
    if torch and jax and torch == -jax:
        told = ["added" if c > 0 else "subtracted" for c in (torch, jax)]
        return f"another sign of an addend: {told[0]} on torch, {told[1]} on jax"
    if not (torch and jax):
        return f"an addend is missing on {'jax' if torch else 'torch'}, or too much on {'torch' if torch else 'jax'}"
    return f"an addend has the weight {factor_text(torch)} on torch, {factor_text(jax)} on jax"


def other_way_round(pair: OperandPair) -> Finding | None:
    """Name z u + (1 - z) w on one side and (1 - z) u + z w on the other: then the two add up to u + w."""
    torch, jax = next(_pairs(pair), (None, None))
    if torch is None or jax is None or torch.size < LEAST or not (np.isfinite(torch).all() and np.isfinite(jax).all()):
        return None
    for (k, u, _), (m, w, _) in combinations(list(_operands(pair))[:MOST_OPERANDS], 2):
        # The larger and the smaller of two add up to both as well.
        if any(pair.equal(a, f(u, w)) for a in (torch, jax) for f in (np.maximum, np.minimum)):
            continue
        if pair.equal(torch + jax, u + w) and not any(pair.equal(a, b) for a in (torch, jax) for b in (u, w)):
            evidence = f"torch + jax = u + w, u = {k.label}, w = {m.label}"
            name = "two arrays are weighed the other way round: by z and 1 - z on torch, by 1 - z and z on jax"
            return Finding(name, evidence, "1 - z in the place of z", "1 - z in the place of z")
    return None


def other_array(pair: OperandPair) -> Finding | None:
    """Name two agreed arrays of which each side reads another one."""
    torch = [i for i, k in enumerate(pair.known) if k.torch.size == pair.torch.size > 3 and near(pair.torch, k.torch)]
    if not torch:
        return None
    jax = [i for i, k in enumerate(pair.known) if k.jax.size == pair.jax.size and near(pair.jax, k.jax)]
    if not jax or set(torch) & set(jax) or near(pair.torch, pair.jax):
        return None
    first, second = pair.known[torch[0]].label, pair.known[jax[0]].label
    name = "another array is read: both sides have both, and each reads another one here"
    return Finding(name, f"torch reads {first}, jax {second}", second, first)


def other_axis(pair: OperandPair) -> Finding | None:
    """Name an operand that is added, or multiplied by, along another axis of the same size."""
    for torch, jax in _pairs(pair):
        for known in pair.known:
            ways = list(placed(known.torch, torch.shape)) if known.torch.size < torch.size else []
            for w, v in permutations(ways, 2) if magnitudes(known.torch) > 1 else ():
                told = "plus" if pair.equal(torch - jax, w - v) else "times" if pair.equal(torch * v, jax * w) else ""
                if told:
                    name = "an operand runs along another axis of the same size: as rows on one side, as columns on the other"
                    return Finding(name, f"{told} w = {known.label}, in {torch.shape}")
    return None


RULES = (missing_factor, other_weights, other_way_round, missing_product, other_axis)
