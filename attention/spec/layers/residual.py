"""Residual branches and stacked blocks at runtime: used by the built layers of both backends, not by contracts.

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
    block: Any,
    xp: Any,
    arrays: Mapping[str, Array],
    there: Array,
    call: Mapping[str, Any],
    seed: Any,
    seed_at: SeedAt,
    *,
    implementation: str,
) -> Array:
    """Return the tokens after all branches of a block, with zeros for absent tokens.

    Args:
        block: the built block: its contract, its parts, its norms `norm1` and so on, and `drop`.
        xp: the array namespace.
        arrays: `x` `(*batch, T, M)`, and `memory` for a decoder block.
        there: bool `(*batch, T, 1)`, the tokens that exist, or None for all.
        call: masks and positions, by the keywords of the contract.
        seed: of dropout in this call, or None.
        seed_at: of the backend.
        implementation: the kernel of the attentions.
    """
    contract, x = block.contract, only(xp, arrays["x"], there)
    for i, (name, given) in enumerate(contract.calls(call).items(), 1):
        norm, part = getattr(block, f"norm{i}"), getattr(block, name)
        kernel = {} if name == "ffn" else {"implementation": implementation}
        memory = (arrays["memory"],) if name == "cross_attn" else ()
        tokens = norm(x) if contract.order == "pre" else x
        y = part(tokens, *memory, **given, **kernel, dropout_seed=seed_at(seed, name))
        x = x + block.drop(y, contract.dropout_rate, seed_at(seed, f"dropout{i}"))
        x = norm(x) if contract.order == "post" else x
    return only(xp, x, there)


def run_blocks(blocks: Iterable[Any], x: Array, seed: Any, call: Callable[[Any, Array, Any], Array], seed_at: SeedAt) -> Array:
    """Return the tokens after `call(block, x, seed)` of every block in turn."""
    for i, block in enumerate(blocks):
        x = call(block, x, seed_at(seed, f"layers.{i}"))
    return x
