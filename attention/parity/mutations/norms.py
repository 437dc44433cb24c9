"""Mutations of norms: eps, kind, scale, order.

y = (x - mean x) / sqrt(var x + eps) * scale + bias        another eps, kind, scale, place
"""

# The fields of a location's contract depend on the layer.
# pyright: standard, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from attention.parity.mutations.formula_hooks import HookContext, IntermediateHook, hook_intermediate, on
from attention.parity.mutations.locations import Location
from attention.parity.mutations.mutation import FittedScalar, Mutation, Mutations
from attention.spec.axes import Array
from attention.spec.layers.latent import LatentAttention
from attention.spec.norms import L2Norm, LayerNorm, RMSNorm
from attention.spec.params import inner

FIELDS = ("qk_norm", "norm", "final_norm")
EPSILONS = (1e-3, 1e-5, 1e-6, 1e-8, 1e-12, 2.0**-23, 0.0)
"""keras, torch, flax, and others; 2^-23 is torch.nn.RMSNorm's None in float32."""

TOGETHER = {(-2, -1): "all heads at once", (-2,): "the heads of each feature", (-3,): "the tokens of each feature"}
"""Axes of heads `(..., T, H, D)` that a mean square is taken over wrongly."""


def _held(location: Location) -> Iterator[tuple[str, Any]]:
    """Yield the norms among the fields of a part, with the name of the field."""
    for field in FIELDS:
        norm = getattr(location.contract, field, None)
        if isinstance(norm, (RMSNorm, LayerNorm, L2Norm)):
            yield field, norm


def epsilon(location: Location) -> Mutations:
    """Yield other epsilons."""
    for field, norm in _held(location):
        label = field.replace("_", " ")
        for eps in EPSILONS:
            if eps != norm.eps:
                yield Mutation(f"{label} eps {eps:.2g} for {norm.eps:g}", location.inner(field, eps=eps))
        if norm.eps:
            yield FittedScalar(f"{label} eps", norm.eps, lambda x, f=field: location.inner(f, eps=x))


def scaled(location: Location) -> Mutations:
    """Yield a scale stored otherwise (18), forgotten, or a norm's bias forgotten."""
    for field, norm in _held(location):
        if isinstance(norm, RMSNorm):
            label = "w for 1 + w" if norm.offset else "1 + w for w"
            yield Mutation(f"{field.replace('_', ' ')} scaled by {label}", location.inner(field, offset=not norm.offset))
    for name in location.contract.norms:
        for kind, value in (("scale", 1.0), ("bias", 0.0)):
            if f"{name}.{kind}" in location.contract.params:
                yield Mutation(
                    f"{name}.{kind} forgotten", location.weight(f"{name}.{kind}", lambda w, v=value: np.full_like(w, v))
                )


def kind(location: Location) -> Mutations:
    """Yield a norm of another kind, or none."""
    for field, norm in _held(location):
        others: dict[str, Any] = {
            "RMSNorm": RMSNorm(norm.eps),
            "LayerNorm without bias": LayerNorm(norm.eps, bias=False),
            "L2Norm": L2Norm(),
        }
        label = field.replace("_", " ")
        for name, other in others.items():
            # A norm without parameters cannot become one that has a scale.
            if type(other) is not type(norm) and not (isinstance(norm, L2Norm) and not isinstance(other, L2Norm)):
                yield Mutation(f"{label} {name} for {type(norm).__name__}", location.option(**{field: other}))
        if field != "norm":
            yield Mutation(f"{label} forgotten", location.option(**{field: None}))
    if isinstance(getattr(location.contract, "qk_norm", None), RMSNorm):
        for axes, label in TOGETHER.items():
            yield Mutation(f"qk-norm over {label}", hook_intermediate(location, _over(location.contract.qk_norm, axes)))
    if isinstance(location.contract, LatentAttention):
        several = [hook_intermediate(location, _skipped(name, location.contract.kv_rank)) for name in location.contract.norms]
        for name, operator in zip(location.contract.norms, several, strict=True):
            yield Mutation(f"{name} forgotten", operator)


def _over(norm: RMSNorm, axes: tuple[int, ...]) -> IntermediateHook:
    """Return a hook that takes the mean square of heads `(..., T, H, D)` over these axes."""

    def hook(at: HookContext, intermediate: str, value: Array) -> Array:
        if intermediate not in ("q_norm", "k_norm"):
            return value
        x, scale = at.seen[f"{intermediate[0]}_proj"][-1], inner(intermediate, at.weights)["scale"]
        size = at.xp.sqrt(at.xp.mean(x * x, axis=axes, keepdims=True) + norm.eps)
        return x / size * (1.0 + scale if norm.offset else scale)

    return hook


def _skipped(name: str, rank: int) -> IntermediateHook:
    """Return a hook that omits the norm of a latent."""
    if name == "q_norm":
        return on("q_norm", lambda at, _: at.seen["q_down"][-1])
    return on("kv_norm", lambda at, _: at.seen["kv_down"][-1][..., None, :rank])


def order(location: Location) -> Mutations:
    """Yield a qk-norm after the rotation (23), or of one of the two only."""
    part = location.contract
    if getattr(part, "qk_norm", None) is None:
        return
    yield Mutation("qk-norm of queries only", hook_intermediate(location, _kept("k")))
    yield Mutation("qk-norm of keys only", hook_intermediate(location, _kept("q")))
    if hasattr(part.positions, "rotate"):
        yield Mutation("qk-norm after the rotation", hook_intermediate(location, _late(part.qk_norm)))


def _kept(letter: str) -> IntermediateHook:
    """Return a hook that omits the norm of one projection, "q" or "k"."""
    return on(f"{letter}_norm", lambda at, _: at.seen[f"{letter}_proj"][-1])


def _late(norm: Any) -> IntermediateHook:
    """Return a hook that norms heads after the rotation instead of before it."""

    def hook(at: HookContext, intermediate: str, value: Array) -> Array:
        if intermediate in ("q_norm", "k_norm"):
            return at.seen[f"{intermediate[0]}_proj"][-1]
        if intermediate != "rotated":
            return value
        # Queries are rotated first.
        name = "q_norm" if len(at.seen["rotated"]) == 1 else "k_norm"
        return norm.normalise(at.xp, inner(name, at.weights), value)

    return hook
