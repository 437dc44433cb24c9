"""Evaluation of a jaxpr in NumPy float64, one primitive at a time, with nothing compiled.

    result = RULES[primitive](parameters, *operands)        or, for a primitive without a rule, JAX's own

A probe is run a few times and thrown away, so that compiling it would take a hundred times longer than running it. The rules
are in `primitives.py`.
"""

# JAX leaves the types of its arrays and equations unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from attention.parity.numerics.primitives import (
    INTEGERS,
    MOVES,
    RULES,
    SCATTERS,
    Rule,
    concrete,
    is_complex,
    is_float,
    is_key,
    wide,
    widened,
)

__all__ = ["apply", "concrete", "is_complex", "is_float", "is_key", "widened"]

Array = Any


def apply(eqn: Any, operands: Sequence[Array]) -> list[Array]:
    """Return the exact results of one primitive, in float64 even where the program asks for fewer digits."""
    rule = _rule(eqn.primitive.name, operands)
    if rule is not None:
        made = rule(eqn.params, *operands)
        return [np.asarray(x) for x in (made if eqn.primitive.multiple_results else [made])]
    if eqn.primitive.name in SCATTERS and len(operands) == 3:
        return [widened(np.asarray(SCATTERS[eqn.primitive.name](eqn.params, *operands)))]
    params = eqn.primitive.get_bind_params(eqn.params)
    if eqn.primitive.name != "bitcast_convert_type":
        params = params | {name: wide(kind) for name, kind in params.items() if isinstance(kind, np.dtype)}
    results = eqn.primitive.bind(*operands, **params)
    return [widened(concrete(o)) for o in (results if eqn.primitive.multiple_results else [results])]


def _rule(name: str, operands: Sequence[Array]) -> Rule | None:
    """Return the rule of a primitive on these operands, or None where JAX's own has to be bound."""
    if any(map(is_key, operands)):
        return None
    if name in MOVES or all(is_float(x) or x.dtype == bool for x in operands):
        return RULES.get(name)
    return INTEGERS.get(name) if all(x.dtype.kind in "iub" for x in operands) else None
