"""Forward kernel in Pallas: one program per tile of queries, looping over the key tiles that the mask leaves.

    top'   = max(top, max_s x)           x = scores of the tile, -inf where not allowed
    total' = total e^(top - top') + sum_s e^(x - top')
    sum'   = sum   e^(top - top') + e^(x - top') v
    context = sum / total        logsumexp = top + log total

References:
    Milakov and Gimelshein, arXiv:1805.02867 (online softmax); Dao, arXiv:2307.08691 (one division, at the end).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from attention.jax_impl.kernels.experimental.pallas.cell import Cell, Program, dot
from attention.jax_impl.kernels.experimental.pallas.operands import Block, Launch, Operand, Plan
from attention.jax_impl.kernels.experimental.pallas.tiles import operands
from attention.spec.axes import Array
from attention.spec.masks.algebra import Mask
from attention.spec.masks.tile_schedule import schedule

State = tuple[Array, Array, Array]
"""The greatest score, the sum of exponentials and the sum of values of each query, as columns."""


def forward(
    plan: Plan, q: Array, k: Array, v: Array, mask: Mask | None, bias: Array, sinks: Array, seed: Array
) -> tuple[Array, Array]:
    """Return the context `(B, H, T, E)` in the dtype of q, and the logsumexp `(B, H, T)` in the compute dtype.

    Arguments as in `operands`, and sinks `(H,)` or None.
    """
    launch, of = Launch(plan, "T", plan.forward), plan.sizes
    given = operands(launch, schedule(mask, of, plan.forward, jnp), q, k, v, mask, bias, seed)
    given["sinks"] = None if sinks is None else Operand(sinks.astype(plan.compute).reshape(1, -1, 1, 1))
    rows, heads, t, e = *q.shape[:2], launch.filled[0], given["v"].array.shape[-1]
    made = {
        "context": Operand(jax.ShapeDtypeStruct((rows, heads, t, e), q.dtype), "T"),
        "logsumexp": Operand(jax.ShapeDtypeStruct((rows, heads, 1, t), plan.compute), "", "T"),
    }
    out = launch.call(partial(_kernel, launch), "attention_forward", given, made)
    return out["context"][:, :, : of.T, : of.E], out["logsumexp"][:, :, 0, : of.T]


def _kernel(launch: Launch, given: dict[str, Any], made: dict[str, Block]) -> None:
    top, total, context = Program(launch, given, *(pl.program_id(axis) for axis in range(3))).visit(
        _step, _start(launch, given)
    )
    empty = total == 0
    safe = jnp.where(empty, 1, total)
    made["context"].write({}, context / safe)
    made["logsumexp"].write({}, jnp.where(empty, -jnp.inf, top + jnp.log(safe)).T)


def _start(launch: Launch, given: dict[str, Any]) -> State:
    """Return the state before the first tile: nothing seen, but for the sink."""
    queries, dtype = launch.tile[0], launch.plan.compute
    nothing = jnp.zeros((queries, 1), dtype)
    context = jnp.zeros((queries, given["v"].ref.shape[-1]), dtype)
    if given["sinks"] is None:
        return nothing - jnp.inf, nothing, context
    # A sink of -inf takes no weight.
    sink = nothing + given["sinks"].read({})
    return sink, jnp.where(sink == -jnp.inf, nothing, nothing + 1), context


def _step(cell: Cell, masked: bool, state: State) -> State:
    """Return the state after one more tile."""
    top, total, context = state
    x = cell.shaped(cell.raw(), cell.bias())
    x = cell.masked(x, -jnp.inf) if masked else x
    new = jnp.maximum(top, jnp.max(x, axis=1, keepdims=True))
    # -inf - -inf is NaN, so a row that has seen nothing yet is shifted by 0.
    shift = jnp.where(new == -jnp.inf, 0, new)
    faded, raised = jnp.exp(top - shift), jnp.exp(x - shift)
    v = cell.read(cell.given["v"])
    mixed = dot(cell.plan, cell.dropped(raised).astype(v.dtype), v, 1, 0)
    return new, total * faded + jnp.sum(raised, axis=1, keepdims=True), context * faded + mixed
