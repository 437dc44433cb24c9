"""Rules that evaluate JAX primitives in NumPy: floats in float64, integers with XLA's overflow.

    RULES[name](parameters, *operands)        of floats, bools, and moves of anything
    INTEGERS[name](parameters, *operands)     of integers

A primitive without a rule is compiled by XLA for each new shape, which costs a hundred times its run.
"""

# JAX leaves the types of its arrays and equations unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jax import lax

from attention.parity.numerics.array_kinds import is_complex, wide, widened

Array = Any
Rule = Callable[..., Any]
_erf = np.vectorize(math.erf, otypes=[np.float64])
_erfc = np.vectorize(math.erfc, otypes=[np.float64])


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


def _pad(p: Any, x: Array, fill: Array) -> Array:
    config = p["padding_config"]
    sizes = [n + max(n - 1, 0) * between for n, (_, _, between) in zip(x.shape, config, strict=True)]
    low, high = ([max(pair[i], 0) for pair in config] for i in (0, 1))
    made = np.full([lo + n + hi for lo, n, hi in zip(low, sizes, high, strict=True)], fill, x.dtype)
    made[tuple(slice(lo, lo + n, c[2] + 1) for lo, n, c in zip(low, sizes, config, strict=True))] = x
    # A negative margin cuts.
    return made[tuple(slice(max(-lo, 0), n - max(-hi, 0)) for n, (lo, hi, _) in zip(made.shape, config, strict=True))]


def _split(p: Any, x: Array) -> list[Array]:
    return np.split(x, np.cumsum(p["sizes"])[:-1], axis=p["axis"])


def _iota(p: Any) -> Array:
    shape = [1] * len(p["shape"])
    shape[p["dimension"]] = -1
    counted = np.arange(p["shape"][p["dimension"]], dtype=p["dtype"])
    return widened(np.broadcast_to(counted.reshape(shape), p["shape"]))


def _cumulated(function: Callable[..., Array]) -> Rule:
    def rule(p: Any, x: Array) -> Array:
        x = np.flip(x, p["axis"]) if p["reverse"] else x
        made = function(x, axis=p["axis"], dtype=x.dtype)
        return np.flip(made, p["axis"]) if p["reverse"] else made

    return rule


def _quotient(x: Array, y: Array) -> Array:
    """Return integers divided towards zero; a division by zero is -1, as in XLA."""
    safe = np.where(y == 0, y + 1, y)
    return np.where(y == 0, -np.ones_like(x), (x - np.fmod(x, safe)) // safe)


def _remainder(x: Array, y: Array) -> Array:
    """Return the remainder of `_quotient`, with the sign of `x`; a division by zero leaves `x`, as in XLA."""
    return np.where(y == 0, x, np.fmod(x, np.where(y == 0, y + 1, y)))


def _shifted(function: Callable[[Array, Array], Array]) -> Rule:
    """Return the rule of a shift of unsigned integers: 0 where all bits are shifted out."""

    def rule(_: Any, x: Array, count: Array) -> Array:
        bits = 8 * x.dtype.itemsize
        return np.where(count < bits, function(x, np.minimum(count, bits - 1).astype(x.dtype)), np.zeros_like(x))

    return rule


def _select_n(_: Any, which: Array, *cases: Array) -> Array:
    return np.where(which, cases[1], cases[0]) if which.dtype == bool else np.choose(which, cases)


def _convert(p: Any, x: Array) -> Array:
    if is_complex(x) and not np.issubdtype(p["new_dtype"], np.complexfloating):
        x = x.real
    return x.astype(wide(p["new_dtype"]))


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


def _reshape(p: Any, x: Array) -> Array:
    # `jnp.ravel(order="F")` and the gradient of a grouped convolution read the axes in another order.
    return (x if p["dimensions"] is None else x.transpose(p["dimensions"])).reshape(p["new_sizes"])


MOVES: dict[str, Rule] = {
    "broadcast_in_dim": _broadcast_in_dim,
    "concatenate": lambda p, *x: np.concatenate(x, axis=p["dimension"]),
    "convert_element_type": _convert,
    "copy": lambda _, x: x,
    "iota": _iota,
    "pad": _pad,
    "reshape": _reshape,
    "rev": lambda p, x: np.flip(x, p["dimensions"]),
    "select_n": _select_n,
    "slice": _slice,
    "split": _split,
    "squeeze": lambda p, x: x.squeeze(tuple(p["dimensions"])),
    "stack": lambda p, *x: np.stack(x, axis=p["axis"]),
    "stop_gradient": lambda _, x: x,
    "stored": lambda _, x: x,
    "transpose": lambda p, x: x.transpose(p["permutation"]),
}
POINTWISE: dict[str, Callable[..., Array]] = {
    "abs": np.abs,
    "add": np.add,
    "add_any": np.add,
    "and": np.bitwise_and,
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
    "logistic": lambda x: 1 / (1 + np.exp(-x)),
    "lt": np.less,
    "max": np.maximum,
    "min": np.minimum,
    "mul": np.multiply,
    "ne": np.not_equal,
    "neg": np.negative,
    "not": np.invert,
    "or": np.bitwise_or,
    "pow": np.power,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sign": np.sign,
    "sin": np.sin,
    "sqrt": np.sqrt,
    "square": np.square,
    "sub": np.subtract,
    "tanh": np.tanh,
    "xor": np.bitwise_xor,
}
SCATTERS: dict[str, Rule] = {
    "scatter": _scattered(lax.scatter),
    "scatter-add": _scattered(lax.scatter_add),
    "scatter-max": _scattered(lax.scatter_max),
    "scatter-min": _scattered(lax.scatter_min),
    "scatter-mul": _scattered(lax.scatter_mul),
}
WHOLE = ("abs", "add", "and", "eq", "ge", "gt", "le", "lt", "max", "min", "mul", "ne", "neg", "not", "or", "sign", "sub", "xor")
"""Primitives of integers that NumPy computes as XLA does, overflow included."""
RULES: dict[str, Rule] = {
    **MOVES,
    **{name: _pointwise(function) for name, function in POINTWISE.items()},
    "cumlogsumexp": _cumulated(np.logaddexp.accumulate),
    "cumprod": _cumulated(np.cumprod),
    "cumsum": _cumulated(np.cumsum),
    "dot_general": _dot_general,
    "erf": lambda _, x: _erf(x),
    "erfc": lambda _, x: _erfc(x),
    "integer_pow": lambda p, x: x ** float(p["y"]),
    "reduce_and": _reduced(np.all),
    "reduce_max": _reduced(np.max),
    "reduce_min": _reduced(np.min),
    "reduce_or": _reduced(np.any),
    "reduce_prod": _reduced(np.prod),
    "reduce_sum": _reduced(np.sum),
}
INTEGERS: dict[str, Rule] = {
    **{name: RULES[name] for name in ("cumsum", "reduce_max", "reduce_min", *WHOLE)},
    "div": _pointwise(_quotient),
    "reduce_sum": lambda p, x: np.sum(x, axis=tuple(p["axes"]), dtype=x.dtype),
    "rem": _pointwise(_remainder),
    "shift_left": _shifted(np.left_shift),
    "shift_right_logical": _shifted(np.right_shift),
}
