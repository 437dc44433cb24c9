"""Proven: what a divergence's own difference says, of two arrays of which one in the place of the other mends the outputs.

    jax = c torch, c = (n - 1) / n        a variance with its bias
    jax = c torch, c = 1 / sqrt(n)        a scale
"""

from __future__ import annotations

import math

from attention.parity.doctor.rules.scene import Finding
from attention.parity.tracing import Divergence
from attention.parity.tracing.difference import Difference


def name(divergence: Divergence) -> tuple[Finding, ...]:
    """Return what the difference of a divergence is called; nothing where no swap has proven it."""
    relation = divergence.difference
    if relation is None or divergence.kind == "unproven" or divergence.torch is None or divergence.jax is None:
        return ()
    found = _factor(divergence, relation) if relation.kind == "factor" else None
    return (found,) if found else ()


def _factor(divergence: Divergence, relation: Difference) -> Finding | None:
    c = float(relation.numbers["factor"])
    sizes = {n for m in divergence.timeline for e in (m.torch, m.jax) if e is not None for n in e.shape if n > 1}
    for n in sorted(sizes):
        squared = {"variance": (n - 1) / n, "deviation": math.sqrt((n - 1) / n)}
        for what, ratio in squared.items():
            for value, torch, jax in ((ratio, "unbiased", "biased"), (1 / ratio, "biased", "unbiased")):
                if math.isclose(c, value, rel_tol=1e-9):
                    told = f"{torch} {what} on torch, {jax} on jax"
                    mend = {"unbiased": ("correction=1", "ddof=1"), "biased": ("correction=0", "ddof=0")}
                    return Finding(told, f"jax = {c:.9g} torch, (n - 1) / n of n = {n}", mend[jax][0], mend[torch][1])
    for n in sorted(sizes):
        for value, text in ((n**0.5, f"sqrt({n})"), (n**-0.5, f"1 / sqrt({n})")):
            if math.isclose(c, value, rel_tol=1e-9):
                return Finding(f"a scale of {text} between the sides", f"jax = {c:.9g} torch; an axis has {n}", f"* {text}", f"/ {text}")
    whole = [n for n in sorted(sizes) if math.isclose(c, n, rel_tol=1e-9) or math.isclose(1 / c, n, rel_tol=1e-9)]
    if whole:
        side = "torch" if c > 1 else "jax"
        return Finding(f"mean on {side} where the other side sums over {whole[0]}", f"jax = {c:.9g} torch", sure=False)
    if math.isclose(c, -1.0, rel_tol=1e-9):
        return Finding("the other sign", "jax = -torch")
    if math.isclose(c, math.log2(math.e), rel_tol=1e-9) or math.isclose(c, math.log(2.0), rel_tol=1e-9):
        return Finding("exp2 for exp, or log2 for log", f"jax = {c:.9g} torch")
    return Finding(f"a factor of {c:.9g} between the sides", relation.text)
