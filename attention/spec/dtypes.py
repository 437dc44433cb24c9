"""Floating dtypes by name, as NumPy dtypes, bfloat16 included."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from attention.spec.axes import COMPUTE
from attention.spec.errors import UnknownName, shown


def numpy_dtype(name: str) -> np.dtype:
    """Return the NumPy dtype called `name`, bfloat16 included; a dtype object of a framework is accepted too.

    Raises:
        UnknownName: not a floating dtype of ours.
    """
    named = _named(name)
    if named not in COMPUTE:
        raise UnknownName(f"dtype {shown(name)} must be one of {', '.join(COMPUTE)}")
    return np.dtype(ml_dtypes.bfloat16 if named == "bfloat16" else named)


def _named(dtype: Any) -> str:
    """Return the bare name of a dtype: a string, or a dtype object of torch, NumPy or JAX."""
    if type(dtype) is str:
        return dtype
    # torch.float16; np.dtype("float16"); np.float16, jnp.float16 and ml_dtypes.bfloat16 by their class.
    names = (
        str(dtype) if type(dtype).__module__ == "torch" else "",
        getattr(dtype, "name", ""),
        getattr(dtype, "__name__", ""),
    )
    return next((x for name in names if type(name) is str and (x := name.removeprefix("torch.")) in COMPUTE), "")
