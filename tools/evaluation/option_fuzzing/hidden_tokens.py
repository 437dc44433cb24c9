"""Tokens that no query reads, which a draw fills with NaN, infinities and huge numbers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from attention.spec.layers.block import Block
from attention.spec.layers.contract import Contract, ResolvedCall
from attention.spec.layers.stack import Stack

POISON = (np.nan, np.inf, -np.inf)
HUGE = 1e200


def poison(contract: Contract, arrays: Mapping[str, np.ndarray], resolved: ResolvedCall, rng: np.random.Generator) -> None:
    """Overwrite the tokens that no row of the mask reads, as query or as key.

    Args:
        contract: the layer.
        arrays: of the call.
        resolved: what `contract.resolve` returned for the call.
        rng: draws the values.
    """
    # Beside appended keys every finite query counts.
    held = POISON if getattr(contract, "extra_keys", 0) else (*POISON, HUGE)
    for name, hidden in unread(contract, arrays, resolved).items():
        x = arrays[name]
        rows = x[:, None] if x.ndim == 1 else x
        where = np.broadcast_to(hidden, rows.shape)
        rows[where] = rng.choice(held, size=rows.shape)[where]


def unread(contract: Contract, arrays: Mapping[str, np.ndarray], resolved: ResolvedCall) -> dict[str, np.ndarray]:
    """Return which tokens of each input nothing reads: bool `(*batch, N, 1)`."""
    if isinstance(contract, Stack):
        contract, resolved = contract.block, resolved["layers.0"]
    if isinstance(contract, Block):
        hidden = {"x": ~np.asarray(resolved["present"])}
        return hidden if "memory" not in arrays else {**hidden, "memory": ~_seen(resolved["cross_attn"])[1]}
    if "allowed" not in resolved:
        return {}
    rows, keys = _seen(resolved)
    names = list(arrays)
    if len(names) == 1:
        return {names[0]: ~(rows | keys)}
    first = arrays[names[0]]
    # A single state has no axis of queries.
    rows = rows[..., 0, :] if first.ndim < arrays[names[1]].ndim else rows
    return {names[0]: ~rows, **dict.fromkeys(names[1:], ~keys)}


def _seen(resolved: ResolvedCall) -> tuple[np.ndarray, np.ndarray]:
    allowed = resolved["allowed"]
    return tuple(np.any(allowed, axis=(-3, axis))[..., None] for axis in (-1, -2))  # type: ignore[return-value]
