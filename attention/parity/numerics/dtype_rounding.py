"""Rounding of each dtype, and the identity `stored` that marks where a program rounds to its storage dtype."""

# JAX leaves the types of its arrays unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from attention.parity.numerics.array_kinds import is_float
from attention.spec.errors import DTypeError
from attention.spec.options import Option, one_of

Array = Any


@dataclass(frozen=True)
class Rounding:
    """The rounding of a dtype.

    Args:
        unit: unit roundoff, half the distance from 1 to the next number.
        tiny: smallest normal number.
        gradual: whether every machine keeps results below `tiny` as subnormals; if not, some flush them to zero.
    """

    unit: float
    tiny: float
    gradual: bool = False

    @property
    def floor(self) -> float:
        """The absolute error that a result near zero may have."""
        return self.unit * self.tiny if self.gradual else self.tiny


# XLA flushes float32 and bfloat16 subnormals on CPU and TPU; those of float16 begin where attention weights live.
ROUNDINGS = {
    "float64": Rounding(2.0**-53, 2.0**-1022),
    "float32": Rounding(2.0**-24, 2.0**-126),
    "tensorfloat32": Rounding(2.0**-11, 2.0**-126),
    "bfloat16": Rounding(2.0**-8, 2.0**-126),
    "float16": Rounding(2.0**-11, 2.0**-14, gradual=True),
}


def rounding(dtype_name: str) -> Rounding:
    """Return the rounding of the dtype of this name.

    Raises:
        DTypeError: the name is not one of `ROUNDINGS`.
    """
    one_of(*ROUNDINGS, wanted=f"one of {', '.join(ROUNDINGS)}").raising(DTypeError).check("dtype", dtype_name)
    return ROUNDINGS[dtype_name]


FLOAT = Option(
    "a float array of NumPy or JAX",
    lambda value: (
        isinstance(value, (jax.Array, np.ndarray, np.generic, float))
        and not isinstance(value, np.ma.MaskedArray)
        and is_float(np.asarray(value) if isinstance(value, float) else value)
    ),
    DTypeError,
)
_stored = Primitive("stored")
_stored.def_impl(lambda x, **_: x)
_stored.def_abstract_eval(lambda x, **_: x)
batching.defvectorized(_stored)
mlir.register_lowering(_stored, lambda _context, x, **_: [x])


def _stored_transpose(cotangent: Any, _x: Any, *, forward: bool, backward: bool) -> list[Any]:
    if type(cotangent) is ad.Zero:
        return [cotangent]
    return [_stored.bind(cotangent, forward=backward, backward=forward)]


ad.deflinear2(_stored, _stored_transpose)


def stored(x: Array) -> Array:
    """Return float array `x`; the budget rounds it, and its cotangent, to the storage dtype."""
    FLOAT.check("x", x)
    return _stored.bind(x, forward=True, backward=True)


def stored_gradient(x: Array) -> Array:
    """Return float array `x`; the budget rounds its cotangent alone to the storage dtype."""
    FLOAT.check("x", x)
    return _stored.bind(x, forward=False, backward=True)
