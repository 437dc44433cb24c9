"""Mutations of projections and other parameters: transposed, split otherwise, exchanged, regrouped, forgotten.

fused kernel (M, 3 H D)        read as (3, H, D) or (H, 3, D), in any order of q, k, v
"""

# The fields of a location's contract depend on the layer.
# pyright: standard, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np

from attention.parity.contracts.probes import Probe
from attention.parity.mutations import input_operators, operators
from attention.parity.mutations.locations import Location
from attention.parity.mutations.mutation import Mutation, Mutations
from attention.parity.mutations.operators import Operator, compose
from attention.spec.layers.alignment_scores import Concat
from attention.spec.layers.latent import LatentAttention
from attention.spec.layers.multi_head import MultiHeadAttention
from attention.spec.params import Param

NAMES = ("q_proj", "k_proj", "v_proj")


def _own(location: Location) -> dict[str, Param]:
    return location.contract.own_params


def split(location: Location) -> Mutations:
    """Yield columns split as (D, H) for (H, D), or the reverse, and contexts merged likewise."""
    kernels = [n for n, p in _own(location).items() if n.endswith("proj.kernel") and len(p.shape) == 3]
    changes = {"(d h) for (h d)": operators.head_first, "(h d) for (d h)": operators.head_last}
    for label, change in changes.items():
        inward = [n for n in kernels if n != "out_proj.kernel" and _own(location)[n].shape[1] > 1]
        for name in inward:
            yield Mutation(f"heads of {name} split {label}", location.weight(name, change))
        if len(inward) > 1:
            yield Mutation(f"heads split {label}", compose(*(location.weight(n, change) for n in inward)))
        if "out_proj.kernel" in kernels:
            yield Mutation(f"heads merged {label}", location.weight("out_proj.kernel", _rows(change)))


def _rows(change: Any) -> Any:
    """Return a change of columns as a change of the rows of a kernel (H, E, M)."""
    return lambda w: np.moveaxis(change(np.moveaxis(w, -1, 0)), 0, -1)


def transposed(location: Location) -> Mutations:
    """Yield kernels transposed, where the shape allows it."""
    for name, param in _own(location).items():
        if not param.inputs:
            continue
        rows = int(np.prod(param.shape[: param.inputs]))
        if rows * rows == np.prod(param.shape):
            yield Mutation(f"{name} transposed", location.weight(name, lambda w, n=rows: w.reshape(n, n).T.reshape(w.shape)))


def exchanged(location: Location) -> Mutations:
    """Yield projections in each other's place: the orders and groupings of a fused kernel."""
    own = _own(location)
    for which in permutations(NAMES):
        order = dict(zip(NAMES, which, strict=True))
        moved = {new: old for new, old in order.items() if new != old}
        kernels = {f"{new}.kernel": f"{old}.kernel" for new, old in moved.items()}
        if not moved or not _fits(own, kernels):
            continue
        name = ", ".join(f"{old[0]} for {new[0]}" for new, old in moved.items())
        yield Mutation(f"kernels exchanged: {name}", _reordered(location, kernels))
        biases = {f"{new}.bias": f"{old}.bias" for new, old in moved.items()}
        if _fits(own, biases):
            yield Mutation(f"projections exchanged: {name}", _reordered(location, {**kernels, **biases}))
    shapes = {own[f"{name}.kernel"].shape for name in NAMES if f"{name}.kernel" in own}
    if isinstance(location.contract, MultiHeadAttention) and len(shapes) == 1:
        yield Mutation("fused kernel read per head, (H, 3, D) for (3, H, D)", _regrouped(location, per_head=True))
        yield Mutation("fused kernel read per projection, (3, H, D) for (H, 3, D)", _regrouped(location, per_head=False))
    if isinstance(getattr(location.contract, "score", None), Concat):
        rows = location.contract.score_widths[1]
        yield Mutation("keys before queries", location.weight("score_proj.kernel", lambda w: np.roll(w, rows, axis=0)))


def _fits(own: dict[str, Param], names: dict[str, str]) -> bool:
    return all(old in own and new in own and own[new].shape == own[old].shape for new, old in names.items())


def _reordered(location: Location, names: dict[str, str]) -> Operator:
    """Return the operator that gives every parameter `new` the values of `old`."""

    def mutate(probe: Probe) -> Probe:
        w = probe.weights
        pairs = (pair for new, old in names.items() for pair in zip(location.names(new), location.names(old), strict=True))
        return replace(probe, weights={**w, **{new: w[old] for new, old in pairs if new in w and old in w}})

    return mutate


def _regrouped(location: Location, *, per_head: bool) -> Operator:
    def mutate(probe: Probe) -> Probe:
        weights = dict(probe.weights)
        for kind in ("kernel", "bias"):
            for names in zip(*(location.names(f"{name}.{kind}") for name in NAMES), strict=True):
                if all(name in weights for name in names):
                    weights.update(zip(names, _read([weights[name] for name in names], per_head=per_head), strict=True))
        return replace(probe, weights=weights)

    return mutate


def _read(three: list[np.ndarray], *, per_head: bool) -> list[np.ndarray]:
    """Return three arrays (..., H, D) written one after another, or head by head, and read the other way."""
    *lead, h, d = three[0].shape
    if per_head:
        read = np.stack(three, axis=-3).reshape(*lead, h, 3, d)
        return [read[..., i, :] for i in range(3)]
    read = np.stack(three, axis=-2).reshape(*lead, 3, h, d)
    return [read[..., i, :, :] for i in range(3)]


