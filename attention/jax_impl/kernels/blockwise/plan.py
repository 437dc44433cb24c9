"""The plan of a call: what is fixed while it is compiled, what is differentiated, and what is only traced.

program(Plan)(Given, Rest)        a tile of it is a Spot
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
    """What is fixed while a call is compiled.

    Attributes:
        sizes: of the call.
        cut: into tiles.
        tile: queries and keys of a tile of the pass at hand.
        dtype: of the context.
        compute: of softmax and sums.
        scale: what is left to multiply the products by: 1 where it is already in q.
        softcap: bound of the scores, or None.
        score_mod: a function of one score, or None.
        rate: of dropout.
        precision: of the products.
        binary: whether exponentials are made of the bits of float32.
        unit: what natural logits are multiplied by: log2(e), in q, or 1 where more than products goes into them.
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
        """Whether logits are nothing but products."""
        return self.softcap is None and self.score_mod is None and self.scale == 1.0


class Given(NamedTuple):
    """What is differentiated: a call's arrays, heads first, sequences padded to whole tiles.

    Attributes:
        q: `(N, H, T', D)`, times scale and, where nothing else happens to the scores, unit.
        k: `(N, K, S', D)`.
        v: `(N, K, S', E)`.
        bias: `(N or 1, H or 1, T' or 1, S' or 1)`, or None.
        sinks: `(H,)`, or None.
        consts: arrays that the user's function of a score closes over.
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    bias: jax.Array | None
    sinks: jax.Array | None
    consts: tuple[jax.Array, ...]


class Rest(NamedTuple):
    """What is traced and not differentiated.

    Attributes:
        mask: its arrays are JAX's, or None.
        key: of dropout's bits, or None.
        numbers: arrays that the user's function of a score closes over, and that have no derivative.
    """

    mask: Mask | None
    key: Key | None
    numbers: tuple[jax.Array, ...] = ()


class Spot(NamedTuple):
    """A tile: row n of the batch, query head h, and the query and the key that it begins with."""

    n: Array
    h: Array
    t: Array
    s: Array
