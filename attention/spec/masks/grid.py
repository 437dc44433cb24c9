"""Grid: the queries and keys at which a mask predicate is evaluated, and access to the mask's arrays there.

    allowed[*b, h, t, s] = predicate(at.t, at.s, at.per_row(x)[*b], at.per_query(x)[*b, t], at.per_key(x)[*b, s])

A predicate accesses arrays only through these methods. A kernel that evaluates one element or one tile at a time derives
its own grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from array_api_compat import array_namespace

from attention.spec.axes import Array


@dataclass(frozen=True)
class Grid:
    """Every (t, s) of a call at once, or of a tile of it.

    Attributes:
        t: `(T, 1)`, the indices of the queries, or their positions `(*batch, 1, T, 1)`.
        s: `(S,)`, the indices of the keys, or their positions `(*batch, 1, 1, S)`.
        T: queries of the whole call.
        S: keys of the whole call.
        xp: the array namespace; None looks it up from the arrays, which a compiler may not be able to trace.
    """

    t: Array
    s: Array
    T: int
    S: int
    xp: Any = field(default=None, kw_only=True)

    def per_row(self, x: Array) -> Array:
        """Read data of axes `(*batch,)` at the grid's batch rows."""
        return x[..., None, None, None]

    def per_query(self, x: Array) -> Array:
        """Read data of axes `(*batch, T)` at the grid's queries."""
        return x[..., None, :, None]

    def per_key(self, x: Array) -> Array:
        """Read data of axes `(*batch, S)` at the grid's keys."""
        return x[..., None, None, :]

    def per_score(self, x: Array) -> Array:
        """Read data that broadcasts to `(*batch, H, T, S)`."""
        return x

    def by_head(self, allowed: Sequence[Array]) -> Array:
        """Return `allowed[h][..., h, :, :]` for each head h; each broadcasts to `(*batch, H, T, S)`."""
        return _chosen(self.xp, allowed, -3)

    def by_row(self, allowed: Sequence[Array]) -> Array:
        """Return `allowed[b][..., b, :, :, :]` for each row b of the last batch axis."""
        return _chosen(self.xp, allowed, -4)


def _chosen(xp: Any, arrays: Sequence[Array], axis: int) -> Array:
    """Return the array whose i-th slice along `axis`, counted from the right, is that of the i-th array."""
    xp = array_namespace(*arrays) if xp is None else xp
    own: list[Array] = []
    for i, array in enumerate(arrays):
        full = array[(None,) * max(0, -axis - array.ndim) + (...,)]
        own.append(full if full.shape[axis] == 1 else full[(..., slice(i, i + 1), *[slice(None)] * (-axis - 1))])
    return xp.concat(list(xp.broadcast_arrays(*own)), axis=axis)
