"""Evaluate one JAX primitive in NumPy, complex numbers and random keys included.

A typed key is held as its data, an array of uint32 with one more axis, which is what `jax.random.key_data` returns.
"""

# JAX leaves the types of its arrays and equations unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attention.parity.numerics.array_kinds import widened
from attention.parity.numerics.jaxpr_interpreter import apply

Array = Any


def is_key(x: Any) -> bool:
    """Return whether an array, or an abstract one, holds typed random keys."""
    return jnp.issubdtype(getattr(x, "dtype", np.float64), jax.dtypes.prng_key)


def plain(x: Any) -> Array:
    """Return any array as one of NumPy's, keys as their data."""
    return np.asarray(jax.random.key_data(x) if is_key(x) else x)


def _keyed(eqn: Any, operands: Sequence[Array]) -> list[Array]:
    """Return the results of one primitive that takes or makes keys, which JAX evaluates as it is."""
    pairs = [(x, v.aval) for x, v in zip(operands, eqn.invars, strict=True)]
    given = [jax.random.wrap_key_data(x, impl=aval.dtype._impl.name) if is_key(aval) else x for x, aval in pairs]  # noqa: SLF001 the dtype knows its generator, and has no public name for it
    results = eqn.primitive.bind(*given, **eqn.primitive.get_bind_params(eqn.params))
    return [widened(plain(x)) for x in (results if eqn.primitive.multiple_results else [results])]


def _complex(eqn: Any, operands: Sequence[Array]) -> list[Array]:
    """Return the results of one primitive of complex numbers, which JAX evaluates as it is."""
    results = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
    return [widened(np.asarray(x)) for x in (results if eqn.primitive.multiple_results else [results])]


def evaluated(eqn: Any, operands: Sequence[Array]) -> list[Array]:
    """Return the results of one primitive: floats in float64, integers as NumPy and XLA both wrap them."""
    if any(is_key(v.aval) for v in (*eqn.invars, *eqn.outvars)):
        return _keyed(eqn, operands)
    if any(x.dtype.kind == "c" for x in operands):
        return _complex(eqn, operands)
    return apply(eqn, operands)
