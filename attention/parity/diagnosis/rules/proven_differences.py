"""Name a difference that activation patching has proven: a known factor such as (n - 1) / n, 1 / sqrt(n), or an eps.

jax = c torch, c = (n - 1) / n        a variance with its bias
jax = c torch, c = 1 / sqrt(n)        a scale
"""

from __future__ import annotations

import math

import numpy as np

from attention.parity.diagnosis.rules.arrays import magnitudes
from attention.parity.diagnosis.rules.constants import numbers
from attention.parity.diagnosis.rules.elementwise import PARTS, factor_text, times
from attention.parity.diagnosis.rules.operand_pair import Finding
from attention.parity.tracing import Divergence, Event
from attention.parity.tracing.array_difference import Difference

USUAL = (1e-12, 1e-10, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3)


def name(divergence: Divergence) -> tuple[Finding, ...]:
    """Return what the difference of a divergence is called; nothing where no swap has proven it."""
    relation = divergence.difference
    if divergence.region[0] and divergence.region[0][-1].name in PARTS:
        return ()
    if relation is None or divergence.kind == "unproven" or divergence.torch is None or divergence.jax is None:
        return ()
    if "gradient is stopped" in relation.text:
        told = f"{divergence.torch.op} on torch, {divergence.jax.op} on jax"
        return (Finding("gradient stopped on one side, or of another array", told, ".detach()", "jax.lax.stop_gradient"),)
    c = relation.numbers.get("factor") if relation.kind == "factor" else None
    if relation.kind == "values" and not relation.numbers.get("where", True) and relation.numbers["torch"]:
        # Any two numbers have a factor; that of two losses says something if it is the size of an axis.
        c = relation.numbers["jax"] / relation.numbers["torch"]
        found = _whole(c, _sizes(divergence))
    else:
        a = np.abs((divergence.ends or (divergence.torch,))[0].value)
        a = a[np.isfinite(a)]
        if magnitudes(a if c else a - a.min(initial=np.inf)) < (2 if c else 1):
            # One number has a factor and an offset to any other.
            return ()
        found = _factor(float(c), divergence, relation) if c else _eps(relation, divergence.kind)
    return (found,) if found else ()


def _eps(relation: Difference, kind: str) -> Finding | None:
    """Name two usual epsilons that are as far apart as the arrays."""
    apart = float(relation.numbers.get("offset", 0.0)) if relation.kind == "offset" else 0.0
    # Nothing is added only where an operation is absent.
    first = (0.0,) if kind == "absent in torch" else USUAL
    second = (0.0,) if kind == "absent in jax" else USUAL
    pairs = [(a, b) for a in first for b in second if apart and math.isclose(b - a, apart, rel_tol=1e-6)]
    if len(pairs) != 1:
        return None
    [(torch, jax)] = pairs
    name = f"eps {torch:g} on torch, {jax:g} on jax"
    return Finding(name, f"{relation.text}, as only these two of the usual ones are", f"eps={jax:g}", f"epsilon={torch:g}")


def _sizes(divergence: Divergence) -> list[int]:
    return sorted({n for m in divergence.timeline for e in (m.torch, m.jax) if e is not None for n in e.shape if n > 1})


def _factor(c: float, divergence: Divergence, relation: Difference) -> Finding | None:
    sizes = _sizes(divergence)
    if found := _unbiased(c, divergence, sizes):
        return found
    if math.isclose(c, -1.0, rel_tol=1e-9):
        return Finding("the other sign", "jax = -torch", "-x", "-x")
    told = [_written(region) for region in divergence.region]
    # What the sides multiply by must be it: a factor that is folded in elsewhere stands between equal programs too.
    if told[0] and math.isclose(told[1] / told[0], c, rel_tol=1e-6):
        n = next((n for n in sizes if any(math.isclose(c, v, rel_tol=1e-9) for v in (n**0.5, n**-0.5))), 0)
        evidence = f"jax = {c:.9g} torch; an axis has {n}" if n else relation.text
        return Finding(f"a {'scale' if n else 'factor'} of {factor_text(c)}, torch to jax", evidence, times(c), times(1 / c))
    return _whole(c, sizes)


FACTORS = {"mul": 1.0, "mul_": 1.0, "div": -1.0, "div_": -1.0, "divide": -1.0}


def _written(region: tuple[Event, ...]) -> float:
    """Return the product of the numbers that operations multiply arrays by, or one over those that they divide them by."""
    values, c = {event.index: event.value for event in region}, 1.0
    for event in region:
        if event.op not in FACTORS or event.value.size == 1 or not any(i in values for i in event.inputs):
            continue
        scalars = [float(values[i].reshape(())[()]) for i in event.inputs if i in values and values[i].size == 1]
        scalars += [] if len(event.inputs) > 1 else list(numbers(event.options))[:1]
        for number in scalars:
            c *= number ** FACTORS[event.op] if number else 1.0
    return c


def _unbiased(c: float, divergence: Divergence, sizes: list[int]) -> Finding | None:
    """Name n and n - 1 of a variance, where one is computed: a factor that an axis happens to have is no proof."""
    if not any("var" in f"{e.name} {e.op}" or "std" in f"{e.name} {e.op}" for side in divergence.region for e in side):
        return None
    for n in sizes:
        for what, ratio in (("variance", (n - 1) / n), ("deviation", math.sqrt((n - 1) / n))):
            for value, torch, jax in ((ratio, "unbiased", "biased"), (1 / ratio, "biased", "unbiased")):
                if n > 2 and math.isclose(c, value, rel_tol=1e-9):
                    mend = {"unbiased": ("correction=1", "ddof=1"), "biased": ("correction=0", "ddof=0")}
                    told = f"jax = {c:.9g} torch, which is n and n - 1 of n = {n}"
                    return Finding(f"{torch} {what} on torch, {jax} on jax", told, mend[jax][0], mend[torch][1], sure=False)
    return None


def _whole(c: float, sizes: list[int]) -> Finding | None:
    """Name a factor that is the size of an axis, or one over it."""
    for n in sizes:
        if math.isclose(c, n, rel_tol=1e-9) or math.isclose(1 / c, n, rel_tol=1e-9):
            mean, total = ("torch", "jax") if c > 1 else ("jax", "torch")
            name = f"a factor of {n}, the size of an axis: {mean} takes a mean where {total} takes a sum, or a scale"
            return Finding(name, f"jax = {c:.9g} torch", sure=False)
    return None
