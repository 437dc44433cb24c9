"""Mutants: planted mistakes that real people made, each a knob of a call turned wrongly.

A mutant takes the right probe and returns the wrong one, which an honest side then runs: the program is correct, the call is
not. A parity test that lets one live cannot see that mistake. The numbers are those of the list of porting mistakes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from attention.parity.probes import Probe
from attention.spec.algebra import And, Mask, Not, Or, both, evaluate
from attention.spec.masks import Causal, Window
from attention.spec.positions import Rotary
from attention.spec.scores import ScaledDot

OFF_BY = 3e-5
"""A scale wrong by 0.003 %: what a tolerance of 1e-3 lets pass."""


@dataclass(frozen=True)
class Mutant:
    """A planted mistake.

    Args:
        name: what is wrong.
        case: the contract in `spec.cases` that must notice.
        plant: makes the wrong call out of the right one.
    """

    name: str
    case: str
    plant: Callable[[Probe], Probe]


def scale_off(probe: Probe) -> Probe:
    """Multiply the scale by 1.00003 (5)."""
    factor = probe.contract.score.factor(probe.contract.width)
    return _with(probe, score=ScaledDot(factor * (1 + OFF_BY)))


def window_off_by_one(probe: Probe) -> Probe:
    """Count the query's own key among those before it (8)."""
    return _with(probe, mask=_swap(probe.contract.mask, lambda m: replace(m, before=m.before - 1), Window))


def causal_corner_swapped(probe: Probe) -> Probe:
    """Align the diagonal at the other corner (7)."""
    other = {"start": "end", "end": "start"}
    return _with(probe, mask=_swap(probe.contract.mask, lambda m: replace(m, align=other[m.align]), Causal))


def heads_tiled(probe: Probe) -> Probe:
    """Let query head h read key head h mod K instead of h // (H / K) (14)."""
    h, k = probe.contract.num_heads, probe.contract.kv_heads
    order = np.arange(h).reshape(h // k, k).T.reshape(-1)
    # Tiling is grouping with the query heads in another order.
    weights = dict(probe.weights)
    for name in ("q_proj.kernel", "q_proj.bias", "out_proj.kernel"):
        if name in weights:
            weights[name] = np.take(weights[name], order, axis=1 if name == "q_proj.kernel" else 0)
    return replace(probe, weights=weights)


def rotary_style_swapped(probe: Probe) -> Probe:
    """Pair neighbouring features instead of halves, or the other way round (9)."""
    rotary = probe.contract.positions
    if rotary is None:
        return probe
    other = {"half": "interleaved", "interleaved": "half"}[rotary.style]
    return _with(probe, positions=Rotary(rotary.base, other, rotary.rotary_dim))


def polarity_inverted(probe: Probe) -> Probe:
    """Read True as "may not attend" (6)."""
    mask = both(probe.contract.mask, probe.mask)
    return replace(_with(probe, mask=None), mask=None if mask is None else Not(mask))


def soft_cap_forgotten(probe: Probe) -> Probe:
    """Leave scores unbounded (4)."""
    return _with(probe, softcap=None)


def bias_dropped(probe: Probe) -> Probe:
    """Forget the bias of the value projection (22)."""
    name = "v_proj.bias"
    return replace(probe, weights={**probe.weights, name: np.zeros_like(probe.weights[name])})


def empty_row_mean(probe: Probe) -> Probe:
    """Mask by adding a large finite number, so that a row without a key becomes mean(v) (13)."""
    mask = both(probe.contract.mask, probe.mask)
    allowed = evaluate(mask, probe.sizes)
    added = np.where(np.ones(probe.sizes.scores, bool) if allowed is None else allowed, 0.0, -1e30)
    bias = probe.arrays.get("bias", np.zeros(probe.sizes.scores))
    arrays = {**probe.arrays, "bias": (bias + added).astype(probe.arrays["query"].dtype)}
    return replace(_with(probe, mask=None), mask=None, arrays=arrays)


def queries_in_tf32(probe: Probe) -> Probe:
    """Round the queries to TensorFloat-32: ten bits behind the point (20)."""
    query = probe.arrays["query"]
    key = probe.arrays.get("key", query)
    rounded = ((query.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
    rest = {"key": key, "value": probe.arrays.get("value", key)}
    return replace(probe, arrays={**probe.arrays, **rest, "query": np.where(np.isfinite(query), rounded, query)})


MUTANTS = (
    Mutant("scale wrong by 0.003 %", "self", scale_off),
    Mutant("window off by one", "window", window_off_by_one),
    Mutant("causal corner start for end", "causal_end", causal_corner_swapped),
    Mutant("causal corner end for start", "causal_start", causal_corner_swapped),
    Mutant("heads tiled instead of grouped", "grouped", heads_tiled),
    Mutant("rotary interleaved for half", "rotary", rotary_style_swapped),
    Mutant("rotary half for interleaved", "rotary_interleaved", rotary_style_swapped),
    Mutant("polarity inverted", "causal", polarity_inverted),
    Mutant("soft cap of 50 forgotten", "softcap", soft_cap_forgotten),
    Mutant("bias of one projection dropped", "self", bias_dropped),
    Mutant("empty row = mean(v)", "causal", empty_row_mean),
    Mutant("queries rounded to TF32", "self", queries_in_tf32),
)


def _with(probe: Probe, **options: object) -> Probe:
    return replace(probe, contract=replace(probe.contract, **options))  # type: ignore[arg-type]


def _swap(mask: Any, turn: Callable[[Any], Mask], kind: type[Mask]) -> Any:
    """Return the mask with `turn` applied to its parts of one kind."""
    if isinstance(mask, kind):
        return turn(mask)
    if isinstance(mask, (And, Or)):
        return replace(mask, left=_swap(mask.left, turn, kind), right=_swap(mask.right, turn, kind))
    return mask
