"""Mutations of blocks, feed-forward layers, stacks, differential and linear attention.

x = x + branch(norm(x))    or    x = norm(x + branch(x))        hidden = f(x W_gate) * (x W_up)
"""

# The fields of a location's contract depend on the layer.
# pyright: standard, reportAttributeAccessIssue=false

from __future__ import annotations

import numpy as np

from attention.parity.mutations.formula_hooks import hook_intermediate, on
from attention.parity.mutations.locations import Location
from attention.parity.mutations.mutation import FittedScalar, Mutation, Mutations
from attention.parity.mutations.operators import compose
from attention.spec.layers.activations import GATED, NAMES
from attention.spec.layers.block import ORDERS, Block
from attention.spec.layers.differential import LAMBDAS, DifferentialAttention
from attention.spec.layers.feed_forward import FeedForward
from attention.spec.layers.linear import FEATURES, LinearAttention
from attention.spec.layers.stack import Stack


def blocks(location: Location) -> Mutations:
    """Yield blocks of the other order, and norms in each other's place."""
    part = location.contract
    if not isinstance(part, Block):
        return
    for other in ORDERS:
        if other != part.order:
            yield Mutation(f"{other}-norm for {part.order}-norm", location.option(order=other))
    names = list(part.norms)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            both = [location.swap(f"{first}.{k}", f"{second}.{k}") for k in ("scale", "bias") if f"{first}.{k}" in part.params]
            yield Mutation(f"{first} and {second} exchanged", compose(*both))
            if len(both) > 1:
                yield Mutation(f"{first}.scale and {second}.scale exchanged", both[0])


def fed(location: Location) -> Mutations:
    """Yield feed-forward layers with another activation (15), or gate and up exchanged."""
    part = location.contract
    if not isinstance(part, FeedForward):
        return
    for other in NAMES:
        if other != part.activation and (other in GATED) == part.gated:
            yield Mutation(f"{other} for {part.activation}", location.option(activation=other))
    if part.gated:
        kernels = location.swap("gate.kernel", "up.kernel")
        yield Mutation(
            "gate and up exchanged", compose(kernels, location.swap("gate.bias", "up.bias")) if part.bias else kernels
        )


def layered(location: Location) -> Mutations:
    """Yield stacks with their layers in another order."""
    part = location.contract
    if isinstance(part, Stack) and part.depth > 1 and not location.path:
        names = [name.removeprefix("layers.0.") for name in part.params if name.startswith("layers.0.")]
        last = part.depth - 1
        pairs = [(i, last - i) for i in range(part.depth // 2)]
        swaps = [location.swap(f"layers.{i}.{name}", f"layers.{j}.{name}") for i, j in pairs for name in names]
        yield Mutation("layers in the opposite order", compose(*swaps))


def differential(location: Location) -> Mutations:
    """Yield other strengths of the second attention."""
    part = location.contract
    if not isinstance(part, DifferentialAttention):
        return
    for depth in (part.depth - 1, part.depth + 1, 0, 1):
        if depth >= 0 and depth != part.depth:
            yield Mutation(f"lambda of depth {depth}, not of {part.depth}", location.option(depth=depth))
    for name in LAMBDAS:
        yield Mutation(f"{name} of the wrong sign", location.weight(name, np.negative))
        yield Mutation(f"{name} forgotten", location.weight(name, np.zeros_like))
    swaps = [location.swap(f"lambda_{x}1", f"lambda_{x}2") for x in "qk"]
    yield Mutation("lambda's two terms exchanged", compose(*swaps))
    undone = on("normed", lambda _, x: x / (1.0 - part.initial))
    yield Mutation("1 - lambda_init forgotten", hook_intermediate(location, undone))


def linear(location: Location) -> Mutations:
    """Yield other feature maps and denominators of linear attention."""
    part = location.contract
    if not isinstance(part, LinearAttention):
        return
    for other in FEATURES:
        if other != part.feature_map:
            yield Mutation(f"feature map {other} for {part.feature_map}", location.option(feature_map=other))
    for eps in {0.0, 1e-6, 1e-3, 1e-12} - {part.eps}:
        yield Mutation(f"eps of the denominator {eps:g} for {part.eps:g}", location.option(eps=eps))
    if part.eps:
        yield FittedScalar("eps of the denominator", part.eps, lambda x: location.option(eps=x))