def grouped(location: Location) -> Mutations:
    """Yield query heads that read other key heads."""
    part = location.contract
    if isinstance(part, MultiHeadAttention) and part.kv_heads > 1:
        if part.kv_heads < part.num_heads:
            yield Mutation("heads tiled instead of grouped", _tiled(location, 1))
            yield Mutation("heads of a group spread over the groups", _tiled(location, 0))
            yield Mutation("every head reads key head 0", _first_head(location))
        for name in ("k_proj", "v_proj"):
            yield Mutation(f"heads of {name} in the opposite order", _reversed(location, name))
    if "attention" in dir(part) and hasattr(part, "depth"):
        yield Mutation("pairs of heads are halves, not neighbours", compose(*_halves(location)))


def _tiled(location: Location, kind: int) -> Operator:
    h, k = location.contract.num_heads, location.contract.kv_heads
    shape = (h // k, k) if kind else (k, h // k)
    # Tiling is grouping with the query heads in another order.
    order = np.arange(h).reshape(shape).T.reshape(-1)
    axes = {"q_proj.kernel": 1, "q_proj.bias": 0, "gate_proj.kernel": 1, "out_proj.kernel": 0}
    if kind == 0:
        axes = {"q_proj.kernel": 1, "q_proj.bias": 0}
    owned = {name: axis for name, axis in axes.items() if name in _own(location)}
    return compose(*(location.weight(name, lambda w, a=axis: np.take(w, order, axis=a)) for name, axis in owned.items()))


def _first_head(location: Location) -> Operator:
    names = [n for n in ("k_proj.kernel", "k_proj.bias", "v_proj.kernel", "v_proj.bias") if n in _own(location)]
    return compose(*(location.weight(n, lambda w: np.broadcast_to(w[..., :1, :], w.shape)) for n in names))


def _reversed(location: Location, name: str) -> Operator:
    names = [n for n in (f"{name}.kernel", f"{name}.bias") if n in _own(location)]
    return compose(*(location.weight(n, lambda w: w[..., ::-1, :]) for n in names))


def _halves(location: Location) -> Iterator[Operator]:
    for name in ("q_proj.kernel", "k_proj.kernel", "q_proj.bias", "k_proj.bias"):
        if name in _own(location):
            yield location.weight(name, _interleave)


def _interleave(w: np.ndarray) -> np.ndarray:
    """Return heads such that neighbours stood half of the heads apart."""
    half = w.shape[-2] // 2
    order = np.arange(2 * half).reshape(2, half).T.reshape(-1)
    return np.take(w, order, axis=-2)


def biases(location: Location) -> Mutations:
    """Yield biases forgotten, one or all (22), or hidden features in another order."""
    own = _own(location)
    forgotten = [name for name in own if name.endswith(".bias") and not _of_norm(location, name)]
    for name in forgotten:
        yield Mutation(f"{name} dropped", location.weight(name, np.zeros_like))
    inward = [name for name in forgotten if name.startswith(NAMES)]
    for label, names in (("qkv biases", inward), ("all biases", forgotten)):
        if len(names) > 1:
            yield Mutation(f"{label} dropped", compose(*(location.weight(name, np.zeros_like) for name in names)))


def _of_norm(location: Location, name: str) -> bool:
    return name.partition(".")[0] in location.contract.norms


def hidden(location: Location) -> Mutations:
    """Yield hidden features in another order than their weights, or the parts of a fused latent."""
    if "score_v" in _own(location):
        yield Mutation("score_v one feature further", location.weight("score_v", lambda v: np.roll(v, 1)))
        yield Mutation("score_v one feature back", location.weight("score_v", lambda v: np.roll(v, -1)))
        yield Mutation("score_v in the opposite order", location.weight("score_v", lambda v: v[::-1]))
        yield Mutation("score_v of the wrong sign", location.weight("score_v", np.negative))
    part = location.contract
    if isinstance(part, LatentAttention):
        up = "q_proj.kernel" if part.q_rank is None else "q_up.kernel"
        yield Mutation(f"{up}: rotary features first", location.weight(up, lambda w: np.roll(w, part.rope_dim, axis=-1)))
        yield Mutation(
            "kv_up.kernel: values first", location.weight("kv_up.kernel", lambda w: np.roll(w, part.value_dim, axis=-1))
        )
        rolled = location.weight("kv_down.kernel", lambda w: np.roll(w, part.rope_dim, axis=-1))
        yield Mutation("kv_down.kernel: rotary key first", rolled)


def inputs(location: Location) -> Mutations:
    """Yield calls whose key or value is another input."""
    widths = location.whole.inputs
    if location.path or "value" not in widths:
        return
    yield Mutation("value is the key", input_operators.input_for("value", "key"))
    if widths["key"] == widths["value"]:
        yield Mutation("key and value exchanged", compose(input_operators.inputs_exchanged))
    if widths["query"] == widths["key"]:
        yield Mutation("key is the value", input_operators.input_for("key", "value"))


def rounded(location: Location) -> Mutations:
    """Yield inputs and weights that are rounded on the way."""
    if location.path:
        return
    first, *others = location.contract.inputs
    for name, change in input_operators.ROUNDED.items():
        label = {"query": "queries"}.get(first, first)
        yield Mutation(f"{label} rounded to {name}", input_operators.change_inputs(change, (first,)))
        if others:
            yield Mutation(f"all inputs rounded to {name}", input_operators.change_inputs(change, (first, *others)))
        yield Mutation(f"weights rounded to {name}", input_operators.change_weights(change))
