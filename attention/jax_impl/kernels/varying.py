"""Loop carries under `jax.shard_map`: make a carry vary over the mesh axes like the values added to it."""

from __future__ import annotations

from typing import Any, TypeVar

import jax
from jax import lax

Tree = TypeVar("Tree")


def alike(carry: Tree, *given: Any) -> Tree:
    """Return the carry, made to vary over every axis of the mesh over which something `given` varies; elsewhere as it is."""
    axes = frozenset[str]().union(*(_axes(x) for x in jax.tree.leaves(given)))
    if not axes:
        return carry

    def widened(x: Any) -> Any:
        missing = tuple(sorted(axes - _axes(x)))
        return lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(widened, carry)


def _axes(x: Any) -> frozenset[str]:
    # JAX has renamed this once.
    kind = jax.typeof(x)
    return getattr(getattr(kind, "manual_axis_type", None), "varying", None) or getattr(kind, "vma", frozenset())
