"""Backward kernels in Pallas: one over tiles of queries, one over tiles of keys, and their custom VJP rule.

    w = e^(x - logsumexp)       0 where not allowed           delta[t] = sum_e d context[t, e] context[t, e] - d logsumexp[t]
    d x = w * (keep / (1 - rate) * (d context v^T) - delta)
    d q = scale * d x k         d k = scale * d x^T q         d v = (w * keep / (1 - rate))^T d context
    d bias = d x                d sink = -sum_t e^(sink - logsumexp[t]) delta[t]

The weights are made anew from the logsumexp, so nothing of size T * S is kept; only the gradient of a bias has that size. The
kernel of the keys has its tiles turned, so that no matrix is transposed for a product, and sums over the query heads that
read its key head.

References:
    Dao et al., arXiv:2205.14135, algorithm 4; Dao, arXiv:2307.08691 (the logsumexp in the place of maximum and sum).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.experimental import pallas as pl

from attention.jax_impl.kernels.experimental.pallas.cell import Cell, Program, dot
from attention.jax_impl.kernels.experimental.pallas.forward import forward
from attention.jax_impl.kernels.experimental.pallas.operands import Block, Launch, Operand, Plan
from attention.jax_impl.kernels.experimental.pallas.tiles import numbers, operands, tokens
from attention.spec.axes import Array
from attention.spec.masks.algebra import Mask
from attention.spec.masks.tile_schedule import schedule


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(
    plan: Plan, q: Array, k: Array, v: Array, mask: Mask | None, bias: Array, sinks: Array, seed: Array
) -> tuple[Array, Array]:
    """Return the context and the logsumexp; arguments as in `forward`."""
    return forward(plan, q, k, v, mask, bias, sinks, seed)


def _ahead(plan: Plan, *given: Any) -> tuple[tuple[Array, Array], Any]:
    # None in the residuals, a static value, means that d bias is not wanted.
    wanted = () if given[4] is not None and given[4].perturbed else None
    values = jax.tree.map(lambda x: x.value, given)
    out = forward(plan, *values)
    return out, (values, out, wanted)


def _back(plan: Plan, kept: Any, slopes: tuple[Any, Any]) -> tuple[Array, ...]:
    (q, k, v, mask, bias, sinks, seed), (context, logsumexp), wanted = kept
    d_context, d_logsumexp = (None if isinstance(x, SymbolicZero) else x for x in slopes)
    d_context = jnp.zeros_like(context) if d_context is None else d_context
    delta = jnp.sum(d_context.astype(plan.compute) * context.astype(plan.compute), axis=-1)
    delta = delta if d_logsumexp is None else delta - d_logsumexp
    # An empty row has no weight to make anew: e^(x - inf) = 0.
    divisor = jnp.where(logsumexp == -jnp.inf, jnp.inf, logsumexp)
    row_arrays = {"d context": d_context, "delta": delta, "divisor": divisor}
    found = schedule(mask, plan.sizes, plan.backward, jnp)
    run = partial(_pass, plan, (found, q, k, v, mask, bias, seed), row_arrays)
    dq, d_scores = run("T", wanted is not None)
    dk, dv = run("S", False)
    d_bias = None if bias is None else jnp.zeros_like(bias) if wanted is None else _summed(d_scores, bias)
    d_sinks = None if sinks is None else _of_sinks(sinks, delta, divisor)
    return dq, dk, dv, None, d_bias, d_sinks, None


_ = _attention.defvjp(_ahead, _back, symbolic_zeros=True)
attention = jax.jit(_attention, static_argnums=0)


def _summed(d_scores: Array, bias: Array) -> Array:
    """Return the gradient of the scores, summed to the shape of the bias."""
    alike = tuple(i for i, n in enumerate(bias.shape) if n == 1)
    return jnp.sum(d_scores, axis=alike, keepdims=True).astype(bias.dtype)


def _of_sinks(sinks: Array, delta: Array, divisor: Array) -> Array:
    weight = jnp.exp(sinks.astype(delta.dtype)[:, None] - divisor)
    return -jnp.sum(weight * delta, axis=(0, 2)).astype(sinks.dtype)


def _pass(plan: Plan, arrays: tuple[Any, ...], row_arrays: dict[str, Array], along: str, wanted: bool) -> tuple[Array, Array]:
    """Return the gradient of the queries and, if wanted, of the scores; or, along "S", those of keys and values."""
    launch, of = Launch(plan, along, plan.backward), plan.sizes
    given = operands(launch, *arrays)
    given["d context"] = tokens(launch, row_arrays["d context"], "T")
    given["delta"] = numbers(launch, row_arrays["delta"])
    given["divisor"] = numbers(launch, row_arrays["divisor"], jnp.inf)
    if along == "S":
        made = {"d k": _like(given["k"]), "d v": _like(given["v"])}
        out = launch.call(partial(_keys, launch), "attention_backward_keys", given, made)
        return out["d k"][:, :, : of.S, : of.D], out["d v"][:, :, : of.S, : of.E]
    made = {"d q": _like(given["q"])}
    if wanted:
        made["d bias"] = Operand(jax.ShapeDtypeStruct((plan.rows, of.H, *launch.filled), plan.compute), "T", "S")
    out = launch.call(partial(_queries, launch), "attention_backward_queries", given, made)
    return out["d q"][:, :, : of.T, : of.D], out["d bias"][:, :, : of.T, : of.S] if wanted else None


def _like(x: Operand) -> Operand:
    return Operand(jax.ShapeDtypeStruct(x.array.shape, x.array.dtype), x.rows, x.columns)


def _queries(launch: Launch, given: dict[str, Any], made: dict[str, Block]) -> None:
    program = Program(launch, given, *(pl.program_id(axis) for axis in range(3)))
    if "d bias" in made:
        _clear(program, made["d bias"])

    def step(cell: Cell, masked: bool, dq: Array) -> Array:
        _, raw, d_bias = _slopes(cell, masked)
        if "d bias" in made:
            made["d bias"].write(cell.at, d_bias)
        k = cell.read(given["k"])
        return dq + dot(cell.plan, raw.astype(k.dtype), k, 1, 0)

    start = jnp.zeros((launch.size, given["q"].ref.shape[-1]), launch.plan.compute)
    made["d q"].write({}, program.visit(step, start) * launch.plan.scale)


def _clear(program: Program, x: Block) -> None:
    """Write zeros: tiles that are not visited have no gradient."""

    def clear(j: Array, nothing: None) -> None:
        x.write(program.cell(j).at, jnp.zeros(program.launch.tile, program.launch.plan.compute))
        return nothing

    keys = program.launch.tile[1]
    lax.fori_loop(jnp.int32(0), jnp.int32(program.launch.filled[1] // keys), clear, None)


def _keys(launch: Launch, given: dict[str, Any], made: dict[str, Block]) -> None:
    group, (b, c, i) = launch.plan.sizes.group, (pl.program_id(axis) for axis in range(3))

    def step(cell: Cell, masked: bool, state: tuple[Array, Array]) -> tuple[Array, Array]:
        (dk, dv), q, d_context = state, cell.read(given["q"]), cell.read(given["d context"])
        weights, raw, _ = _slopes(cell, masked)
        dk = dk + dot(cell.plan, raw.astype(q.dtype), q, 1, 0)
        return dk, dv + dot(cell.plan, cell.dropped(weights).astype(d_context.dtype), d_context, 1, 0)

    def head(g: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        return Program(launch, given, b, c * group + g, i, g).visit(step, state)

    start = tuple(jnp.zeros((launch.size, given[name].ref.shape[-1]), launch.plan.compute) for name in "kv")
    dk, dv = lax.fori_loop(jnp.int32(0), jnp.int32(group), head, start)
    made["d k"].write({}, dk * launch.plan.scale)
    made["d v"].write({}, dv)


def _slopes(cell: Cell, masked: bool) -> tuple[Array, Array, Array]:
    """Return the weights of a tile, made anew, and the gradients of its scaled products and of its bias."""
    given = cell.given
    x, pull = jax.vjp(cell.shaped, cell.raw(), cell.bias())
    weights = jnp.exp(x - cell.column(given["divisor"]))
    weights = cell.masked(weights, 0) if masked else weights
    slope = cell.product(cell.read(given["d context"]), cell.read(given["v"]))
    return weights, *pull(weights * (cell.dropped(slope) - cell.column(given["delta"])))
