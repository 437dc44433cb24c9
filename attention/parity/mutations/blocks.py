"""Layering: hypotheses about what stands around an attention, or in its place: blocks, feed-forward layers, other mixtures.

x = x + branch(norm(x))    or    x = norm(x + branch(x))        hidden = f(x W_gate) * (x W_up)
"""

# A site's fields depend on which layer it is.
# pyright: standard, reportAttributeAccessIssue=false

from __future__ import annotations

import numpy as np

from attention.parity.mutations.formula_hooks import on, remark
from attention.parity.mutations.locations import Site
from attention.parity.mutations.mutation import Dial, Mistake, Turned
from attention.parity.mutations.operators import compose
from attention.spec.layers.activations import GATED, NAMES
from attention.spec.layers.differential import LAMBDAS, DifferentialAttention
from attention.spec.layers.feed_forward import FeedForward
from attention.spec.layers.linear import FEATURES, LinearAttention
from attention.spec.layers.stack import Stack
from attention.spec.layers.transformer import ORDERS, Block


def blocks(site: Site) -> Turned:
    """Yield blocks of the other order, and norms in each other's place."""
    part = site.contract
    if not isinstance(part, Block):
        return
    for other in ORDERS:
        if other != part.order:
            yield Mistake(f"{other}-norm for {part.order}-norm", site.option(order=other))
    names = list(part.norms)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            both = [site.swap(f"{first}.{k}", f"{second}.{k}") for k in ("scale", "bias") if f"{first}.{k}" in part.params]
            yield Mistake(f"{first} and {second} exchanged", compose(*both))
            if len(both) > 1:
                yield Mistake(f"{first}.scale and {second}.scale exchanged", both[0])


def fed(site: Site) -> Turned:
    """Yield feed-forward layers with another activation (15), or gate and up exchanged."""
    part = site.contract
    if not isinstance(part, FeedForward):
        return
    for other in NAMES:
        if other != part.activation and (other in GATED) == part.gated:
            yield Mistake(f"{other} for {part.activation}", site.option(activation=other))
    if part.gated:
        kernels = site.swap("gate.kernel", "up.kernel")
        yield Mistake("gate and up exchanged", compose(kernels, site.swap("gate.bias", "up.bias")) if part.bias else kernels)


def layered(site: Site) -> Turned:
    """Yield stacks with their layers in another order."""
    part = site.contract
    if isinstance(part, Stack) and part.depth > 1 and not site.path:
        names = [name.removeprefix("layers.0.") for name in part.params if name.startswith("layers.0.")]
        last = part.depth - 1
        pairs = [(i, last - i) for i in range(part.depth // 2)]
        swaps = [site.swap(f"layers.{i}.{name}", f"layers.{j}.{name}") for i, j in pairs for name in names]
        yield Mistake("layers in the opposite order", compose(*swaps))


def differential(site: Site) -> Turned:
    """Yield other strengths of the second attention."""
    part = site.contract
    if not isinstance(part, DifferentialAttention):
        return
    for depth in (part.depth - 1, part.depth + 1, 0, 1):
        if depth >= 0 and depth != part.depth:
            yield Mistake(f"lambda of depth {depth}, not of {part.depth}", site.option(depth=depth))
    for name in LAMBDAS:
        yield Mistake(f"{name} of the wrong sign", site.weight(name, np.negative))
        yield Mistake(f"{name} forgotten", site.weight(name, np.zeros_like))
    swaps = [site.swap(f"lambda_{x}1", f"lambda_{x}2") for x in "qk"]
    yield Mistake("lambda's two terms exchanged", compose(*swaps))
    undone = on("normed", lambda _, x: x / (1.0 - part.initial))
    yield Mistake("1 - lambda_init forgotten", remark(site, undone))


def linear(site: Site) -> Turned:
    """Yield other feature maps and denominators of linear attention."""
    part = site.contract
    if not isinstance(part, LinearAttention):
        return
    for other in FEATURES:
        if other != part.feature_map:
            yield Mistake(f"feature map {other} for {part.feature_map}", site.option(feature_map=other))
    for eps in {0.0, 1e-6, 1e-3, 1e-12} - {part.eps}:
        yield Mistake(f"eps of the denominator {eps:g} for {part.eps:g}", site.option(eps=eps))
    if part.eps:
        yield Dial("eps of the denominator", part.eps, lambda x: site.option(eps=x))
