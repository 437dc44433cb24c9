"""Mutations of dropout: which attention weights are dropped, and how the others are scaled.

weights * keep / (1 - rate)        other bits, keep for drop, one mask for all, not rescaled
"""

# The fields of a location's contract depend on the layer.
# pyright: standard, reportAttributeAccessIssue=false

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from attention.parity.mutations import operators
from attention.parity.mutations.formula_hooks import HookContext, hook_call, hook_intermediate, on
from attention.parity.mutations.locations import Location
from attention.parity.mutations.mutation import Mutation, Mutations
from attention.spec.axes import Array
from attention.spec.layers.multi_head import MultiHeadAttention


def dropout(location: Location) -> Mutations:
    """Yield other weights dropped."""
    whole, part = location.whole, location.contract
    if not location.path and whole.drops and "dropout_seed" in whole.call_kwargs:
        yield Mutation("dropout with other bits", operators.other_dropout)
        yield Mutation("dropout forgotten", lambda probe: replace(probe, dropout_seed=None))
    if not getattr(part, "dropout_rate", 0.0) or not location.calls or not isinstance(part, MultiHeadAttention):
        return
    keep = 1.0 - part.dropout_rate
    # The context is linear in the weights.
    yield Mutation("dropout does not rescale", hook_intermediate(location, on("context", lambda at, x: _rescaled(at, x, keep))))
    for name, change in _KEPT.items():
        yield Mutation(f"dropout {name}", hook_call(location, _kept(change)))


_KEPT = {
    "keeps what it must drop": np.logical_not,
    "shared by the heads": lambda keep: np.broadcast_to(keep[..., :1, :, :], keep.shape),
    "shared by the batch": lambda keep: np.broadcast_to(keep[:1], keep.shape),
}


def _kept(change: Any) -> Any:
    return lambda *given: {} if given[-1]["keep"] is None else {"keep": change(given[-1]["keep"])}


def _rescaled(at: HookContext, context: Array, keep: float) -> Array:
    return context if at.setting["keep"] is None else context * keep
