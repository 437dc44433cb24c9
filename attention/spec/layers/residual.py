"""Residual branches and stacked blocks of a built layer, the same for both backends.

pre    x <- x + drop(branch(norm(x)))
post   x <- norm(x + drop(branch(x)))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from attention.spec.axes import Array
from attention.spec.layers.tokens import only

SeedAt = Callable[[Any, str], Any]
"""A backend's `seed_at`: the dropout seed of a place inside a layer."""


def run_branches(
    layer: Any, xp: Any, x: Array, there: Array, seed: Any, branches: Mapping[str, Callable[[Array], Array]], seed_at: SeedAt
) -> Array:
    """Return the tokens after all branches of a block, with zeros for absent tokens.

    Args:
        layer: the built block: its contract, its norms `norm1` and so on, and `drop`.
        xp: the array namespace.
        x: `(*batch, T, M)`.
        there: bool `(*batch, T, 1)`, the tokens that exist, or None for all.
        seed: of dropout in this call, or None.
        branches: functions of the tokens, in order.
        seed_at: of the backend.
    """
    contract, x = layer.contract, only(xp, x, there)
    for i, branch in enumerate(branches.values(), 1):
        norm = getattr(layer, f"norm{i}")
        y = branch(norm(x)) if contract.order == "pre" else branch(x)
        x = x + layer.drop(y, contract.dropout_rate, seed_at(seed, f"dropout{i}"))
        x = norm(x) if contract.order == "post" else x
    return only(xp, x, there)


def run_blocks(blocks: Iterable[Any], x: Array, seed: Any, call: Callable[[Any, Array, Any], Array], seed_at: SeedAt) -> Array:
    """Return the tokens after `call(block, x, seed)` of every block in turn."""
    for i, block in enumerate(blocks):
        x = call(block, x, seed_at(seed, f"layers.{i}"))
    return x
