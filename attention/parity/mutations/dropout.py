"""Dropping: hypotheses about which weights dropout takes, and what becomes of the others.

weights * keep / (1 - rate)        other bits, keep for drop, one mask for all, not rescaled
"""

# A site's fields depend on which layer it is.
# pyright: standard, reportAttributeAccessIssue=false

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from attention.parity.mutations import operators
from attention.parity.mutations.formula_hooks import At, on, remark, resettle
from attention.parity.mutations.locations import Site
from attention.parity.mutations.mutation import Mistake, Turned
from attention.spec.axes import Array
from attention.spec.layers.multi_head import MultiHeadAttention


def dropout(site: Site) -> Turned:
    """Yield other weights dropped (21)."""
    whole, part = site.whole, site.contract
    if not site.path and whole.drops and "dropout_seed" in whole.call_kwargs:
        yield Mistake("dropout with other bits", operators.other_dropout)
        yield Mistake("dropout forgotten", lambda probe: replace(probe, dropout_seed=None))
    if not getattr(part, "dropout_rate", 0.0) or not site.calls or not isinstance(part, MultiHeadAttention):
        return
    keep = 1.0 - part.dropout_rate
    # The context is linear in the weights.
    yield Mistake("dropout does not rescale", remark(site, on("context", lambda at, x: _rescaled(at, x, keep))))
    for name, turn in _KEPT.items():
        yield Mistake(f"dropout {name}", resettle(site, _kept(turn)))


_KEPT = {
    "keeps what it must drop": np.logical_not,
    "shared by the heads": lambda keep: np.broadcast_to(keep[..., :1, :, :], keep.shape),
    "shared by the batch": lambda keep: np.broadcast_to(keep[:1], keep.shape),
}


def _kept(turn: Any) -> Any:
    return lambda *given: {} if given[-1]["keep"] is None else {"keep": turn(given[-1]["keep"])}


def _rescaled(at: At, context: Array, keep: float) -> Array:
    return context if at.setting["keep"] is None else context * keep
