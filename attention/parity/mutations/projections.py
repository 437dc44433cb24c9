"""Projecting: hypotheses about learned arrays: transposed, split otherwise, exchanged, regrouped, forgotten.

fused kernel (M, 3 H D)        read as (3, H, D) or (H, 3, D), in any order of q, k, v
"""

# A site's fields depend on which layer it is.
# pyright: standard, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np

from attention.parity.contracts.probes import Probe
from attention.parity.mutations import input_operators, operators
from attention.parity.mutations.locations import Site
from attention.parity.mutations.mutation import Mistake, Turned
from attention.parity.mutations.operators import Plant, compose
from attention.spec.layers.alignment_scores import Concat
from attention.spec.layers.latent import LatentAttention
from attention.spec.layers.multi_head import MultiHeadAttention
from attention.spec.params import Param

NAMES = ("q_proj", "k_proj", "v_proj")


def _own(site: Site) -> dict[str, Param]:
    return site.contract.own_params


def split(site: Site) -> Turned:
    """Yield columns split as (D, H) for (H, D), or the reverse, and contexts merged likewise (2)."""
    kernels = [n for n, p in _own(site).items() if n.endswith("proj.kernel") and len(p.shape) == 3]
    turns = {"(d h) for (h d)": operators.head_first, "(h d) for (d h)": operators.head_last}
    for label, turn in turns.items():
        inward = [n for n in kernels if n != "out_proj.kernel" and _own(site)[n].shape[1] > 1]
        for name in inward:
            yield Mistake(f"heads of {name} split {label}", site.weight(name, turn))
        if len(inward) > 1:
            yield Mistake(f"heads split {label}", compose(*(site.weight(n, turn) for n in inward)))
        if "out_proj.kernel" in kernels:
            yield Mistake(f"heads merged {label}", site.weight("out_proj.kernel", _rows(turn)))


def _rows(turn: Any) -> Any:
    """Return a turn of columns as one of the rows of a kernel (H, E, M)."""
    return lambda w: np.moveaxis(turn(np.moveaxis(w, -1, 0)), 0, -1)


def transposed(site: Site) -> Turned:
    """Yield kernels transposed, where the shape lets it pass (1)."""
    for name, param in _own(site).items():
        if not param.inputs:
            continue
        rows = int(np.prod(param.shape[: param.inputs]))
        if rows * rows == np.prod(param.shape):
            yield Mistake(f"{name} transposed", site.weight(name, lambda w, n=rows: w.reshape(n, n).T.reshape(w.shape)))


def exchanged(site: Site) -> Turned:
    """Yield projections in each other's place: the orders and groupings of a fused kernel (3)."""
    own = _own(site)
    for which in permutations(NAMES):
        order = dict(zip(NAMES, which, strict=True))
        moved = {new: old for new, old in order.items() if new != old}
        kernels = {f"{new}.kernel": f"{old}.kernel" for new, old in moved.items()}
        if not moved or not _fits(own, kernels):
            continue
        name = ", ".join(f"{old[0]} for {new[0]}" for new, old in moved.items())
        yield Mistake(f"kernels exchanged: {name}", _reordered(site, kernels))
        biases = {f"{new}.bias": f"{old}.bias" for new, old in moved.items()}
        if _fits(own, biases):
            yield Mistake(f"projections exchanged: {name}", _reordered(site, {**kernels, **biases}))
    shapes = {own[f"{name}.kernel"].shape for name in NAMES if f"{name}.kernel" in own}
    if isinstance(site.contract, MultiHeadAttention) and len(shapes) == 1:
        yield Mistake("fused kernel read per head, (H, 3, D) for (3, H, D)", _regrouped(site, per_head=True))
        yield Mistake("fused kernel read per projection, (3, H, D) for (H, 3, D)", _regrouped(site, per_head=False))
    if isinstance(getattr(site.contract, "score", None), Concat):
        rows = site.contract.score_widths[1]
        yield Mistake("keys before queries", site.weight("score_proj.kernel", lambda w: np.roll(w, rows, axis=0)))


def _fits(own: dict[str, Param], names: dict[str, str]) -> bool:
    return all(old in own and new in own and own[new].shape == own[old].shape for new, old in names.items())


def _reordered(site: Site, names: dict[str, str]) -> Plant:
    """Plant every parameter `new` with the values of `old`."""

    def plant(probe: Probe) -> Probe:
        w = probe.weights
        pairs = (pair for new, old in names.items() for pair in zip(site.names(new), site.names(old), strict=True))
        return replace(probe, weights={**w, **{new: w[old] for new, old in pairs if new in w and old in w}})

    return plant


def _regrouped(site: Site, *, per_head: bool) -> Plant:
    def plant(probe: Probe) -> Probe:
        weights = dict(probe.weights)
        for kind in ("kernel", "bias"):
            for names in zip(*(site.names(f"{name}.{kind}") for name in NAMES), strict=True):
                if all(name in weights for name in names):
                    weights.update(zip(names, _read([weights[name] for name in names], per_head=per_head), strict=True))
        return replace(probe, weights=weights)

    return plant


def _read(three: list[np.ndarray], *, per_head: bool) -> list[np.ndarray]:
    """Return three arrays (..., H, D) written one after another, or head by head, and read the other way."""
    *lead, h, d = three[0].shape
    if per_head:
        read = np.stack(three, axis=-3).reshape(*lead, h, 3, d)
        return [read[..., i, :] for i in range(3)]
    read = np.stack(three, axis=-2).reshape(*lead, 3, h, d)
    return [read[..., i, :, :] for i in range(3)]


