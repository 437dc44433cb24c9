"""Matmul precision in JAX belongs to each product, and a scope sets it for those that do not say."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import jax


def scope(precision: str | None) -> AbstractContextManager[object]:
    """Return a context in which products have this precision; None leaves JAX's own setting."""
    return nullcontext() if precision is None else jax.default_matmul_precision(precision)
