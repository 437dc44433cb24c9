"""Activations of feed-forward layers: names, formulas, and which are gated.

    relu(x) = max(x, 0)                 gelu(x) = x (1 + erf(x / sqrt 2)) / 2
    silu(x) = x / (1 + exp(-x))         gelu_tanh(x) = x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2

    swiglu, geglu, geglu_tanh:  h = f(x W_gate) * (x W_up)        f = silu, gelu, gelu_tanh

"gelu" without a further word is torch's default and not JAX's: the two differ by up to 5e-4, so here each has its name.

References:
    Hendrycks and Gimpel, arXiv:1606.08415 (gelu, both forms); Elfwing et al., arXiv:1702.03118 (silu); Shazeer,
    arXiv:2002.05202 (the gated forms).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from attention.spec.axes import Array

NODES = 40
"""Half the nodes of Gauss's quadrature: with as many, the integral of `erf` is exact to 1e-15 wherever erf is not yet 1."""
FAR = 6.0
"""Where erf is 1 in float64: 1 - erf(6) = 2e-17."""


@cache
def _quadrature() -> tuple[np.ndarray, np.ndarray]:
    """Return the squared nodes in 0..1 and their weights, at first use: NumPy's polynomials load slowly."""
    nodes, shares = np.polynomial.legendre.leggauss(2 * NODES)
    return nodes[NODES:] ** 2, shares[NODES:]


def erf(xp: Any, x: Array) -> Array:
    """Return 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x, with its derivatives, in float64's digits.

    The array API has no erf, so it is integrated: erf(x) = 2 x / sqrt(pi) * (integral of exp(-x^2 t^2) for t in 0..1).
    Meant for the oracle: `NODES` times the memory of `x`. The backends use their framework's own.
    """
    near = xp.clip(x, -FAR, FAR)
    squares, shares = _quadrature()
    heights = xp.exp(-(near * near)[..., None] * xp.asarray(squares))
    integral = near * xp.sum(heights * xp.asarray(shares), axis=-1) * (2.0 / math.sqrt(math.pi))
    # Exactly 1 far out, because gelu multiplies 1 - erf by x.
    return xp.where(xp.abs(x) < FAR, integral, xp.sign(x))


def relu(xp: Any, x: Array) -> Array:
    """Return max(x, 0), whose slope at 0 is 0."""
    return xp.where(x <= 0, xp.zeros_like(x), x)


def gelu(xp: Any, x: Array) -> Array:
    """Return x times the probability that a normal number is less than x."""
    return 0.5 * x * (1.0 + erf(xp, x * math.sqrt(0.5)))


def gelu_tanh(xp: Any, x: Array) -> Array:
    """Return the approximation of `gelu` that GPT-2 and Gemma were trained with."""
    return 0.5 * x * (1.0 + xp.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))


def silu(xp: Any, x: Array) -> Array:
    """Return x times its logistic function."""
    # exp(700) is finite, and its reciprocal is nothing beside any float64 that a layer holds: no inf, no NaN slope.
    return x / (1.0 + xp.exp(-xp.clip(x, -700.0, None)))


Activation = Callable[[Any, Array], Array]

PLAIN: dict[str, Activation] = {"relu": relu, "gelu": gelu, "gelu_tanh": gelu_tanh, "silu": silu}
"""Functions of one projection."""
GATED: dict[str, str] = {"swiglu": "silu", "geglu": "gelu", "geglu_tanh": "gelu_tanh"}
"""Products of two projections, and the function that the gate goes through."""
NAMES = (*PLAIN, *GATED)
