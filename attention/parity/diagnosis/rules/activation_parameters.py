"""Parameters of activations below zero: the slope of a leaky ReLU or the alpha of an ELU, fitted on either side.

torch = x above zero, c f(x) below        jax = x above zero, d f(x) below
"""

from __future__ import annotations

import math

import numpy as np

from attention.parity.diagnosis.rules.activations import APART, LEAST, Map
from attention.parity.diagnosis.rules.arrays import equal, magnitudes
from attention.parity.diagnosis.rules.constants import is_plain
from attention.parity.diagnosis.rules.operand_pair import Finding, OperandPair

BELOW: dict[str, tuple[str, Map, str, str]] = {
    "negative slope of a leaky relu": ("slope", lambda x: x, "F.leaky_relu(x, {})", "jax.nn.leaky_relu(x, {})"),
    "alpha of an elu": ("alpha", np.expm1, "F.elu(x, {})", "jax.nn.elu(x, {})"),
}
"""Activations that are x above zero and c f(x) below: what c is called, f, and how both are written."""


def another_parameter(pair: OperandPair) -> Finding | None:
    """Name the parameters that one activation has on either side: the slope of a leaky ReLU, the alpha of an ELU."""
    for known, x, y in pair.of_size():
        for name, (_, f, torch_code, jax_code) in BELOW.items():
            torch, jax = _below(pair, pair.torch, x, f), _below(pair, pair.jax, y, f)
            if torch is None or jax is None or math.isclose(torch, jax, rel_tol=max(1e-5, APART * pair.limit)):
                continue
            # With 0 it is a ReLU, with 1 a leaky ReLU does nothing: these are other mistakes.
            if {torch, jax} & ({0.0, 1.0} if f(x) is x else {0.0}) or not (is_plain(torch) and is_plain(jax)):
                continue
            told = f"{name} {torch:.6g} on torch, {jax:.6g} on jax"
            mends = torch_code.format(f"{jax:.6g}"), jax_code.format(f"{torch:.6g}")
            return Finding(told, f"both rebuilt from x = {known.label}", *mends)
    return None


def inside_elu(pair: OperandPair) -> Finding | None:
    """Name the alphas of two ELUs that part before they choose between x and what is below zero."""
    if not pair.region[0] or pair.region[0][-1].name != "elu":
        return None
    for known, x, y in pair.of_size():
        below = x < 0
        if magnitudes(x[below]) < LEAST or not np.isfinite(x).all():
            continue
        alphas = [float(np.median(v[z < 0] / np.expm1(z[z < 0]))) for v, z in ((pair.torch, x), (pair.jax, y))]
        made = [c * np.expm1(z[z < 0]) for c, z in zip(alphas, (x, y), strict=True)]
        same = equal(pair.torch[below], made[0], 1e-6) and equal(pair.jax[y < 0], made[1], 1e-6)
        torch, jax = (round(c, 7) for c in alphas)
        if same and torch != jax and torch and jax and is_plain(torch) and is_plain(jax):
            name = f"alpha of an elu {torch:.6g} on torch, {jax:.6g} on jax"
            return Finding(
                name, f"c expm1(x) below zero, x = {known.label}", f"F.elu(x, {jax:.6g})", f"jax.nn.elu(x, {torch:.6g})"
            )
    return None


def _below(pair: OperandPair, value: np.ndarray, x: np.ndarray, f: Map) -> float | None:
    below = x < 0
    if not np.isfinite(x).all() or magnitudes(x[below]) < 2 or below.all():
        return None
    c = float(np.median(value[below] / f(x[below])))
    # Constants are float32 on either side, and a product of 0.1 in float32 is not 0.1.
    c = round(c, 7) if abs(c - round(c, 7)) < 1e-8 else c
    return c if equal(value, np.where(below, c * f(x), x), max(4 * pair.limit, 1e-6)) else None


RULES = (another_parameter, inside_elu)
