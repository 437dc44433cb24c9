"""The data of a blockwise call: static plan, differentiated inputs, traced inputs without derivative, tile index.

program(Plan)(Inputs, NonDiff)        each tile of the scores has a TileIndex
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax

from attention.jax_impl.kernels.blockwise.tiles import Pair, Tiling
from attention.spec.axes import Array, Sizes
from attention.spec.masks import Mask
from attention.spec.random import Key


@dataclass(frozen=True)
class Plan:
    """The static part of a call: a change compiles anew.

    Attributes:
        sizes: of the call.
        cut: into tiles.
        tile: queries and keys of a tile of the pass at hand.
        dtype: of the context.
        compute: of softmax and sums.
        scale: the factor of the products that is not yet in q; 1 if q was scaled.
        softcap: bound of the scores, or None.
        score_mod: a function of one score, or None.
        rate: of dropout.
        precision: of the products.
        binary: whether exponentials are computed from the bits of float32, in base 2.
        unit: log2(e) if q was multiplied by it, so that logits are in base 2; 1 otherwise.
    """

    sizes: Sizes
    cut: Tiling
    tile: Pair
    dtype: str
    compute: str
    scale: float
    softcap: float | None
    score_mod: Callable[..., Array] | None
    rate: float
    precision: str | None
    binary: bool
    unit: float

    @property
    def rows(self) -> int:
        """Rows of all batch axes."""
        return math.prod(self.sizes.batch)

    @property
    def plain(self) -> bool:
        """Whether logits are the products themselves: no scale, soft cap or score_mod."""
        return self.softcap is None and self.score_mod is None and self.scale == 1.0


class Inputs(NamedTuple):
    """The differentiated arrays of a call, heads first, sequences padded to whole tiles.

    Attributes:
        q: `(N, H, T', D)`, multiplied by scale, and by unit if the logits are plain products.
        k: `(N, K, S', D)`.
        v: `(N, K, S', E)`.
        bias: `(N or 1, H or 1, T' or 1, S' or 1)`, or None.
        sinks: `(H,)`, or None.
        consts: floating arrays that score_mod closes over.
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    bias: jax.Array | None
    sinks: jax.Array | None
    consts: tuple[jax.Array, ...]


class NonDiff(NamedTuple):
    """The traced arrays of a call that have no derivative.

    Attributes:
        mask: its arrays are JAX's, or None.
        key: of dropout's bits, or None.
        numbers: integer and boolean arrays that score_mod closes over.
    """

    mask: Mask | None
    key: Key | None
    numbers: tuple[jax.Array, ...] = ()


class TileIndex(NamedTuple):
    """The position of a tile: batch row n, query head h, first query t, first key s."""

    n: Array
    h: Array
    t: Array
    s: Array
