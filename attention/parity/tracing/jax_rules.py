"""Evaluation in NumPy, complex numbers included: as `evaluate.apply` has it, or for those as JAX does."""

# JAX leaves the types of its arrays and equations unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from attention.parity.numerics.jaxpr_interpreter import apply, widened

Array = Any


def _complex(eqn: Any, operands: Sequence[Array]) -> list[Array]:
    """Return the results of one primitive of complex numbers, which JAX evaluates as it is."""
    results = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
    return [widened(np.asarray(x)) for x in (results if eqn.primitive.multiple_results else [results])]


def evaluated(eqn: Any, operands: Sequence[Array]) -> list[Array]:
    """Return the results of one primitive: floats in float64, integers as NumPy and XLA both wrap them."""
    if any(x.dtype.kind == "c" for x in operands):
        return _complex(eqn, operands)
    return apply(eqn, operands)
