"""Projection and norm as steps of a layer's formula, each passed to the observer.

y = x W + b        y = norm(x)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from attention.spec.attend import Observer
from attention.spec.axes import Array
from attention.spec.norms import Norm
from attention.spec.params import inner


def project(xp: Any, weights: Mapping[str, Array], name: str, x: Array, observe: Observer, summed: int = 1) -> Array:
    """Return `x W + b`, summed over the last `summed` axes of `x`."""
    kernel, bias = weights[f"{name}.kernel"], weights.get(f"{name}.bias")
    rows, columns = kernel.shape[:summed], kernel.shape[summed:]
    flat = xp.reshape(x, (*x.shape[: x.ndim - summed], math.prod(rows)))
    matrix = xp.reshape(kernel, (flat.shape[-1], -1))
    y = observe(name, xp.reshape(xp.matmul(flat, matrix), (*flat.shape[:-1], *columns)))
    return y if bias is None else observe(name, y + bias)


def normed(xp: Any, norms: Mapping[str, Norm], weights: Mapping[str, Array], name: str, x: Array, observe: Observer) -> Array:
    """Return `x` normalised by the norm called `name`, or unchanged if there is none."""
    return observe(name, norms[name].normalise(xp, inner(name, weights), x)) if name in norms else x
