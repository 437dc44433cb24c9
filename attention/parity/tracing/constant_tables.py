"""Constant tables in float32: the JAX run takes the torch values where they differ by rounding only.

    1 / 10000 ** (arange(0, D, 2) / D)        in float32, when the module was built;        in float64, in the JAX function

The two differ by a rounding of float32, which is no mistake, and would drown those that are as small. So the JAX side is run
again with the constants of the torch side, wherever the two are equal to within that rounding.
"""

from __future__ import annotations

import numpy as np

from attention.parity.tracing.activation_patching import possible_layouts, rerun
from attention.parity.tracing.axis_permutations import close
from attention.parity.tracing.fingerprint import Fingerprint, fingerprint
from attention.parity.tracing.trace import Event, Recording

# Relative to the largest element: of equal constants, and of those that a rounding of float32 sets apart.
SAME, ROUNDED = 1e-10, 1e-6


def share_constants(torch: Recording, jax: Recording) -> tuple[str, ...]:
    """Give the constants of the torch side to the JAX side, whose events change in place; return what a reader must know.

    Args:
        torch: the recording of the torch side.
        jax: that of the JAX side, with its steps.
    """
    if not jax.steps:
        return ()
    shared: list[str] = []
    tables: dict[int, list[Event]] = {}
    for other in filter(_is_table, jax.events):
        tables.setdefault(other.value.size, []).append(other)
    known: dict[Event, Fingerprint] = {}
    for event in filter(_is_table, torch.events):
        for other in tables.get(event.value.size, ()):
            near = _is_near(_print(event, known), _print(other, known))
            value = _rounded(event, other) if near else None
            if value is not None:
                for i, x in rerun(jax, {other.index: value}).items():
                    jax.events[i].value = x
                    _ = known.pop(jax.events[i], None)
                shared.append(f"{other.label} at {other.place}")
    return (f"rounded to float32 on one side, and made equal: {', '.join(dict.fromkeys(shared))}",) if shared else ()


def _is_table(event: Event) -> bool:
    return not event.role and event.value.dtype.kind == "f" and event.value.size > 1 and event.op != "output"


def _print(event: Event, known: dict[Event, Fingerprint]) -> Fingerprint:
    """Return the fingerprint of an event, which is computed once."""
    if event not in known:
        known[event] = fingerprint(event.value)
    return known[event]


def _is_near(here: Fingerprint, there: Fingerprint) -> bool:
    """Return whether two arrays may be a rounding apart."""
    if here.pattern != there.pattern or here.statistics.shape != there.statistics.shape:
        return False
    return bool((abs(there.statistics - here.statistics) <= ROUNDED * here.scale).all())


def _rounded(event: Event, other: Event) -> np.ndarray | None:
    """Return what to put in the place of a JAX event that a rounding sets apart from one of torch, or None if nothing does."""
    near = [value for value in possible_layouts(event.value, other.value) if close(value, other.value, ROUNDED)]
    return near[0] if near and not close(near[0], other.value, SAME) else None
