"""A soft cap c tanh(x / c) that only one of the two programs applies.

c tanh(x / c)        nobody has such an array by chance
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from attention.parity.diagnosis.rules.arrays import magnitudes
from attention.parity.diagnosis.rules.elementwise import cap, capped
from attention.parity.diagnosis.rules.operand_pair import Finding, OperandPair, agreed, fix
from attention.parity.tracing import Divergence

LEAST = 4
"""Magnitudes that a cap has to hold for: it is fitted to one of them."""


def name(divergence: Divergence) -> tuple[Finding, ...]:
    """Return the soft cap that only one side has."""
    # A cap is a tanh: where the other side has one too, it caps something, if not this array.
    tanh = [
        any("tanh" in getattr(m, side).op for m in divergence.timeline if getattr(m, side) and not m.matched)
        for side in ("torch", "jax")
    ]
    if all(tanh) or not any(tanh):
        return ()
    with np.errstate(all="ignore"):
        found = {side: dict(_caps(divergence, side)) for side in ("torch", "jax")}
    for side, other in (("torch", "jax"), ("jax", "torch")):
        if found[side] and not found[other]:
            c, label = next(iter(found[side].items()))
            evidence = f"{side} = {c:.6g} tanh(x / {c:.6g}), x = {label}; {other} has no such array"
            return (
                Finding(
                    f"a soft cap of {c:.6g} on {side}, none on {other}",
                    evidence,
                    sure=False,
                    **fix(other, capped("torch" if other == "torch" else "jnp", c)),
                ),
            )
    return ()


def _caps(divergence: Divergence, side: str) -> Iterator[tuple[float, str]]:
    """Yield the caps of a side's own arrays, and what is capped."""
    known = agreed(divergence)
    for moment in divergence.timeline:
        event = getattr(moment, side)
        if moment.matched or event is None or not event.is_float or event.value.size < 4:
            continue
        for k in known:
            x = getattr(k, side)
            if x.size != event.value.size:
                continue
            pair = OperandPair(event.value, event.value)
            c = cap(pair, event.value, x.reshape(event.value.shape))
            if c is not None and math.isfinite(c) and magnitudes(x) >= LEAST:
                yield round(c, 9), k.label
