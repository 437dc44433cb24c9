"""More rules of evaluation in NumPy: those of integers, and of what a model does beside arithmetic.

    result = RULES[primitive](parameters, *operands)        or else as `evaluate.apply` has it

A primitive without a rule is compiled by XLA for each new shape, which costs a hundred times what it costs to run.
"""

# JAX leaves the types of its arrays and equations unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from attention.parity.evaluate import apply, is_float, widened

Array = Any
_erf = np.vectorize(math.erf, otypes=[np.float64])
_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def _iota(p: Any, *_: Array) -> Array:
    shape = [1] * len(p["shape"])
    shape[p["dimension"]] = -1
    wide = np.float64 if np.issubdtype(p["dtype"], np.floating) else p["dtype"]
    return np.broadcast_to(np.arange(p["shape"][p["dimension"]], dtype=wide).reshape(shape), p["shape"]).copy()


def _split(p: Any, x: Array) -> list[Array]:
    return np.split(x, np.cumsum(p["sizes"])[:-1], axis=p["axis"])


def _cumulated(function: Callable[..., Array]) -> Callable[..., Array]:
    def rule(p: Any, x: Array) -> Array:
        return (
            np.flip(function(np.flip(x, p["axis"]), axis=p["axis"]), p["axis"]) if p["reverse"] else function(x, axis=p["axis"])
        )

    return rule


FLOATS: dict[str, Callable[..., Any]] = {
    "cumsum": _cumulated(np.cumsum),
    "cumprod": _cumulated(np.cumprod),
    "cumlogsumexp": _cumulated(np.logaddexp.accumulate),
    "erf": lambda _, x: _erf(x),
    "erfc": lambda _, x: _erfc(x),
    "iota": _iota,
    "logistic": lambda _, x: 1 / (1 + np.exp(-x)),
    "pow": lambda _, x, y: np.power(x, y),
    "reduce_prod": lambda p, x: np.prod(x, axis=tuple(p["axes"])),
    "rev": lambda p, x: np.flip(x, p["dimensions"]),
    "rsqrt": lambda _, x: 1 / np.sqrt(x),
    "split": _split,
    "stop_gradient": lambda _, x: x,
}
WHOLE: dict[str, Callable[..., Any]] = {
    "add": lambda _, x, y: x + y,
    "eq": lambda _, x, y: x == y,
    "ge": lambda _, x, y: x >= y,
    "gt": lambda _, x, y: x > y,
    "iota": _iota,
    "le": lambda _, x, y: x <= y,
    "lt": lambda _, x, y: x < y,
    "max": lambda _, x, y: np.maximum(x, y),
    "min": lambda _, x, y: np.minimum(x, y),
    "mul": lambda _, x, y: x * y,
    "ne": lambda _, x, y: x != y,
    "neg": lambda _, x: -x,
    "split": _split,
    "sub": lambda _, x, y: x - y,
}


def _complex(eqn: Any, operands: Sequence[Array]) -> list[Array]:
    """Return the results of one primitive of complex numbers, which JAX evaluates as it is."""
    results = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
    return [widened(np.asarray(x)) for x in (results if eqn.primitive.multiple_results else [results])]


def evaluated(eqn: Any, operands: Sequence[Array]) -> list[Array]:
    """Return the results of one primitive: floats in float64, integers as NumPy and XLA both wrap them."""
    name = eqn.primitive.name
    if any(x.dtype.kind == "c" for x in operands):
        return _complex(eqn, operands)
    floats = all(is_float(x) for x in operands)
    rule = (FLOATS if floats and operands else WHOLE).get(name)
    if rule is None or not (floats or all(x.dtype.kind in "iu" for x in operands)):
        return apply(eqn, operands)
    made = rule(eqn.params, *operands)
    return [np.asarray(x) for x in made] if isinstance(made, list) else [np.asarray(made)]