def grouped(site: Site) -> Turned:
    """Yield query heads that read other key heads (14)."""
    part = site.contract
    if isinstance(part, MultiHeadAttention) and part.kv_heads > 1:
        if part.kv_heads < part.num_heads:
            yield Mistake("heads tiled instead of grouped", _tiled(site, 1))
            yield Mistake("heads of a group spread over the groups", _tiled(site, 0))
            yield Mistake("every head reads key head 0", _first_head(site))
        for name in ("k_proj", "v_proj"):
            yield Mistake(f"heads of {name} in the opposite order", _reversed(site, name))
    if "attention" in dir(part) and hasattr(part, "depth"):
        yield Mistake("pairs of heads are halves, not neighbours", compose(*_halves(site)))


def _tiled(site: Site, kind: int) -> Plant:
    h, k = site.contract.num_heads, site.contract.kv_heads
    shape = (h // k, k) if kind else (k, h // k)
    # Tiling is grouping with the query heads in another order.
    order = np.arange(h).reshape(shape).T.reshape(-1)
    axes = {"q_proj.kernel": 1, "q_proj.bias": 0, "gate_proj.kernel": 1, "out_proj.kernel": 0}
    if kind == 0:
        axes = {"q_proj.kernel": 1, "q_proj.bias": 0}
    owned = {name: axis for name, axis in axes.items() if name in _own(site)}
    return compose(*(site.weight(name, lambda w, a=axis: np.take(w, order, axis=a)) for name, axis in owned.items()))


def _first_head(site: Site) -> Plant:
    names = [n for n in ("k_proj.kernel", "k_proj.bias", "v_proj.kernel", "v_proj.bias") if n in _own(site)]
    return compose(*(site.weight(n, lambda w: np.broadcast_to(w[..., :1, :], w.shape)) for n in names))


def _reversed(site: Site, name: str) -> Plant:
    names = [n for n in (f"{name}.kernel", f"{name}.bias") if n in _own(site)]
    return compose(*(site.weight(n, lambda w: w[..., ::-1, :]) for n in names))


def _halves(site: Site) -> Iterator[Plant]:
    for name in ("q_proj.kernel", "k_proj.kernel", "q_proj.bias", "k_proj.bias"):
        if name in _own(site):
            yield site.weight(name, _interleave)


def _interleave(w: np.ndarray) -> np.ndarray:
    """Return heads such that neighbours stood half of the heads apart."""
    half = w.shape[-2] // 2
    order = np.arange(2 * half).reshape(2, half).T.reshape(-1)
    return np.take(w, order, axis=-2)


def biases(site: Site) -> Turned:
    """Yield biases forgotten, one or all (22), or hidden features in another order."""
    own = _own(site)
    forgotten = [name for name in own if name.endswith(".bias") and not _of_norm(site, name)]
    for name in forgotten:
        yield Mistake(f"{name} dropped", site.weight(name, np.zeros_like))
    inward = [name for name in forgotten if name.startswith(NAMES)]
    for label, names in (("qkv biases", inward), ("all biases", forgotten)):
        if len(names) > 1:
            yield Mistake(f"{label} dropped", compose(*(site.weight(name, np.zeros_like) for name in names)))


def _of_norm(site: Site, name: str) -> bool:
    return name.partition(".")[0] in site.contract.norms


def hidden(site: Site) -> Turned:
    """Yield hidden features in another order than their weights, or the parts of a fused latent."""
    if "score_v" in _own(site):
        yield Mistake("score_v one feature further", site.weight("score_v", lambda v: np.roll(v, 1)))
        yield Mistake("score_v one feature back", site.weight("score_v", lambda v: np.roll(v, -1)))
        yield Mistake("score_v in the opposite order", site.weight("score_v", lambda v: v[::-1]))
        yield Mistake("score_v of the wrong sign", site.weight("score_v", np.negative))
    part = site.contract
    if isinstance(part, LatentAttention):
        up = "q_proj.kernel" if part.q_rank is None else "q_up.kernel"
        yield Mistake(f"{up}: rotary features first", site.weight(up, lambda w: np.roll(w, part.rope_dim, axis=-1)))
        yield Mistake("kv_up.kernel: values first", site.weight("kv_up.kernel", lambda w: np.roll(w, part.value_dim, axis=-1)))
        rolled = site.weight("kv_down.kernel", lambda w: np.roll(w, part.rope_dim, axis=-1))
        yield Mistake("kv_down.kernel: rotary key first", rolled)


def inputs(site: Site) -> Turned:
    """Yield calls whose key or value is another input."""
    widths = site.whole.inputs
    if site.path or "value" not in widths:
        return
    yield Mistake("value is the key", input_operators.input_for("value", "key"))
    if widths["key"] == widths["value"]:
        yield Mistake("key and value exchanged", compose(input_operators.inputs_exchanged))
    if widths["query"] == widths["key"]:
        yield Mistake("key is the value", input_operators.input_for("key", "value"))


def rounded(site: Site) -> Turned:
    """Yield inputs and weights that are rounded on the way (19, 20)."""
    if site.path:
        return
    first, *others = site.contract.inputs
    for name, turn in input_operators.ROUNDED.items():
        label = {"query": "queries"}.get(first, first)
        yield Mistake(f"{label} rounded to {name}", input_operators.inputs_turned(turn, (first,)))
        if others:
            yield Mistake(f"all inputs rounded to {name}", input_operators.inputs_turned(turn, (first, *others)))
        yield Mistake(f"weights rounded to {name}", input_operators.weights_turned(turn))
