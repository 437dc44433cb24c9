"""Matmul precision in JAX: a context that sets it for the products of a kernel."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import jax


def scope(precision: str | None) -> AbstractContextManager[object]:
    """Return a context in which products have this precision; None leaves JAX's own setting."""
    return nullcontext() if precision is None else jax.default_matmul_precision(precision)
