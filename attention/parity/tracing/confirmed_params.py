"""Confirmed parameters: all operations that use them match in both programs, so their layout is right.

    W is confirmed    iff    every operation that reads W, or what reads that, makes an array of the other program

A kernel in another layout, or one parameter in the place of another, makes arrays that nobody else makes; so what is confirmed
needs no name and no equal output to say so, even in a port with a mistake elsewhere.
"""

from __future__ import annotations

import numpy as np

from attention.parity.tracing.trace import Event
from attention.parity.tracing.trace_alignment import Alignment

# Operations after a use that may be computed in another way before the programs agree: parts of one fused product, a bias.
DEPTH = 3


def confirmed(alignment: Alignment) -> frozenset[str]:
    """Return the names of the JAX side's parameters that are confirmed; one that holds the same number everywhere never is.

    Args:
        alignment: the two programs, with all that is known to differ carried across.
    """
    params = [event for event in alignment.jax.events if event.is_given and event.role == "param" and _is_distinctive(event)]
    return frozenset(event.name for event in params if _confirmed(alignment, event.index))


def _is_distinctive(event: Event) -> bool:
    return event.is_float and event.value.size > 1 and bool(np.any(event.value != event.value.flat[0]))


def _confirmed(alignment: Alignment, i: int) -> bool:
    uses = _uses(alignment, i)
    return bool(uses) and all(_agrees(alignment, n, DEPTH) for n in uses)


def _uses(alignment: Alignment, i: int) -> list[int]:
    """Return the operations that read an array, as it is or laid out anew."""
    found: list[int] = []
    for n in alignment.jax.consumers[i]:
        event = alignment.jax.events[n]
        if event.is_move:
            found += _uses(alignment, n)
        elif event.op != "output":
            found.append(n)
    return found


def _agrees(alignment: Alignment, i: int, depth: int) -> bool:
    if alignment.alike[1][i]:
        return True
    further = _uses(alignment, i) if depth else []
    return bool(further) and all(_agrees(alignment, n, depth - 1) for n in further)
