"""A user's score_mod as a hashable jaxpr: functions that trace alike share one compilation.

traced(score, b, h, t, s, consts, numbers) = score_mod(score, b, h, t, s)

A callable may behave differently at the next call, and the arrays that it closes over belong to the call that made it. It is
traced for every call, and its arrays become arguments.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from attention.spec.axes import Array
from attention.spec.scores import ScoreMod


@dataclass(frozen=True)
class Traced:
    """A traced score_mod, hashed by the text of its jaxpr.

    Attributes:
        text: of the jaxpr; the hash and equality key.
        moves: whether each array that it closes over is differentiated.
        program: the jaxpr.
    """

    text: str
    moves: tuple[bool, ...]
    program: Any = field(compare=False)

    def __call__(
        self, score: Array, b: Array, h: Array, t: Array, s: Array, consts: tuple[Array, ...], numbers: tuple[Array, ...]
    ) -> Array:
        """Return the score; `consts` are the arrays that are differentiated, and `numbers` the others."""
        some, others = iter(consts), iter(numbers)
        closed = [next(some) if moves else next(others) for moves in self.moves]
        index = (jnp.asarray(x, jnp.int32) for x in (b, h, t, s))
        (made,) = jaxpr_as_fun(ClosedJaxpr(self.program, closed))(score, *index)
        return made


def trace(score_mod: ScoreMod, dtype: str) -> tuple[Traced, tuple[Array, ...], tuple[Array, ...]]:
    """Return a function as traced now, the floating arrays it closes over, and the other arrays.

    Args:
        score_mod: `(score, b, h, t, s) -> score`, checked.
        dtype: of a score.
    """
    score, index = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
    # A new lambda, because JAX caches the trace of an object that it has seen.
    closed = jax.make_jaxpr(lambda *given: score_mod(*given))(score, index, index, index, index)  # noqa: PLW0108
    consts = [jnp.asarray(x) for x in closed.consts]
    moves = tuple(jnp.issubdtype(x.dtype, jnp.floating) for x in consts)
    split = [tuple(x for x, moved in zip(consts, moves, strict=True) if moved == wanted) for wanted in (True, False)]
    return Traced(str(closed.jaxpr), moves, closed.jaxpr), split[0], split[1]
