"""Both modes of differentiation, and once: the derivative ahead and the one behind belong to one linear map.

    dy = L(dx)                      tangent.py: the derivative ahead
    dx = L^T(dy)                    backward.py: the derivative behind
    [ I  0] [dx]   [dx]             a linear system, which JAX solves by L where it differentiates ahead, and by L^T where
    [-L  I] [dy] = [ 0]             behind: its loops may then have bounds that are traced, which JAX cannot turn round

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
from attention.jax_impl.kernels.blockwise.forward import Made, forward
from attention.jax_impl.kernels.blockwise.plan import Given, Plan, Rest
from attention.jax_impl.kernels.blockwise.tangent import tangent
from attention.spec.errors import KernelRefused

ALWAYS = frozenset({"q", "k", "v"})
"""What is differentiated whether or not it is asked for: the others cost more than they are worth unasked."""

Answer = tuple[jax.Array, jax.Array, Made]


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def differentiable(plan: Plan, given: Given, rest: Rest) -> Answer:
    """Return the context `(N, H, T', E)`, the logsumexp `(N, H, T')`, and what a derivative is made of."""
    made = forward(plan, given, rest)
    total = jnp.where(made.total == 0, 1, made.total)
    logarithm = jnp.log(total) if plan.unit == 1.0 else jnp.log2(total)
    return made.context, jnp.where(made.total == 0, -jnp.inf, (made.top + logarithm) / plan.unit), made


def _rule(plan: Plan, primals: tuple[Given, Rest], tangents: tuple[Given, Rest]) -> tuple[Answer, Answer]:
    given, rest = primals
    context, logsumexp, made = differentiable(plan, given, rest)
    still = Made(jnp.zeros_like(context), *(jnp.zeros_like(x) for x in made[1:]))
    some = [x for x in jax.tree.leaves(tangents[0], is_leaf=_is_zero) if not _is_zero(x)]
    if not some:
        return (context, logsumexp, made), (still.context, jnp.zeros_like(logsumexp), still)
    moves = {name: move for name, move in tangents[0]._asdict().items() if name in ALWAYS or _moves(move)}
    moves = jax.tree.map(lambda x: _zeros(some[0], x) if _is_zero(x) else x, moves, is_leaf=_is_zero)
    dcontext, dlogsumexp = _linear(plan, jax.tree.map(_once, given), jax.tree.map(_once, made), rest, moves)
    return (context, logsumexp, made), (dcontext, dlogsumexp, still)


_ = differentiable.defjvp(_rule, symbolic_zeros=True)


def _is_zero(x: Any) -> bool:
    return isinstance(x, SymbolicZero)


def _moves(tree: Any) -> bool:
    return any(not _is_zero(x) for x in jax.tree.leaves(tree, is_leaf=_is_zero))


def _linear(plan: Plan, given: Given, made: Made, rest: Rest, moves: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
    """Return L(moves), of which JAX knows the transpose."""
    wanted = frozenset(moves)

    def ahead(moves: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
        absent: dict[str, Any] = dict.fromkeys(Given._fields)
        return tangent(plan, given, rest, made, Given(**(absent | moves)))

    def behind(slopes: tuple[jax.Array, jax.Array]) -> dict[str, Any]:
        grads = backward(replace(plan, tile=plan.cut.behind), given, rest, made, slopes, wanted)._asdict()
        return {name: grads[name] for name in moves}

    def system(x: Any) -> Any:
        # Stands for the matrix, which JAX asks for second derivatives alone; those are refused.
        return x

    def solve(_: Any, x: tuple[Any, Any]) -> tuple[Any, Any]:
        return x[0], jax.tree.map(jnp.add, x[1], ahead(x[0]))

    def turned(_: Any, x: tuple[Any, Any]) -> tuple[Any, Any]:
        return jax.tree.map(jnp.add, x[0], behind(x[1])), x[1]

    nothing = tuple(_zeros(moves["q"], like) for like in (made.context, made.top))
    found = lax.custom_linear_solve(system, (moves, nothing), solve, turned)
    # JAX cannot solve for a slope that is 0 by structure, as where another derivative moves one part of the answer alone.
    every = jnp.concatenate([x.reshape(-1)[:0].astype(moves["q"].dtype) for x in jax.tree.leaves(found)])
    return jax.tree.map(lambda y: y + _zeros(every, y), found[1])


def _zeros(move: jax.Array, like: Any) -> jax.Array:
    """Return zeros that are linear in `move`, as JAX demands of all that a linear system is solved for."""
    return jnp.pad(move.reshape(-1)[:0].astype(like.dtype), (0, math.prod(like.shape))).reshape(like.shape)


@jax.custom_jvp
def _once(x: jax.Array) -> jax.Array:
    """Return x, of which there is no second derivative."""
    return x


@partial(_once.defjvp, symbolic_zeros=True)
def _twice(primals: tuple[jax.Array], tangents: tuple[Any]) -> tuple[jax.Array, Any]:
    if not _is_zero(tangents[0]):
        raise KernelRefused("kernel 'blockwise' refuses: has no second derivative; implementation='reference' has")
    return primals[0], jnp.zeros_like(primals[0])
