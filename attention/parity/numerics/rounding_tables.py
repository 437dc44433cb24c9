"""Tables of rounding errors: which JAX primitives are exact, and how many roundings the others have."""

# The parameters of JAX primitives have no types.
# pyright: standard

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

Array = Any

# Float results of these are never rounded. A primitive in no table is rounded once.
EXACT = frozenset(
    """
    abs approx_top_k bitcast_convert_type broadcast_in_dim broadcast_to ceil clamp concatenate convert_element_type
    copy cummax cummin device_put dynamic_slice dynamic_update_slice empty empty2 floor gather imag iota max min name
    neg nextafter optimization_barrier pad pmax pmin pvary real reduce_max reduce_min reduce_precision
    reduce_window_max reduce_window_min rem reshape reshard rev rng_uniform round scatter scatter-max scatter-min
    select_n sharding_constraint sign slice sort split squeeze stack stop_gradient tile top_k transpose unstack
    """.split()  # noqa: SIM905 a table of names is easier to read than a column of sixty quoted lines
)

# The error of the usual implementations, in roundings. XLA's tanh, measured on the CPU: RMS 1.41 units of float32 and 1.02 of
# float64, where a rounding has 0.58; its logistic 0.69; its polygamma 16 of order 1 and 8 of order 2.
FACTORS = {
    "exp": 1.5,
    "exp2": 1.5,
    "expm1": 1.5,
    "log": 1.5,
    "log1p": 1.5,
    "log2": 1.5,
    "logistic": 1.2,
    "polygamma": 28.0,
    "tanh": 2.4,
}

# Results that are differences of larger terms, such as log(gamma(x)) near its zeros: the relative error of the result, and the
# size of the terms, an amount plus a share of the operand. Measured for XLA on the CPU: for 0.05 <= x <= 20, RMS 3 to 47 units
# of float32. Torch computes gelu as x / 2 (1 + erf(x / sqrt 2)), which cancels where x is far below 0; JAX uses erfc there.
LARGER_TERMS = {
    "lgamma": (1.8, 6.0, 6.0),
    "digamma": (2.2, 9.0, 0.0),
    "gelu": (1.0, 0.0, 0.5),
    "gelu_backward": (1.0, 0.0, 0.5),
}


def of_terms(name: str, size: Array, operand: Array) -> Array:
    """Return the size of the terms of a difference, from `|result|` and `|operand|` per element, in any framework."""
    share, amount, slope = LARGER_TERMS[name]
    terms = amount + slope * operand
    # A maximum by operators, for NumPy and torch alike.
    own = share * size
    return terms + (own - terms) * (own > terms)


# The number of terms of a sum, from its parameters and operands. Each is linear in its operands, so that on squares it
# computes sum (a b)^2.
TERMS: dict[str, Callable[..., int]] = {
    "conv_general_dilated": lambda p, _, rhs: rhs.size // rhs.shape[p["dimension_numbers"].rhs_spec[0]],
    "cumsum": lambda p, x: x.shape[p["axis"]],
    "dot_general": lambda p, lhs, _: math.prod(lhs.shape[axis] for axis in p["dimension_numbers"][0][0]),
    "reduce_sum": lambda p, x: math.prod(x.shape[axis] for axis in p["axes"]),
    "reduce_window_sum": lambda p, _: math.prod(p["window_dimensions"]),
}


CORRECT = frozenset({"add", "add_any", "div", "integer_pow", "mul", "sqrt", "square", "sub"})
"""Results of these are correctly rounded: one that the dtype represents has no error. This is used for constants alone: 6 / 3
may be 6 * fl(1/3) in another program, but 2.0 - 1.0 has no other form."""

# Unit roundoff and floor of the dtypes that a program may cast to on purpose.
NARROW = {"bfloat16": (2.0**-8, 2.0**-126), "float16": (2.0**-11, 2.0**-38)}


def depth_of(n: int) -> float:
    """Return the number of roundings in a sum of n terms: log2(n) in a tree, and more in a long one.

    XLA's product of one row of 768, 2048 and 16384 terms on a CPU adds one after another: it errs as with a depth of 0.3 n, and
    a GEMM as with 100 from 256 terms on. With n / 16 the first is at z = 2, where programs are that sum in trees.

    >>> depth_of(64), depth_of(2048)
    (6.0, 128.0)
    """
    return max(math.log2(max(1, n)), n / 16)
