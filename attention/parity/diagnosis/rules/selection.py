"""Selection: other elements or rows of one array, another order of concatenated operands, other evenly spaced grids.

torch = x[:, 0]     jax = x.mean(1)           torch = table[i]     jax = table[i + 1]
torch = [a, b]      jax = [b, a]              torch = 0, 1 / n, ... jax = 0, 1 / (n - 1), ...
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

import numpy as np

from attention.parity.diagnosis.rules.arrays import near
from attention.parity.diagnosis.rules.operand_pair import Finding, OperandPair
from attention.parity.tracing import Event

MOST_TRIED, MOST_KNOWN = 4_000_000, 24
JOINS = ("cat", "concat", "concatenate", "stack")


def other_element(pair: OperandPair) -> Finding | None:
    """Name the elements along one axis that each side takes, where one of them may take a mean or a maximum instead."""
    for known in pair.known[:MOST_KNOWN]:
        if known.torch.size <= pair.torch.size or known.torch.ndim < 2 or known.jax.ndim < 2:
            continue
        torch = list(_taken(pair, pair.torch, known.torch))
        jax = list(_taken(pair, pair.jax, known.jax)) if torch else []
        if len(torch) == len(jax) == 1 and torch[0][1] != jax[0][1] and torch[0][0] == jax[0][0]:
            n, first, second = torch[0][0], torch[0][1], jax[0][1]
            name = f"other elements are taken along an axis of {n}: {first} on torch, {second} on jax"
            return Finding(name, f"both taken from x = {known.label}", second, first)
    return None


def _taken(pair: OperandPair, value: np.ndarray, x: np.ndarray) -> Iterator[tuple[int, str]]:
    """Yield the sizes of axes of `x` along which the value is one element, or their mean or maximum, and which."""
    for axis in range(x.ndim - 1):
        n, width = x.shape[axis], x.shape[-1]
        if n < 2 or width < 2 or value.size * n != x.size or value.shape[-1:] != (width,):
            continue
        rows, values = np.moveaxis(x, axis, 0).reshape(n, -1, width), value.reshape(-1, width)
        scale = float(np.abs(x).max(initial=0.0))
        if not np.isfinite(scale):
            continue
        same = (np.abs(rows - values) <= 4 * pair.limit * scale).all(-1)
        if (same.sum(0) == 1).all():
            which = same.argmax(0)
            one = (which == which[0]).all()
            yield n, f"element {which[0]}" if one else f"elements {which[:8].tolist()}"
        else:
            reduced = {"the mean": rows.mean(0), "the maximum": rows.max(0), "the sum": rows.sum(0)}
            yield from ((n, name) for name, y in reduced.items() if pair.equal(values, y))


def other_rows(pair: OperandPair) -> Finding | None:
    """Name the rows of one table that each side takes."""
    for known in pair.known:
        if known.torch.ndim not in (1, 2) or known.jax.shape != known.torch.shape or not known.given:
            continue
        torch, jax = _rows(pair, pair.torch, known.torch), _rows(pair, pair.jax, known.jax)
        if torch is None or jax is None or torch.size != jax.size or (torch == jax).all():
            continue
        apart = np.unique(jax - torch)
        told = f"torch {torch[:6].tolist()}, jax {jax[:6].tolist()} of the {len(known.torch)} rows of {known.label}"
        if apart.size == 1:
            return Finding(f"rows of a table are off by {abs(int(apart[0]))}: positions or indices begin elsewhere", told)
        # An index that is a choice of the smallest, or of the largest, is another one since what is compared is.
        if torch.size > 1 and not any(pair.runs(which, "argm", "topk", "top_k", "sort") for which in (0, 1)):
            return Finding("other rows of a table are taken", told, sure=False)
    return None


def _rows(pair: OperandPair, value: np.ndarray, table: np.ndarray) -> np.ndarray | None:
    """Return which row of a table each row of the value is; None if some are none, or may be several."""
    # Of numbers rather than rows, few are the same by chance.
    value, table = (value, table) if table.ndim == 2 else (value.reshape(-1, 1), table[:, None])
    count, width = table.shape
    if value.dtype.kind != "f" or value.shape[-1:] != (width,) or value.size * count > MOST_TRIED or value.size // width < 2:
        return None
    values = value.reshape(-1, 1, width)
    same = (np.abs(values - table) <= 4 * pair.limit * float(np.abs(table).max(initial=0.0))).all(-1)
    return same.argmax(1) if (same.sum(1) == 1).all() else None


def other_order(pair: OperandPair) -> Finding | None:
    """Name a concatenation of the same operands in another order, where the arrays that part are the concatenations."""
    found = order_within(pair)
    return found if found is not None and found.sure else None


def order_within(pair: OperandPair) -> Finding | None:
    """Name a concatenation of the same operands in another order, behind the arrays that part or as these."""
    joins = [[e for e in region if e.op in JOINS and e.is_operation] for region in pair.region]
    for one, other in product(*joins):
        parts = [_operands(e, region) for e, region in zip((one, other), pair.region, strict=True)]
        order = _matched(*parts) if all(len(part) > 1 for part in parts) else None
        if order is None or order == sorted(order):
            continue
        told = f"operands 1 to {len(order)} of torch stand at {[i + 1 for i in order]} on jax"
        name = "arrays are concatenated in another order"
        # What follows the concatenation may undo it, as a kernel with its rows in that order does.
        ends = all(e is last for e, last in zip((one, other), map(_last, pair.region), strict=True))
        return Finding(name, f"{told}: {one.label} and {other.label}", sure=ends)
    return None


def _last(region: tuple[Event, ...]) -> Event | None:
    return next((e for e in reversed(region) if e.is_operation), None)


def _operands(event: Event, region: tuple[Event, ...]) -> list[np.ndarray]:
    values = {e.index: e.value for e in region}
    found = [values.get(i) for i in event.inputs]
    return [x for x in found if x is not None] if all(x is not None and x.size > 3 for x in found) else []


def _matched(torch: list[np.ndarray], jax: list[np.ndarray]) -> list[int] | None:
    """Return where each array of torch stands among those of JAX; None where it stands nowhere, or in two places."""
    if len(torch) != len(jax):
        return None
    found = [[i for i, y in enumerate(jax) if near(x, y)] for x in torch]
    order = [places[0] for places in found if len(places) == 1]
    return order if len(order) == len(set(order)) == len(torch) else None


def other_grid(pair: OperandPair) -> Finding | None:
    """Name two rows of numbers in even steps: with or without the end, from another start."""
    first, second = _steps(pair.torch), _steps(pair.jax)
    if first is None or second is None or first[0] != second[0]:
        return None
    n, (a, s), (b, d) = first[0], first[1:], second[1:]
    evidence = f"{n} steps: torch {a:.6g}, {a + s:.6g}, ... to {a + (n - 1) * s:.6g}, jax {b:.6g} ... to {b + (n - 1) * d:.6g}"
    size = n * max(abs(s), abs(d))
    for side, other, one, two in (("torch", "jax", s, d), ("jax", "torch", d, s)):
        if abs(a - b) <= 1e-6 * size and math.isclose(one * (n - 1), two * n, rel_tol=1e-5):
            return Finding(f"a grid of {n} steps reaches its end on {side}, and stops one step before it on {other}", evidence)
    if math.isclose(s, d, rel_tol=1e-6) and any(math.isclose(abs(a - b), c * abs(s), rel_tol=1e-5) for c in (0.5, 1.0)):
        told = "half a step" if abs(a - b) < 0.75 * abs(s) else "one step"
        later = "torch" if (a > b) == (s > 0) else "jax"
        return Finding(f"positions begin {told} later on {later}", evidence)
    return None


def _steps(x: np.ndarray) -> tuple[int, float, float] | None:
    """Return how many numbers in even steps an array is, along one axis, the first, and the step; None if it is none."""
    if x.dtype.kind not in "fiu" or not np.isfinite(x).all():
        return None
    for axis in (i for i, n in enumerate(x.shape) if n > 3):
        rows = np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis]).astype(float)
        step = (rows[0, -1] - rows[0, 0]) / (rows.shape[1] - 1)
        wanted = rows[0, 0] + step * np.arange(rows.shape[1])
        if step and np.abs(rows - wanted).max() <= 1e-6 * np.abs(wanted).max():
            return rows.shape[1], float(wanted[0]), float(step)
    return None


SPECIFIC = (other_order,)
RULES = (order_within, other_element, other_rows, other_grid)
