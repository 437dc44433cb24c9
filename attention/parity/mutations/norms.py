"""Norming: hypotheses about norms.

y = (x - mean x) / sqrt(var x + eps) * scale + bias        another eps, kind, scale, place
"""

# A site's fields depend on which layer it is.
# pyright: standard, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from attention.parity.mutations.formula_hooks import At, IntermediateTurn, on, remark
from attention.parity.mutations.locations import Site
from attention.parity.mutations.mutation import Dial, Mistake, Turned
from attention.spec.axes import Array
from attention.spec.layers.latent import LatentAttention
from attention.spec.norms import L2Norm, LayerNorm, RMSNorm
from attention.spec.params import inner

FIELDS = ("qk_norm", "norm", "final_norm")
EPSILONS = (1e-3, 1e-5, 1e-6, 1e-8, 1e-12, 2.0**-23, 0.0)
"""keras, torch, flax, and others; 2^-23 is torch.nn.RMSNorm's None in float32."""

TOGETHER = {(-2, -1): "all heads at once", (-2,): "the heads of each feature", (-3,): "the tokens of each feature"}
"""Axes of heads `(..., T, H, D)` that a mean square is taken over wrongly."""


def _held(site: Site) -> Iterator[tuple[str, Any]]:
    """Yield the norms that a part itself holds, and the field of each."""
    for field in FIELDS:
        norm = getattr(site.contract, field, None)
        if isinstance(norm, (RMSNorm, LayerNorm, L2Norm)):
            yield field, norm


def epsilon(site: Site) -> Turned:
    """Yield other epsilons (16)."""
    for field, norm in _held(site):
        label = field.replace("_", " ")
        for eps in EPSILONS:
            if eps != norm.eps:
                yield Mistake(f"{label} eps {eps:.2g} for {norm.eps:g}", site.inner(field, eps=eps))
        if norm.eps:
            yield Dial(f"{label} eps", norm.eps, lambda x, f=field: site.inner(f, eps=x))


def scaled(site: Site) -> Turned:
    """Yield a scale stored otherwise (18), forgotten, or a norm's bias forgotten (22)."""
    for field, norm in _held(site):
        if isinstance(norm, RMSNorm):
            label = "w for 1 + w" if norm.offset else "1 + w for w"
            yield Mistake(f"{field.replace('_', ' ')} scaled by {label}", site.inner(field, offset=not norm.offset))
    for name in site.contract.norms:
        for kind, value in (("scale", 1.0), ("bias", 0.0)):
            if f"{name}.{kind}" in site.contract.params:
                yield Mistake(f"{name}.{kind} forgotten", site.weight(f"{name}.{kind}", lambda w, v=value: np.full_like(w, v)))


def kind(site: Site) -> Turned:
    """Yield a norm of another kind, or none."""
    for field, norm in _held(site):
        others: dict[str, Any] = {
            "RMSNorm": RMSNorm(norm.eps),
            "LayerNorm without bias": LayerNorm(norm.eps, bias=False),
            "L2Norm": L2Norm(),
        }
        label = field.replace("_", " ")
        for name, other in others.items():
            # A norm that learns nothing cannot be another that has a scale to learn.
            if type(other) is not type(norm) and not (isinstance(norm, L2Norm) and not isinstance(other, L2Norm)):
                yield Mistake(f"{label} {name} for {type(norm).__name__}", site.option(**{field: other}))
        if field != "norm":
            yield Mistake(f"{label} forgotten", site.option(**{field: None}))
    if isinstance(getattr(site.contract, "qk_norm", None), RMSNorm):
        for axes, label in TOGETHER.items():
            yield Mistake(f"qk-norm over {label}", remark(site, _over(site.contract.qk_norm, axes)))
    if isinstance(site.contract, LatentAttention):
        several = [remark(site, _skipped(name, site.contract.kv_rank)) for name in site.contract.norms]
        for name, plant in zip(site.contract.norms, several, strict=True):
            yield Mistake(f"{name} forgotten", plant)


def _over(norm: RMSNorm, axes: tuple[int, ...]) -> IntermediateTurn:
    """Return a turn that takes the mean square of heads `(..., T, H, D)` over these axes."""

    def turn(at: At, intermediate: str, value: Array) -> Array:
        if intermediate not in ("q_norm", "k_norm"):
            return value
        x, scale = at.seen[f"{intermediate[0]}_proj"][-1], inner(intermediate, at.weights)["scale"]
        size = at.xp.sqrt(at.xp.mean(x * x, axis=axes, keepdims=True) + norm.eps)
        return x / size * (1.0 + scale if norm.offset else scale)

    return turn


def _skipped(name: str, rank: int) -> IntermediateTurn:
    """Return a turn that lets a latent through without its norm."""
    if name == "q_norm":
        return on("q_norm", lambda at, _: at.seen["q_down"][-1])
    return on("kv_norm", lambda at, _: at.seen["kv_down"][-1][..., None, :rank])


def order(site: Site) -> Turned:
    """Yield a qk-norm after the rotation (23), or of one of the two only."""
    part = site.contract
    if getattr(part, "qk_norm", None) is None:
        return
    yield Mistake("qk-norm of queries only", remark(site, _kept("k")))
    yield Mistake("qk-norm of keys only", remark(site, _kept("q")))
    if hasattr(part.positions, "rotate"):
        yield Mistake("qk-norm after the rotation", remark(site, _late(part.qk_norm)))


def _kept(letter: str) -> IntermediateTurn:
    """Return a turn that leaves the projection called by a letter without its norm."""
    return on(f"{letter}_norm", lambda at, _: at.seen[f"{letter}_proj"][-1])


def _late(norm: Any) -> IntermediateTurn:
    """Return a turn that lets the rotation see heads that were not normed, and norms what comes out of it."""

    def turn(at: At, intermediate: str, value: Array) -> Array:
        if intermediate in ("q_norm", "k_norm"):
            return at.seen[f"{intermediate[0]}_proj"][-1]
        if intermediate != "rotated":
            return value
        # Queries turn first.
        name = "q_norm" if len(at.seen["rotated"]) == 1 else "k_norm"
        return norm.normalise(at.xp, inner(name, at.weights), value)

    return turn
