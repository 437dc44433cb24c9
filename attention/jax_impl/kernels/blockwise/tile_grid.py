"""The grid on which a mask is evaluated for one tile; the tile's offsets are traced values.

allowed[i, j] = predicate(t + i, s + j)        the mask's arrays are sliced at the tile's offsets
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax.numpy as jnp
from jax import lax

from attention.jax_impl.kernels.blockwise.plan import Plan, TileIndex
from attention.spec.axes import Array
from attention.spec.masks.grid import Grid


@dataclass(frozen=True)
class TileGrid(Grid):
    """The queries and keys of one tile, and the slices of a mask's arrays that belong to them.

    Attributes:
        plan: of the call.
        tile: the tile.
        turned: whether queries are along the second axis.
    """

    plan: Plan = field(kw_only=True)
    tile: TileIndex = field(kw_only=True)
    turned: bool = field(kw_only=True)

    def per_row(self, x: Array) -> Array:
        return self._row(x, 0)

    def per_query(self, x: Array) -> Array:
        x = self._cut(self._row(x, 1), 0, -1)
        return x[None, :] if self.turned else x[:, None]

    def per_key(self, x: Array) -> Array:
        x = self._cut(self._row(x, 1), 1, -1)
        return x[:, None] if self.turned else x[None, :]

    def per_score(self, x: Array) -> Array:
        x = x[(None,) * (3 - x.ndim) + (...,)] if x.ndim < 3 else x
        x = self._row(x, 3)
        x = self._cut(self._cut(x[0 if x.shape[0] == 1 else self.tile.h], 0, -2), 1, -1)
        return x.T if self.turned else x

    def by_head(self, allowed: Sequence[Array]) -> Array:
        return _pick(allowed, self.tile.h)

    def by_row(self, allowed: Sequence[Array]) -> Array:
        return _pick(allowed, self.tile.n % self.plan.sizes.batch[-1])

    def _row(self, x: Array, inner: int) -> Array:
        """Return the batch row of the tile from `(*batch, ...)`; the last `inner` axes are kept."""
        place, n = [], self.tile.n
        for size in reversed(self.plan.sizes.batch):
            place.append(n % size)
            n = n // size
        axes = x.shape[: x.ndim - inner]
        at = tuple(0 if size == 1 else i for size, i in zip(axes, [*reversed(place)][len(place) - len(axes) :], strict=True))
        return x[at] if at else x

    def _cut(self, x: Array, letter: int, axis: int) -> Array:
        """Return the tile's part of an axis of queries or keys. An axis of 1 stays."""
        n, size = x.shape[axis], self.plan.tile[letter]
        start = (self.tile.t, self.tile.s)[letter]
        if n == 1:
            return x
        if n == self.plan.cut.whole[letter]:
            return lax.dynamic_slice_in_dim(x, start, size, axis % x.ndim)
        # dynamic_slice would shift a slice that reaches beyond the end.
        return jnp.take(x, start + jnp.arange(size), axis, mode="clip")


def _pick(values: Sequence[Array], at: Array) -> Array:
    return lax.select_n(jnp.int32(at), *jnp.broadcast_arrays(*values)) if len(values) > 1 else values[0]
