"""Mutations of positions: rotary angles, ALiBi slopes, relative buckets, the position of a token.

angle = position * base^(-2i / R)        another base, direction, pairing, width, offset, rounding; one of q and k only
"""

# The fields of a location's contract depend on the layer.
# pyright: standard, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from attention.parity.contracts.probes import Probe
from attention.parity.mutations import operators
from attention.parity.mutations.formula_hooks import hook_call
from attention.parity.mutations.locations import Location
from attention.parity.mutations.mutation import FittedScalar, Mutation, Mutations
from attention.parity.mutations.operators import Operator
from attention.spec.layers.contract import ResolvedCall
from attention.spec.layers.latent import LatentAttention
from attention.spec.positions import Alibi, AxialRotary, RelativeBias, RelativeKeys, Rotary

BASES = (100.0, 500.0, 1_000.0, 10_000.0, 50_000.0, 100_000.0, 160_000.0, 500_000.0, 1_000_000.0, 5_000_000.0)
OTHER_STYLE = {"half": "interleaved", "interleaved": "half"}

Change = Callable[[np.ndarray], np.ndarray]


def rotary(location: Location) -> Any:
    """Return the rotary positions of a location, or None."""
    positions = getattr(location.contract, "positions", None)
    return positions if isinstance(positions, (Rotary, AxialRotary)) else None


def style(location: Location) -> Mutations:
    """Yield the other pairing of features."""
    if rotation := rotary(location):
        other = OTHER_STYLE[rotation.style]
        yield Mutation(f"rotary {other} for {rotation.style}", location.inner("positions", style=other))


def base(location: Location) -> Mutations:
    """Yield other bases."""
    if rotation := rotary(location):
        for other in BASES:
            if other != rotation.base:
                yield Mutation(f"rotary base {other:g} for {rotation.base:g}", location.inner("positions", base=other))
        halved = location.inner("positions", base=rotation.base**0.5)
        yield Mutation(f"rotary exponents half as large, which is a base of {rotation.base**0.5:g}", halved)
        yield FittedScalar("rotary base", rotation.base, lambda x: location.inner("positions", base=max(x, 1.0 + 1e-9)))


def width(location: Location) -> Mutations:
    """Yield another number of rotated features, or none."""
    rotation = rotary(location)
    if rotation is None:
        return
    d = location.contract.rope_dim if isinstance(location.contract, LatentAttention) else location.contract.width
    right = rotation.width(d)
    step = 4 if isinstance(rotation, AxialRotary) else 2
    if right != d and d % step == 0:
        yield Mutation("rotary of all features, not of some", location.inner("positions", rotary_dim=None))
    for other in range(step, d, step):
        if other != right:
            yield Mutation(f"rotary of {other} features, not of {right}", location.inner("positions", rotary_dim=other))
    if isinstance(location.contract, LatentAttention):
        yield Mutation("rotary forgotten", other_angles(location, np.zeros_like, np.zeros_like))
    else:
        yield Mutation("rotary forgotten", location.option(positions=None))


def scaling(location: Location) -> Mutations:
    """Yield a rotary scaling that is missing, or only partly applied."""
    rotation = rotary(location)
    made = getattr(rotation, "scaling", None)
    if made is None:
        return
    yield Mutation("rotary scaling forgotten", location.inner("positions", scaling=None))
    if hasattr(made, "factor"):
        yield FittedScalar(
            "rotary scaling's factor", made.factor, lambda x: location.inner("positions.scaling", factor=max(x, 1.0))
        )
    if getattr(made, "attention_factor", False) is None:
        plain = location.inner("positions.scaling", attention_factor=1.0)
        yield Mutation("rotary scaling's attention factor forgotten", plain)


def angles(location: Location) -> Mutations:
    """Yield positions of the wrong sign, offset, rounding or kind, of queries or keys or both."""
    if rotary(location) is None:
        return
    yield Mutation("rotary turns backwards", other_angles(location, np.negative, np.negative))
    yield Mutation("rotary positions in bfloat16", other_angles(location, operators.in_bfloat16, operators.in_bfloat16))
    yield Mutation("positions of the call ignored", other_angles(location, _counted(location), _counted(location)))
    if "positions" not in location.contract.call_kwargs:
        for name, change in _ONE_SIDED.items():
            yield Mutation(f"rotary positions of queries {name}", other_angles(location, change, None))
            yield Mutation(f"rotary positions of keys {name}", other_angles(location, None, change))
    if isinstance(rotary(location), AxialRotary):
        yield Mutation("rotary rows and columns exchanged", other_angles(location, _flipped, _flipped))


_ONE_SIDED: dict[str, Change] = {
    "off by one": lambda x: x + 1,
    "off by minus one": lambda x: x - 1,
    "ignored: only the others are rotated": np.zeros_like,
    "of the wrong sign": np.negative,
}


