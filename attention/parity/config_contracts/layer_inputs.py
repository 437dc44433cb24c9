"""Inputs of an attention layer within its model: hidden states received, or drawn in their shape, other arguments unchanged.

    what it received        its own weights        plain, small and large numbers
    drawn weights           no bias is 0 and no scale is 1, so that every parameter shows

The other inputs of a layer (rotary tables, positions, masks) have the length of the user's inputs.
"""

# Calls come from users, with types that strict mode cannot know.
# pyright: standard

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from attention.parity.adapters.program import Call
from attention.parity.contracts.probes import Drawer, Probe
from attention.spec.layers.multi_head import MultiHeadAttention
from attention.spec.masks import DenseMask
from attention.spec.masks.algebra import evaluate
from attention.spec.params import Weights

LARGE, SMALL = 6.0, 0.01
"""Standard deviations of hidden states that saturate scores; of those whose squares an eps changes."""
HIDDEN = -1e4
"""The largest value of an additive mask at a hidden key."""


def hidden(call: Call, width: int) -> str | None:
    """Return the path of the hidden states that an attention of this width received; None if there are none."""
    floats = {path: x for path, x in call.leaves.items() if x.dtype.kind not in "iub" and x.ndim == 3}
    return next((path for path, x in floats.items() if x.shape[-1] == width and x.size), None)


def calls(
    contract: MultiHeadAttention, weights: Weights, x: np.ndarray, given: Mapping[str, Any]
) -> tuple[list[Probe], list[Probe]]:
    """Return the probes, and held-out ones on which a name must hold.

    Args:
        contract: of the layer.
        weights: of the models.
        x: the hidden states that it received, `(B, T, M)`.
        given: the mask and the positions of the call, see `beside`.
    """
    received = _probe("what it received", contract, weights, x, given)
    return [received, *_drawn(contract, weights, x.shape, given, 0)], _drawn(contract, weights, x.shape, given, 1)


def _drawn(
    contract: MultiHeadAttention, weights: Weights, shape: tuple[int, ...], given: Mapping[str, Any], seed: int
) -> list[Probe]:
    rng = np.random.default_rng((seed, *shape))
    others = Drawer(contract, "float32", seed).weights()

    def drawn(name: str, own: Weights, scale: float) -> Probe:
        return _probe(name, contract, own, rng.normal(0, scale, shape), given)

    return [
        drawn("plain", weights, 1.0),
        drawn("other weights", others, 1.0),
        drawn("saturated scores", others, LARGE),
        drawn("small inputs", others, SMALL),
    ]


def _probe(name: str, contract: MultiHeadAttention, weights: Weights, x: np.ndarray, given: Mapping[str, Any]) -> Probe:
    own = {each: np.asarray(value, np.float32) for each, value in weights.items()}
    return Probe(name, contract.pinned(), "float32", own, {"query": x.astype(np.float32)}, {}, **given)


def beside(contract: MultiHeadAttention, call: Call, x: np.ndarray) -> dict[str, Any]:
    """Return the mask and the positions that an attention received, if they add to the contract.

    Args:
        contract: of the layer.
        call: what a module of transformers received.
        x: its hidden states.
    """
    found: dict[str, Any] = {}
    allowed = next(
        (_allowed(leaf) for leaf in call.leaves.values() if leaf.ndim == 4 and leaf.shape[-2:] == (x.shape[1],) * 2), None
    )
    if allowed is not None:
        sizes = contract.sizes_of({"query": x})
        own = evaluate(contract.mask, sizes)
        if np.any(~allowed & (True if own is None else own)):
            found["mask"] = DenseMask(np.broadcast_to(allowed, (x.shape[0], *allowed.shape[1:])).copy())
    places = call.leaves.get("position_ids")
    if contract.positions is None or places is None or places.shape[-1] != x.shape[1]:
        return found
    if np.any(places != np.arange(x.shape[1])):
        found |= dict.fromkeys(("query_positions", "key_positions"), np.broadcast_to(places, x.shape[:2]).copy())
    return found


def _allowed(mask: np.ndarray) -> np.ndarray:
    return mask if mask.dtype == bool else mask.astype(np.float64) > HIDDEN
