"""Rules that need no operand: an array in a coarser dtype, a gradient stopped on one side, complex conjugates.

jax = round(torch)        jax = 0, a gradient        jax = conj(torch)
"""

from __future__ import annotations

import numpy as np

from attention.parity.diagnosis.rules.arrays import arranged, equal
from attention.parity.diagnosis.rules.operand_pair import Finding, OperandPair, fix
from attention.parity.tracing.fingerprint import real


def coarser(pair: OperandPair) -> Finding | None:
    """Name an array that one side makes in a coarser dtype."""
    relation = pair.relation
    if relation.kind == "rounded":
        side, dtype = relation.numbers["side"], relation.numbers["dtype"]
        return Finding(f"{side} computes in {dtype}", relation.text, **fix(side, "float32 here"))
    coarse, fine = max(pair.units), min(pair.units)
    if relation.kind != "values" or coarse < 2.0**-12 or fine * 2 > coarse:
        return None
    # Rounding that is known to happen on one side only, and an error of that size: what else would leave that little?
    if not coarse / 50 <= relation.numbers["rms"] <= 4 * coarse:
        return None
    side = "torch" if pair.units[0] == coarse else "jax"
    dtype = {2.0**-8: "bfloat16", 2.0**-9: "bfloat16", 2.0**-11: "float16"}.get(coarse, "a coarser dtype")
    # The size of an error is evidence, and no proof that this operation is the one that narrows.
    return Finding(f"{side} computes in {dtype}", relation.text, **fix(side, "float32 here"), sure=False)


def stopped(pair: OperandPair) -> Finding | None:
    """Name a gradient that is zero on one side."""
    if not pair.backward or pair.relation.kind != "zero":
        return None
    side, other = ("torch", "jax") if not pair.torch.any() else ("jax", "torch")
    mend = {"torch": ".detach()", "jax": "jax.lax.stop_gradient"}
    return Finding(
        f"gradient stopped on {side} alone",
        pair.relation.text,
        **(fix(other, mend[other]) | fix(side, f"without {mend[side]}")),
    )


def conjugated(pair: OperandPair) -> Finding | None:
    """Name complex numbers that are conjugated on one side."""
    if pair.torch.dtype.kind != "c" or pair.jax.dtype.kind != "c":
        return None
    for jax in arranged(pair.torch, pair.jax):
        pairs, plain, other = real(pair.torch), real(jax), real(np.conjugate(jax))
        if equal(pairs, other, 1e-6) and not equal(plain, other, 1e-6):
            return Finding("complex numbers are conjugated on one side", "jax = conj(torch)", ".conj()", "jnp.conj")
    return None
