"""One tile of a call's scores: a mask evaluated on it alone, without the rest of the scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attention.spec.axes import Array, Sizes
from attention.spec.masks.grid import Grid


@dataclass(frozen=True)
class Tile(Grid):
    """One tile of a call, or a stripe of it: the queries and keys of two ranges, with all batch rows and heads.

    Attributes:
        queries: first query and one past the last.
        keys: first key and one past the last.
    """

    queries: tuple[int, int]
    keys: tuple[int, int]

    @classmethod
    def at(cls, xp: Any, sizes: Sizes, queries: tuple[int, int], keys: tuple[int, int], **place: Any) -> Tile:
        """Return the tile of two ranges; `place` has keywords for creating indices, such as `device=`."""
        t, s = xp.arange(*queries, **place)[:, None], xp.arange(*keys, **place)
        return cls(t, s, sizes.T, sizes.S, xp=xp, queries=queries, keys=keys)

    def per_query(self, x: Array) -> Array:
        return _cut(x, -1, self.queries)[..., None, :, None]

    def per_key(self, x: Array) -> Array:
        return _cut(x, -1, self.keys)[..., None, None, :]

    def per_score(self, x: Array) -> Array:
        x = x[(None,) * (2 - x.ndim) + (...,)] if x.ndim < 2 else x
        return _cut(_cut(x, -2, self.queries), -1, self.keys)


def _cut(x: Array, axis: int, bounds: tuple[int, int]) -> Array:
    """Return the elements of an axis from the first bound to before the second. An axis of 1 stays."""
    return x if x.shape[axis] == 1 else x[(..., slice(*bounds), *[slice(None)] * (-axis - 1))]
