"""Reordered axes: whether two programs agree once the second reads a fused axis of its parameters in another order.

A port may hold gates, heads, branches or flattened images in an order of its own, and convert parameters to that. Values that
are loaded by us cannot tell such a port from one that reads them in the wrong order, so that the map is open where one order
makes the outputs agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations, zip_longest

import numpy as np

from attention.parity.param_mapping.candidates import Plan
from attention.parity.param_mapping.trial_runs import Trial, difference

# Runs of the second program at most, and of one that is not compiled; parts that an axis is cut into; sizes of axes that are
# looked at; numbers among the parameters of a pair that is not too large for so many runs.
MOST_TRIED, MOST_SLOW, MOST_PARTS, MOST_SIZES, MOST_ELEMENTS = 200, 24, 4, 6, 10**6

Order = tuple[str, np.ndarray]


def reordered(plan: Plan, trial: Trial, values: dict[str, np.ndarray], agrees: float) -> str:
    """Return which order of an axis makes the outputs agree, in words, or "".

    Args:
        plan: whose map carries the values over.
        trial: the two programs.
        values: of the matched parameters of the first, none of which is like another.
        agrees: the largest relative error of outputs that are said to agree.
    """
    given = plan.map.forward(values)
    if sum(x.size for x in given.values()) > MOST_ELEMENTS:
        return ""
    wanted = trial.outputs(trial.first, plan.map.backward(given))
    if wanted is None:
        return ""
    program = trial.stated(plan.map)
    most = MOST_TRIED if getattr(program, "compiled", True) else MOST_SLOW
    # The likely orders of every size come before the others of any.
    tried = (each for likely in zip_longest(*_by_size(given)) for each in likely if each is not None)
    for count, (n, (text, order)) in enumerate(tried):
        if count >= most:
            break
        names = [name for name, x in given.items() if x.shape.count(n) == 1]
        changed = {name: np.take(given[name], order, given[name].shape.index(n)) for name in names}
        made = trial.outputs(program, {**given, **changed})
        if made is not None and difference(wanted, made) <= agrees:
            return f"the outputs agree if the axis of {n} of {', '.join(names[:3])} is read {text}: load the values yourself"
    return ""


def _by_size(given: dict[str, np.ndarray]) -> list[list[tuple[int, Order]]]:
    """Return the orders of the axes of each size."""
    sizes = {n for x in given.values() if x.ndim > 1 for n in x.shape if n > 3 and x.shape.count(n) == 1}
    return [[(n, order) for order in _orders(n)] for n in sorted(sizes, reverse=True)[:MOST_SIZES]]


def _orders(n: int) -> Iterator[Order]:
    """Yield the orders of an axis that people hold parts in, the likely ones first: each a text and the places to take."""
    places = np.arange(n)
    seen = {tuple(places)}
    for text, order in _every(places):
        if tuple(order) not in seen:
            seen.add(tuple(order))
            yield text, order


def _every(places: np.ndarray) -> Iterator[Order]:
    n = len(places)
    parts = [k for k in range(2, MOST_PARTS + 1) if n % k == 0]
    for k in parts:
        for order in permutations(range(k)):
            yield f"in {k} parts as {[*order]}", places.reshape(k, -1)[list(order)].ravel()
    for k in parts:
        for heads in (m for m in range(2, n // k + 1) if n // k % m == 0):
            yield f"as ({heads}, {k}, ...) for ({k}, {heads}, ...)", places.reshape(k, heads, -1).swapaxes(0, 1).ravel()
            yield f"as ({k}, {heads}, ...) for ({heads}, {k}, ...)", places.reshape(heads, k, -1).swapaxes(0, 1).ravel()
    for rows in (m for m in range(2, n) if n % m == 0):
        yield f"as ({n // rows}, {rows}) for ({rows}, {n // rows})", places.reshape(rows, -1).T.ravel()