def _flipped(x: np.ndarray) -> np.ndarray:
    return x[..., ::-1]


def _counted(location: Location) -> Change:
    """Return the change to positions 0, 1, 2 ..., whatever positions the call has."""
    axial = isinstance(rotary(location), AxialRotary)

    def change(x: np.ndarray) -> np.ndarray:
        # Positions of an image have no linear order: the mutation removes the offset of the first token.
        return x - x[..., :1, :] if axial else np.broadcast_to(np.arange(x.shape[-1]), x.shape)

    return change


def other_angles(location: Location, queries: Change | None, keys: Change | None) -> Operator:
    """Return the operator that changes the angles of queries, of keys or of both."""
    return hook_call(location, lambda probe, part, setting: _tables(probe, part, setting, queries, keys))


def _tables(probe: Probe, part: Any, setting: ResolvedCall, queries: Change | None, keys: Change | None) -> ResolvedCall:
    d = part.rope_dim if isinstance(part, LatentAttention) else part.width
    if part.positions is None or not hasattr(part.positions, "tables"):
        return {}
    *_, t, s = setting["allowed"].shape
    made: ResolvedCall = {}
    for name, count, change in (("query", t, queries), ("key", s, keys)):
        given = probe.positions if probe.positions is not None else getattr(probe, f"{name}_positions")
        if change is not None:
            where = change(np.arange(count) if given is None else given)
            made["table" if "table" in setting else f"{name}_table"] = part.positions.tables(where, d, _length(part, probe))
    return made


def _length(part: Any, probe: Probe) -> Any:
    """Return the number of positions of the call, for a scaling that depends on it."""
    if not part.positions.grows:
        return None
    given = [x for x in (probe.positions, probe.query_positions, probe.key_positions) if x is not None]
    return max((float(x.max()) + 1 for x in given), default=None)


def slopes(location: Location) -> Mutations:
    """Yield other slopes of ALiBi."""
    positions = getattr(location.contract, "positions", None)
    if not isinstance(positions, Alibi):
        return
    h = location.contract.num_heads
    right = positions.rates(h)
    geometric = tuple(2.0 ** (-8.0 * i / h) for i in range(1, h + 1))
    several: dict[str, tuple[float, ...]] = {
        "of the wrong sign": tuple(-x for x in right),
        "doubled": tuple(2 * x for x in right),
        "halved": tuple(x / 2 for x in right),
        "in the opposite order": right[::-1],
        "2^(-8h/H), though H is no power of two": geometric,
        "sorted": tuple(sorted(right, reverse=True)),
        "begin with h = 0": tuple(x * 2.0 ** (8.0 / h) for x in geometric),
    }
    yield Mutation("score bias forgotten", location.option(positions=None))
    for name, rates in several.items():
        if rates != right:
            yield Mutation(f"slopes of alibi {name}", location.option(positions=Alibi(rates)))
    yield FittedScalar("factor of alibi's slopes", 1.0, lambda x: location.option(positions=Alibi(tuple(r * x for r in right))))


def distances(location: Location) -> Mutations:
    """Yield other buckets and other learned distances."""
    positions = getattr(location.contract, "positions", None)
    if not isinstance(positions, (RelativeBias, RelativeKeys)):
        return
    yield Mutation("score bias forgotten", location.option(positions=None))
    yield Mutation("distances mirrored: t - s for s - t", _mirrored(location))
    name = "relative_bias" if isinstance(positions, RelativeBias) else "relative_keys"
    yield Mutation(f"{name} in the opposite order", location.weight(name, lambda a: a[::-1]))
    if isinstance(positions, RelativeKeys):
        factor = location.contract.score.factor(location.contract.width)
        if factor != 1.0:
            yield Mutation("relative keys not scaled", location.weight(name, lambda a: a / np.float32(factor)))
        return
    yield Mutation("heads of the buckets in the opposite order", location.weight(name, lambda a: a[:, ::-1]))
    other = "both directions" if not positions.bidirectional else "one direction"
    other_buckets = replace(positions, bidirectional=not positions.bidirectional)
    yield Mutation(f"buckets for {other}", location.option(positions=other_buckets))
    reach = positions.max_distance
    for label, far in (("twice as far", 2 * reach), ("half as far", reach // 2), ("to 128", 128), ("to 127", 127)):
        if far != reach and far > positions.num_buckets // (4 if positions.bidirectional else 2):
            yield Mutation(f"buckets reach {label}", location.option(positions=replace(positions, max_distance=far)))


def _mirrored(location: Location) -> Operator:
    def change(probe: Probe, part: Any, setting: ResolvedCall) -> ResolvedCall:
        del probe, part
        return {name: -setting[name] for name in ("query_positions", "key_positions") if setting[name] is not None}

    return hook_call(location, change)
