"""A user's function of one score as a compiler may keep it: by what it does, and not by which object it is.

traced(score, b, h, t, s, consts, numbers) = score_mod(score, b, h, t, s)

An object that is called may do something else the next time, and what it closes over belongs to the call it was made in. So it
is traced for every call, its arrays become arguments, and two that trace alike share one compilation.
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
    """What JAX saw of a function.

    Attributes:
        text: all that it does; what stands for it.
        moves: of each array that it closes over, whether it is differentiated.
        program: the same, to be run.
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
    """Return a function as it does now, the arrays it closes over that are differentiated, and the others.

    Args:
        score_mod: `(score, b, h, t, s) -> score`, checked.
        dtype: of a score.
    """
    score, index = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
    # JAX would remember what it saw of the same object.
    closed = jax.make_jaxpr(lambda *given: score_mod(*given))(score, index, index, index, index)  # noqa: PLW0108
    consts = [jnp.asarray(x) for x in closed.consts]
    moves = tuple(jnp.issubdtype(x.dtype, jnp.floating) for x in consts)
    split = [tuple(x for x, moved in zip(consts, moves, strict=True) if moved == wanted) for wanted in (True, False)]
    return Traced(str(closed.jaxpr), moves, closed.jaxpr), split[0], split[1]
