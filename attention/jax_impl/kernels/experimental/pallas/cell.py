"""One tile inside a Pallas kernel: loops over tiles, scores, mask and dropout.

    x       = score_mod(cap(q k^T * scale) + bias)         -inf where the mask, asked at the tile's indices, does not allow
    keep    = the bits of the weights' places among all scores

Queries are along the rows of a tile and keys along its columns, or transposed. The mask's own predicate is evaluated on the
grid of the tile, without a dense mask; lengths, ids and arrays are read for the tile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from attention.jax_impl.kernels.experimental.pallas.operands import Block, Launch, Plan
from attention.spec import random
from attention.spec.axes import Array
from attention.spec.masks.grid import Grid
from attention.spec.scores import soft_cap


@dataclass(frozen=True)
class Program:
    """One program of a launch, for one query head.

    Attributes:
        launch: the Pallas call.
        given: the blocks that it reads, by name.
        b: the row, counted through all batch axes.
        h: the query head.
        i: its tile.
        head: where a block of several query heads has this one.
    """

    launch: Launch
    given: dict[str, Any]
    b: Array
    h: Array
    i: Array
    head: Array = 0

    def visit(self, step: Callable[[Cell, bool, Any], Any], start: Any) -> Any:
        """Return the state after every tile: `step(cell, masked, state)` of the full ones, then of the partial ones."""

        def tile(masked: bool, n: Array, state: Any) -> Any:
            return step(self.cell(self.given["tiles"].number(n, self.head)), masked, state)

        full, seen = (self.given["counts"].number(i, self.head) for i in range(2))
        state = lax.fori_loop(jnp.int32(0), full, partial(tile, False), start)
        if self.given["mask"] is None and not self.launch.ragged:
            return state
        return lax.fori_loop(full, seen, partial(tile, True), state)

    def cell(self, j: Array) -> Cell:
        """Return the cell of this program's tile and of tile j on the other axis."""
        turned, of, tile = self.launch.along == "S", self.launch.plan.sizes, self.launch.tile
        tiles = (j, self.i) if turned else (self.i, j)
        first = [pl.multiple_of(n * size, size) for n, size in zip(tiles, tile, strict=True)]
        # Queries go down, as the first axis, and keys across; or, turned, the other way round.
        t, s = (
            n + lax.broadcasted_iota(jnp.int32, (1, size) if across else (size, 1), int(across))
            for n, size, across in zip(first, tile, (turned, not turned), strict=True)
        )
        at = {axis: pl.ds(n, size) for axis, n, size in zip("TS", first, tile, strict=True)}
        return Cell(t, s, of.T, of.S, xp=jnp, program=self, at=at)


@dataclass(frozen=True)
class Cell(Grid):
    """One tile of one batch row and query head.

    Attributes:
        program: that visits it.
        at: by "T" and "S", the slices of the tile's queries and keys.
    """

    program: Program = field(kw_only=True)
    at: dict[str, Any] = field(kw_only=True)

    @property
    def plan(self) -> Plan:
        """The call."""
        return self.program.launch.plan

    @property
    def given(self) -> dict[str, Any]:
        """The blocks that the program reads, by name."""
        return self.program.given

    @property
    def turned(self) -> bool:
        """Whether keys go down and queries across."""
        return self.program.launch.along == "S"

    def per_row(self, x: Block) -> Array:
        return x.read({})

    def per_query(self, x: Block) -> Array:
        return self._numbers(x, "T")

    def per_key(self, x: Block) -> Array:
        return self._numbers(x, "S")

    def per_score(self, x: Block) -> Array:
        return self._matrix(x) != 0

    def by_head(self, allowed: Sequence[Array]) -> Array:
        return _pick(allowed, self.program.h)

    def by_row(self, allowed: Sequence[Array]) -> Array:
        return _pick(allowed, self.program.b % self.plan.sizes.batch[-1])

    def _numbers(self, x: Block, axis: str) -> Array:
        """Return the tile's part of a row of numbers: across if the axis goes across, else down."""
        found = x.ref[0, :, :] if x.ref.shape[-1] == 1 else x.ref[0, :, self.at[axis]]
        return found if (axis == "S") != self.turned else found.T

    def _matrix(self, x: Block) -> Array:
        """Return the tile of an array with an axis of queries and one of keys."""
        found = self.read(x)
        found = found.astype(jnp.int32) if found.dtype == jnp.int8 else found
        return found.T if self.turned else found

    @property
    def _shape(self) -> tuple[int, int]:
        queries, keys = self.program.launch.tile
        return (keys, queries) if self.turned else (queries, keys)

    def read(self, x: Block) -> Array:
        """Return the tile's part of a block."""
        return x.read(self.at, self.program.head)

    def column(self, x: Block) -> Array:
        """Return the per-query values of the tile, shaped to broadcast to its scores."""
        found = self.read(x)
        return found if self.turned else found.T

    def product(self, a: Array, b: Array) -> Array:
        """Return `a b^T` of queries and keys, as the tile lies."""
        return dot(self.plan, b, a, 1, 1) if self.turned else dot(self.plan, a, b, 1, 1)

    def raw(self) -> Array:
        """Return the scaled products of queries and keys."""
        return self.product(self.read(self.given["q"]), self.read(self.given["k"])) * self.plan.scale

    def bias(self) -> Array:
        """Return the bias of the tile, or None."""
        x = self.given["bias"]
        return None if x is None else jnp.broadcast_to(self._matrix(x).astype(self.plan.compute), self._shape)

    def shaped(self, raw: Array, bias: Array) -> Array:
        """Return the scores of scaled products: capped, with the bias added, and as the user's function makes them."""
        x = soft_cap(jnp, raw, self.plan.softcap)
        x = x if bias is None else x + bias
        user, at = self.plan.score_mod, self.program
        return x if user is None else user(x, at.b, at.h, self.t, self.s)

    def masked(self, x: Array, other: float) -> Array:
        """Return x where the mask allows it and there is a key, and the other number where not."""
        parts = [] if self.given["mask"] is None else [self.given["mask"].allowed(self)]
        parts += [self.s < self.S] if self.program.launch.ragged else []
        return jnp.where(reduce(lambda one, two: one & two, parts), x, other)

    def dropped(self, x: Array) -> Array:
        """Return weights (or factors of weights) with dropout applied and scaled."""
        if self.given["seed"] is None:
            return x
        of, rate = self.plan.sizes, self.plan.dropout_rate
        # Signed integers wrap around as unsigned ones do, and kernel compilers support them better.
        index = ((self.program.b * of.H + self.program.h) * of.T + self.t) * of.S + self.s
        words = [self.given["seed"].number(i) for i in range(2)]
        bits = random.mantissa((words[0], words[1]), lax.bitcast_convert_type(index, jnp.uint32))
        keep = lax.bitcast_convert_type(bits, jnp.int32) < random.keep_threshold(rate)
        return jnp.where(keep, x / (1 - rate), 0)


def dot(plan: Plan, a: Array, b: Array, of_a: int, of_b: int) -> Array:
    """Return the product of two matrices, summed over these axes of theirs, in the compute dtype."""
    dims = ((of_a,), (of_b,)), ((), ())
    return lax.dot_general(a, b, dims, precision=plan.precision, preferred_element_type=jnp.dtype(plan.compute))


def _pick(values: Sequence[Array], at: Array) -> Array:
    """Return the bool array whose number is `at`."""
    return reduce(lambda one, other: one | other, [(at == i) & value for i, value in enumerate(values)])
