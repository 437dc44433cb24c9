"""Forward- and reverse-mode derivatives (JVP and VJP) of the blockwise kernel; second derivatives are refused.

    dy = L(dx)                      tangent.py: JVP
    dx = L^T(dy)                    backward.py: VJP
    [ I  0] [dx]   [dx]             a linear system that JAX solves by L in forward mode and by L^T in reverse mode, so that
    [-L  I] [dy] = [ 0]             loops may have traced bounds, which JAX itself cannot transpose

References:
    Blondel et al., "Efficient and modular implicit differentiation", arXiv:2105.15183 (custom_linear_solve).
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from attention.jax_impl.kernels.blockwise.backward import backward
from attention.jax_impl.kernels.blockwise.forward import Outputs, forward
from attention.jax_impl.kernels.blockwise.plan import Inputs, NonDiff, Plan
from attention.jax_impl.kernels.blockwise.tangent import tangent
from attention.spec.errors import KernelRefused

ALWAYS = frozenset({"q", "k", "v"})
"""The inputs that are always differentiated; the derivatives of the others are costly and computed on demand."""

Answer = tuple[jax.Array, jax.Array, Outputs]


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def differentiable(plan: Plan, inputs: Inputs, nondiff: NonDiff) -> Answer:
    """Return the context `(N, H, T', E)`, the logsumexp `(N, H, T')`, and the results of the forward pass."""
    outputs = forward(plan, inputs, nondiff)
    total = jnp.where(outputs.total == 0, 1, outputs.total)
    logarithm = jnp.log(total) if plan.unit == 1.0 else jnp.log2(total)
    return outputs.context, jnp.where(outputs.total == 0, -jnp.inf, (outputs.top + logarithm) / plan.unit), outputs


def _rule(plan: Plan, primals: tuple[Inputs, NonDiff], tangents: tuple[Inputs, NonDiff]) -> tuple[Answer, Answer]:
    inputs, nondiff = primals
    context, logsumexp, outputs = differentiable(plan, inputs, nondiff)
    still = Outputs(jnp.zeros_like(context), *(jnp.zeros_like(x) for x in outputs[1:]))
    some = [x for x in jax.tree.leaves(tangents[0], is_leaf=_is_zero) if not _is_zero(x)]
    if not some:
        return (context, logsumexp, outputs), (still.context, jnp.zeros_like(logsumexp), still)
    moves = {name: move for name, move in tangents[0]._asdict().items() if name in ALWAYS or _moves(move)}
    moves = jax.tree.map(lambda x: _zeros(some[0], x) if _is_zero(x) else x, moves, is_leaf=_is_zero)
    dcontext, dlogsumexp = _linear(plan, jax.tree.map(_once, inputs), jax.tree.map(_once, outputs), nondiff, moves)
    return (context, logsumexp, outputs), (dcontext, dlogsumexp, still)


_ = differentiable.defjvp(_rule, symbolic_zeros=True)


def _is_zero(x: Any) -> bool:
    return isinstance(x, SymbolicZero)


def _moves(tree: Any) -> bool:
    return any(not _is_zero(x) for x in jax.tree.leaves(tree, is_leaf=_is_zero))


def _linear(
    plan: Plan, inputs: Inputs, outputs: Outputs, nondiff: NonDiff, moves: dict[str, Any]
) -> tuple[jax.Array, jax.Array]:
    """Return L(moves), with L^T registered as its transpose."""
    wanted = frozenset(moves)

    def jvp(moves: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
        absent: dict[str, Any] = dict.fromkeys(Inputs._fields)
        return tangent(plan, inputs, nondiff, outputs, Inputs(**(absent | moves)))

    def vjp(slopes: tuple[jax.Array, jax.Array]) -> dict[str, Any]:
        grads = backward(replace(plan, tile=plan.cut.behind), inputs, nondiff, outputs, slopes, wanted)._asdict()
        return {name: grads[name] for name in moves}

    def system(x: Any) -> Any:
        # JAX applies the matrix for second derivatives alone, and those are refused.
        return x

    def solve(_: Any, x: tuple[Any, Any]) -> tuple[Any, Any]:
        return x[0], jax.tree.map(jnp.add, x[1], jvp(x[0]))

    def turned(_: Any, x: tuple[Any, Any]) -> tuple[Any, Any]:
        return jax.tree.map(jnp.add, x[0], vjp(x[1])), x[1]

    nothing = tuple(_zeros(moves["q"], like) for like in (outputs.context, outputs.top))
    found = lax.custom_linear_solve(system, (moves, nothing), solve, turned)
    # JAX cannot solve for a symbolically zero cotangent, as when only one of the two outputs is differentiated.
    every = jnp.concatenate([x.reshape(-1)[:0].astype(moves["q"].dtype) for x in jax.tree.leaves(found)])
    return jax.tree.map(lambda y: y + _zeros(every, y), found[1])


def _zeros(move: jax.Array, like: Any) -> jax.Array:
    """Return zeros that are linear in `move`: JAX requires linearity of all that custom_linear_solve returns."""
    return jnp.pad(move.reshape(-1)[:0].astype(like.dtype), (0, math.prod(like.shape))).reshape(like.shape)


@jax.custom_jvp
def _once(x: jax.Array) -> jax.Array:
    """Return x; a second derivative through it raises KernelRefused."""
    return x


@partial(_once.defjvp, symbolic_zeros=True)
def _twice(primals: tuple[jax.Array], tangents: tuple[Any]) -> tuple[jax.Array, Any]:
    if not _is_zero(tangents[0]):
        raise KernelRefused("kernel 'blockwise' refuses: has no second derivative; implementation='reference' has")
    return primals[0], jnp.zeros_like(primals[0])
