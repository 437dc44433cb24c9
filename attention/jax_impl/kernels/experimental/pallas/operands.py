"""Operands of a Pallas kernel: arrays with four axes and the block of each that a program reads.

    block of program (b, h, i) = array[b, h, queries of tile i]              along T; keys and values: head h // group, whole
                               = array[b, the group that reads h, whole]     along S; keys and values: keys of tile i

An axis on which an array does not differ has size 1, and all programs read the same block of it. One text is lowered by
Triton (GPU), by Mosaic (TPU) and by JAX's interpreter: blocks, slices of them that begin at multiples of a tile, and loops.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from attention.spec.axes import Array, Sizes
from attention.spec.scores import ScoreMod

Tile = tuple[int, int]


@dataclass(frozen=True)
class Plan:
    """What a call is compiled for: all of it but its numbers.

    Attributes:
        sizes: of the call.
        scale: of the scores.
        softcap: their bound, or None.
        score_mod: the user's function of a score, or None.
        dropout_rate: in [0, 1).
        compute: the dtype of softmax and sums.
        precision: of the products, or None for JAX's own setting.
        forward: queries and keys of a tile.
        backward: the same in the backward pass.
        device: "gpu", "tpu", or "interpret".
    """

    sizes: Sizes
    scale: float
    softcap: float | None
    score_mod: ScoreMod | None
    dropout_rate: float
    compute: str
    precision: str | None
    forward: Tile
    backward: Tile
    device: str

    @property
    def rows(self) -> int:
        """Rows of all batch axes together."""
        return math.prod(self.sizes.batch)


@dataclass(frozen=True)
class Operand:
    """An array `(B, heads, rows, columns)`, any of which may be 1, and the axes of the call that its last two follow.

    Attributes:
        array: the numbers, or their shape and dtype alone. With five axes, the third counts the tiles of programs.
        rows: "T", "S", or "" for an axis that no tile cuts.
        columns: likewise.
        scalars: whether a kernel reads single numbers of it, as bounds of its loops.
    """

    array: Array
    rows: str = ""
    columns: str = ""
    scalars: bool = False


@dataclass(frozen=True)
class Launch:
    """One Pallas call: a program for each batch row, head, and tile of one axis.

    Attributes:
        plan: the call.
        along: "T", with query heads, or "S", with key/value heads.
        tile: queries and keys of a tile.
    """

    plan: Plan
    along: str
    tile: Tile

    @property
    def size(self) -> int:
        """Elements of a tile on the axis that programs are spread over."""
        return self.tile["TS".index(self.along)]

    @property
    def filled(self) -> tuple[int, int]:
        """Queries and keys of whole tiles."""
        t, s = (-(-n // size) * size for n, size in zip((self.plan.sizes.T, self.plan.sizes.S), self.tile, strict=True))
        return t, s

    @property
    def ragged(self) -> bool:
        """Whether the last tile of keys is padded."""
        return self.filled[1] > self.plan.sizes.S

    @property
    def grid(self) -> tuple[int, int, int]:
        """Batch rows, heads, tiles."""
        turned = self.along == "S"
        return self.plan.rows, self.plan.sizes.K if turned else self.plan.sizes.H, self.filled[turned] // self.size

    def spec(self, x: Operand) -> pl.BlockSpec:
        """Return which block of the operand a program reads or writes."""
        (rows, heads, *tiles), ends, of = x.array.shape[:-2], x.array.shape[-2:], self.plan.sizes
        # A program of the queries has one head; one of the keys has all the query heads that read it.
        group = of.group if heads == of.H and self.along == "S" else 1
        shared = of.group if heads == of.K and self.along == "T" else 1
        cut = [axis == self.along and n > 1 for axis, n in zip((x.rows, x.columns), ends, strict=True)]
        block = [self.size if is_cut else n for is_cut, n in zip(cut, ends, strict=True)]

        def index(b: Array, h: Array, i: Array) -> tuple[Array, ...]:
            place = b if rows > 1 else 0, (lax.div(h, jnp.int32(shared)) if heads > 1 else 0), *(i for _ in tiles)
            return *place, *(i if is_cut else 0 for is_cut in cut)

        return pl.BlockSpec((None, group if heads > 1 else 1, *(None for _ in tiles), *block), index, **self._place(x))

    def _place(self, x: Operand) -> dict[str, Any]:
        if not (x.scalars and self.plan.device == "tpu"):
            return {}
        from jax.experimental.pallas import tpu  # noqa: PLC0415 - only where there is one

        return {"memory_space": tpu.SMEM}

    def call(self, kernel: Callable[..., None], name: str, given: dict[str, Any], made: dict[str, Operand]) -> dict[str, Array]:
        """Run `kernel(given, made)`, whose arguments are the blocks of operands in the same trees, and return what it wrote."""
        operands, tree = jax.tree.flatten(given)

        def flat(*refs: Any) -> None:
            blocks = [Block(ref, x, self.along) for ref, x in zip(refs, (*operands, *made.values()), strict=True)]
            kernel(jax.tree.unflatten(tree, blocks[: len(operands)]), dict(zip(made, blocks[len(operands) :], strict=True)))

        out = pl.pallas_call(
            flat,
            grid=self.grid,
            in_specs=[self.spec(x) for x in operands],
            out_specs=[self.spec(x) for x in made.values()],
            out_shape=[x.array for x in made.values()],
            interpret=self.plan.device == "interpret",
            name=name,
            **_compiler(self.plan),
        )(*(x.array for x in operands))
        return dict(zip(made, out, strict=True))


def _compiler(plan: Plan) -> dict[str, Any]:
    """Return the parameters of the compiler. Of GPUs' two, Triton: it takes pointers, and needs no copies spelt out."""
    if plan.device == "gpu":
        from jax.experimental.pallas import triton  # noqa: PLC0415 - only where there is one

        wide = max(plan.sizes.D, plan.sizes.E) > 64
        return {"compiler_params": triton.CompilerParams(num_warps=8 if wide else 4, num_stages=2)}
    if plan.device == "tpu":
        from jax.experimental.pallas import tpu  # noqa: PLC0415 - only where there is one

        return {"compiler_params": tpu.CompilerParams(dimension_semantics=("parallel",) * 3)}
    return {}


@dataclass(frozen=True)
class Block:
    """What a program sees of an operand: `(heads, rows, columns)`.

    Attributes:
        ref: where it is read and written.
        of: the operand.
        along: the axis that programs are spread over: this program's part of it is all that it sees.
    """

    ref: Any
    of: Operand
    along: str

    def place(self, at: dict[str, Any], head: Array = 0) -> tuple[Any, ...]:
        """Return the index of one head's rows and columns, sliced by `at` along axes that the program has whole."""
        axes = zip((self.of.rows, self.of.columns), self.ref.shape[1:], strict=True)
        cut = [at[axis] if n > 1 and axis in at and axis != self.along else slice(None) for axis, n in axes]
        return head if self.ref.shape[0] > 1 else 0, *cut

    def read(self, at: dict[str, Any], head: Array = 0) -> Array:
        """Return one head's rows and columns; arguments as in `place`."""
        return self.ref[self.place(at, head)]

    def write(self, at: dict[str, Any], x: Array, head: Array = 0) -> None:
        """Write one head's rows and columns, in the operand's own dtype; arguments as in `place`."""
        self.ref[self.place(at, head)] = x.astype(self.ref.dtype)

    def number(self, column: Array, head: Array = 0) -> Array:
        """Return one number of the first row, as the bound of a loop."""
        return self.ref[head if self.ref.shape[0] > 1 else 0, 0, column]
