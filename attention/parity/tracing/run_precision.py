"""Precision of a traced run: the unit roundoff by dtype, and which casts of the program round its values in a float64 run.

    in float64    float32 -> float64        bfloat16 -> bfloat16

A run in float64 is the mathematics of a program: its own float32 is as wide as the rest. What it narrows further, it means.
"""

# JAX leaves its dtypes unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

_UNITS = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


def unit(dtype: str, run: str | None) -> float:
    """Return the unit roundoff that an array of this dtype has in a run; that of float64 for what is no float.

    Args:
        dtype: the name of the array's dtype.
        run: of the run; None where every array has the dtype that it says.
    """
    if dtype.startswith("float8"):
        return 2.0**-3
    return _UNITS["float64"] if run == "float64" and dtype == "float32" else _UNITS.get(dtype, _UNITS["float64"])


def rounded(x: np.ndarray, dtype: Any, run: str | None) -> np.ndarray:
    """Return float64 values as an array of this dtype keeps them in a run; other kinds as they are."""
    if x.dtype != np.float64 or unit(str(dtype), run) <= _UNITS["float64"]:
        return x
    with np.errstate(over="ignore"):
        return x.astype(np.dtype(dtype)).astype(np.float64)


def literal(x: np.ndarray, run: str | None) -> float:
    """Return how far a constant of a program may be from the number that its author wrote, relative to it.

    A number such as 0.1 that the program keeps in float32 has lost its last digits before a run in float64 sees it.
    """
    whole = x.dtype != np.float32 or run != "float64" or not np.any(x.view(np.uint32) & np.uint32(0xFFF))
    return 0.0 if whole else 2.0**-22


def own_dtype(params: Mapping[str, np.ndarray]) -> str:
    """Return the dtype that a program runs in when its user runs it: that of its parameters, float32 where it has none."""
    floats = [str(x.dtype) for x in params.values() if str(x.dtype) in _UNITS]
    return max(floats, key=floats.count, default="float32")


def own_eps(x: Any, own: str | None) -> Any:
    """Return a number of a program as its own dtype has it: a run in float64 must not exchange the machine epsilon.

    >>> own_eps(2.0**-52, "float32"), own_eps(1e-5, "float32")
    (1.1920928955078125e-07, 1e-05)
    """
    return 2 * _UNITS[own] if own in _UNITS and isinstance(x, float) and x == 2.0**-52 else x


def narrowed(x: np.ndarray, dtype: str) -> np.ndarray:
    """Return float64 values rounded to a dtype by name, "tfloat32" among them, in float64.

    >>> float(narrowed(np.array(1.0009765625), "bfloat16"))
    1.0
    """
    if dtype == "tfloat32":
        bits = x.astype(np.float32).view(np.uint32)
        return ((bits + 0x1000) & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)
    kinds = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
    with np.errstate(over="ignore"):
        return x.astype(kinds[dtype]).astype(np.float64)
