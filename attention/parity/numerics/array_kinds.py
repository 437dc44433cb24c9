"""Kinds of arrays: floats, complex numbers and random keys, and their float64 forms."""

# JAX leaves the types of its arrays unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

Array = Any


def is_float(x: Any) -> bool:
    """Return whether an array, or an abstract one, holds floats."""
    # NumPy's own floats first: this runs for every operand. A random key has a dtype without a kind.
    return getattr(x.dtype, "kind", "") == "f" or jnp.issubdtype(x.dtype, jnp.floating)


def is_complex(x: Any) -> bool:
    """Return whether an array, or an abstract one, holds complex numbers."""
    return getattr(x.dtype, "kind", "") == "c"


def is_key(x: Any) -> bool:
    """Return whether an array, or an abstract one, holds typed random keys, which NumPy cannot hold."""
    return not hasattr(x.dtype, "kind")


def concrete(x: Any) -> Array:
    """Return an array in NumPy, and random keys unchanged."""
    return x if hasattr(x, "dtype") and is_key(x) else np.asarray(x)


def widened(x: Array) -> Array:
    """Return floats as float64, complex numbers as complex128, and anything else unchanged."""
    if is_complex(x):
        return x.astype(np.complex128)
    return x.astype(np.float64) if is_float(x) and x.dtype != np.float64 else x


def wide(dtype: Any) -> Any:
    """Return float64 for a dtype of floats, complex128 for one of complex numbers, and any other unchanged."""
    if jnp.issubdtype(dtype, jnp.floating):
        return np.dtype(np.float64)
    return np.dtype(np.complex128) if jnp.issubdtype(dtype, jnp.complexfloating) else dtype
