"""Covering arrays: a few combinations of several options in which every pair of options occurs.

for all i < j, a in axes[i], b in axes[j]:  some row has row[i] = a and row[j] = b        as far as any allowed row has
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import combinations, product
from typing import Any

import pytest

Row = tuple[Any, ...]


def covering(axes: Sequence[Collection[Any]], strength: int = 2, allowed: Callable[..., bool] | None = None) -> list[Row]:
    """Return rows, the same ones always, in which every `strength` options of different axes are met together.

    Each next row is the first of those that meet the most of what no row before has met.
    """
    every = [tuple(axis) for axis in axes]
    places = [row for row in product(*map(range, map(len, every))) if allowed is None or allowed(*_at(every, row))]
    met = {
        row: {(where, tuple(row[i] for i in where)) for where in combinations(range(len(every)), strength)} for row in places
    }
    left = set().union(*met.values())
    rows: list[Row] = []
    while left:
        best = max(places, key=lambda row: len(met[row] & left))
        left -= met[best]
        rows.append(_at(every, best))
    return rows


def _at(axes: Sequence[Sequence[Any]], places: Sequence[int]) -> Row:
    return tuple(axis[i] for axis, i in zip(axes, places, strict=True))


def pairwise(
    names: str, *axes: Collection[Any], strength: int = 2, allowed: Callable[..., bool] | None = None
) -> pytest.MarkDecorator:
    """Parametrise a test by every combination: those of the covering array run always, the others in `make test-all`."""
    chosen = covering(axes, strength, allowed)
    rows = [row for row in product(*axes) if allowed is None or allowed(*row)]
    params = [pytest.param(*row, marks=() if row in chosen else pytest.mark.slow) for row in rows]
    return pytest.mark.parametrize(names, params, ids=lambda x: "-".join(map(str, x)) if isinstance(x, tuple) else str(x))
