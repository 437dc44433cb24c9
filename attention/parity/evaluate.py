"""Evaluation of a jaxpr in NumPy float64, one primitive at a time, with nothing compiled.

    result = RULES[primitive](parameters, *operands)        or, for a primitive without a rule, JAX's own

A probe is run a few times and thrown away, so that compiling it would take a hundred times longer than running it.
"""

# JAX leaves the types of its arrays and equations unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

Array = Any
Rule = Callable[..., Array]


def is_float(x: Any) -> bool:
    """Return whether an array, or an abstract one, holds floats."""
    # Asked of every operand of every operation, and NumPy's own floats answer sooner.
    return x.dtype.kind == "f" or jnp.issubdtype(x.dtype, jnp.floating)


def widened(x: Array) -> Array:
    """Return floats as float64, and anything else as it is."""
    return x.astype(np.float64) if is_float(x) and x.dtype != np.float64 else x


def apply(eqn: Any, operands: Sequence[Array]) -> list[Array]:
    """Return the exact results of one primitive, in float64 even where the program asks for fewer digits."""
    rule = RULES.get(eqn.primitive.name)
    # NumPy's integers divide and overflow by other rules than XLA's.
    if rule is not None and (eqn.primitive.name in MOVES or all(is_float(x) or x.dtype == bool for x in operands)):
        return [np.asarray(rule(eqn.params, *operands))]
    if eqn.primitive.name in SCATTERS and len(operands) == 3:
        return [widened(np.asarray(SCATTERS[eqn.primitive.name](eqn.params, *operands)))]
    params = eqn.primitive.get_bind_params(eqn.params)
    if eqn.primitive.name != "bitcast_convert_type":
        narrow = [k for k, v in params.items() if isinstance(v, np.dtype) and jnp.issubdtype(v, jnp.floating)]
        params = params | dict.fromkeys(narrow, np.dtype(np.float64))
    results = eqn.primitive.bind(*operands, **params)
    return [widened(np.asarray(o)) for o in (results if eqn.primitive.multiple_results else [results])]


def _dot_general(p: Any, lhs: Array, rhs: Array) -> Array:
    """Return the product as a matrix product of stacks: batch axes first, then free ones, then those summed over."""
    (l_sum, r_sum), (l_batch, r_batch) = p["dimension_numbers"]
    l_free = [i for i in range(lhs.ndim) if i not in (*l_sum, *l_batch)]
    r_free = [i for i in range(rhs.ndim) if i not in (*r_sum, *r_batch)]
    batch, rows, columns = ([x.shape[i] for i in axes] for x, axes in ((lhs, l_batch), (lhs, l_free), (rhs, r_free)))
    n = math.prod(lhs.shape[i] for i in l_sum)
    left = lhs.transpose(*l_batch, *l_free, *l_sum).reshape(*batch, math.prod(rows), n)
    right = rhs.transpose(*r_batch, *r_sum, *r_free).reshape(*batch, n, math.prod(columns))
    return (left @ right).reshape([*batch, *rows, *columns])


def _broadcast_in_dim(p: Any, x: Array, *_: Array) -> Array:
    shape = [1] * len(p["shape"])
    for axis, size in zip(p["broadcast_dimensions"], x.shape, strict=True):
        shape[axis] = size
    return np.broadcast_to(x.reshape(shape), p["shape"])


def _slice(p: Any, x: Array) -> Array:
    strides = p["strides"] or (1,) * x.ndim
    return x[tuple(map(slice, p["start_indices"], p["limit_indices"], strides))]


def _select_n(_: Any, which: Array, *cases: Array) -> Array:
    return np.where(which, cases[1], cases[0]) if which.dtype == bool else np.choose(which, cases)


def _convert(p: Any, x: Array) -> Array:
    return x.astype(np.float64 if jnp.issubdtype(p["new_dtype"], jnp.floating) else p["new_dtype"])


def _scattered(function: Callable[..., Array]) -> Rule:
    """Return the rule of a scatter: its own parameters hold a program in the dtype that it was traced in."""

    def rule(p: Any, operand: Array, indices: Array, updates: Array) -> Array:
        names = ("indices_are_sorted", "unique_indices", "mode")
        return function(operand, indices, updates, p["dimension_numbers"], **{name: p[name] for name in names})

    return rule


def _pointwise(function: Callable[..., Array]) -> Rule:
    return lambda _, *x: function(*x)


def _reduced(function: Callable[..., Array]) -> Rule:
    return lambda p, x: function(x, axis=tuple(p["axes"]))


MOVES: dict[str, Rule] = {
    "broadcast_in_dim": _broadcast_in_dim,
    "concatenate": lambda p, *x: np.concatenate(x, axis=p["dimension"]),
    "convert_element_type": _convert,
    "copy": lambda _, x: x,
    "reshape": lambda p, x: x.reshape(p["new_sizes"]),
    "select_n": _select_n,
    "slice": _slice,
    "squeeze": lambda p, x: x.squeeze(tuple(p["dimensions"])),
    "stored": lambda _, x: x,
    "transpose": lambda p, x: x.transpose(p["permutation"]),
}
POINTWISE: dict[str, Callable[..., Array]] = {
    "abs": np.abs,
    "add": np.add,
    "add_any": np.add,
    "and": np.logical_and,
    "cos": np.cos,
    "div": np.divide,
    "eq": np.equal,
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "ge": np.greater_equal,
    "gt": np.greater,
    "is_finite": np.isfinite,
    "le": np.less_equal,
    "log": np.log,
    "log1p": np.log1p,
    "lt": np.less,
    "max": np.maximum,
    "min": np.minimum,
    "mul": np.multiply,
    "ne": np.not_equal,
    "neg": np.negative,
    "not": np.logical_not,
    "or": np.logical_or,
    "sign": np.sign,
    "sin": np.sin,
    "sqrt": np.sqrt,
    "square": np.square,
    "sub": np.subtract,
    "tanh": np.tanh,
}
SCATTERS: dict[str, Rule] = {
    "scatter": _scattered(lax.scatter),
    "scatter-add": _scattered(lax.scatter_add),
    "scatter-max": _scattered(lax.scatter_max),
    "scatter-min": _scattered(lax.scatter_min),
    "scatter-mul": _scattered(lax.scatter_mul),
}
RULES: dict[str, Rule] = {
    **MOVES,
    **{name: _pointwise(function) for name, function in POINTWISE.items()},
    "dot_general": _dot_general,
    "integer_pow": lambda p, x: x ** float(p["y"]),
    "reduce_and": _reduced(np.all),
    "reduce_max": _reduced(np.max),
    "reduce_min": _reduced(np.min),
    "reduce_or": _reduced(np.any),
    "reduce_sum": _reduced(np.sum),
}
