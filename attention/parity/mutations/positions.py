"""Placing: hypotheses about positions: rotary angles, distances that bias a score, and where a token is thought to stand.

angle = position * base^(-2i / R)        another base, direction, pairing, width, offset, rounding; one of q and k only
"""

# A site's fields depend on which layer it is.
# pyright: standard, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from attention.parity.contracts.probes import Probe
from attention.parity.mutations import operators
from attention.parity.mutations.formula_hooks import resettle
from attention.parity.mutations.locations import Site
from attention.parity.mutations.mutation import Dial, Mistake, Turned
from attention.parity.mutations.operators import Plant
from attention.spec.layers.contract import ResolvedCall
from attention.spec.layers.latent import LatentAttention
from attention.spec.positions import Alibi, AxialRotary, RelativeBias, RelativeKeys, Rotary

BASES = (100.0, 500.0, 1_000.0, 10_000.0, 50_000.0, 100_000.0, 160_000.0, 500_000.0, 1_000_000.0, 5_000_000.0)
OTHER_STYLE = {"half": "interleaved", "interleaved": "half"}

Turn = Callable[[np.ndarray], np.ndarray]


def rotary(site: Site) -> Any:
    """Return the rotary positions of a site, or None."""
    positions = getattr(site.contract, "positions", None)
    return positions if isinstance(positions, (Rotary, AxialRotary)) else None


def style(site: Site) -> Turned:
    """Yield the other pairing of features (9)."""
    if turning := rotary(site):
        other = OTHER_STYLE[turning.style]
        yield Mistake(f"rotary {other} for {turning.style}", site.inner("positions", style=other))


def base(site: Site) -> Turned:
    """Yield other bases (10)."""
    if turning := rotary(site):
        for other in BASES:
            if other != turning.base:
                yield Mistake(f"rotary base {other:g} for {turning.base:g}", site.inner("positions", base=other))
        halved = site.inner("positions", base=turning.base**0.5)
        yield Mistake(f"rotary exponents half as large, which is a base of {turning.base**0.5:g}", halved)
        yield Dial("rotary base", turning.base, lambda x: site.inner("positions", base=max(x, 1.0 + 1e-9)))


def width(site: Site) -> Turned:
    """Yield another number of features that turn, none, or another scaling (10)."""
    turning = rotary(site)
    if turning is None:
        return
    d = site.contract.rope_dim if isinstance(site.contract, LatentAttention) else site.contract.width
    right = turning.width(d)
    step = 4 if isinstance(turning, AxialRotary) else 2
    if right != d and d % step == 0:
        yield Mistake("rotary of all features, not of some", site.inner("positions", rotary_dim=None))
    for other in range(step, d, step):
        if other != right:
            yield Mistake(f"rotary of {other} features, not of {right}", site.inner("positions", rotary_dim=other))
    if isinstance(site.contract, LatentAttention):
        yield Mistake("rotary forgotten", placed(site, np.zeros_like, np.zeros_like))
    else:
        yield Mistake("rotary forgotten", site.option(positions=None))


def scaling(site: Site) -> Turned:
    """Yield a rotary scaling that is forgotten, or only in part heeded."""
    turning = rotary(site)
    made = getattr(turning, "scaling", None)
    if made is None:
        return
    yield Mistake("rotary scaling forgotten", site.inner("positions", scaling=None))
    if hasattr(made, "factor"):
        yield Dial("rotary scaling's factor", made.factor, lambda x: site.inner("positions.scaling", factor=max(x, 1.0)))
    if getattr(made, "attention_factor", False) is None:
        plain = site.inner("positions.scaling", attention_factor=1.0)
        yield Mistake("rotary scaling's attention factor forgotten", plain)


def angles(site: Site) -> Turned:
    """Yield positions of the wrong sign, offset, rounding or kind, of queries or keys or both (10, 11, 12)."""
    if rotary(site) is None:
        return
    yield Mistake("rotary turns backwards", placed(site, np.negative, np.negative))
    yield Mistake("rotary positions in bfloat16", placed(site, operators.in_bfloat16, operators.in_bfloat16))
    yield Mistake("positions of the call ignored", placed(site, _counted(site), _counted(site)))
    if "positions" not in site.contract.call_kwargs:
        for name, turn in _ONE_SIDED.items():
            yield Mistake(f"rotary positions of queries {name}", placed(site, turn, None))
            yield Mistake(f"rotary positions of keys {name}", placed(site, None, turn))
    if isinstance(rotary(site), AxialRotary):
        yield Mistake("rotary rows and columns exchanged", placed(site, _flipped, _flipped))


_ONE_SIDED: dict[str, Turn] = {
    "off by one": lambda x: x + 1,
    "off by minus one": lambda x: x - 1,
    "ignored: only the others are turned": np.zeros_like,
    "of the wrong sign": np.negative,
}


def _flipped(x: np.ndarray) -> np.ndarray:
    return x[..., ::-1]


def _counted(site: Site) -> Turn:
    """Return positions 0, 1, 2 ... whatever the call said (12)."""
    axial = isinstance(rotary(site), AxialRotary)

    def turn(x: np.ndarray) -> np.ndarray:
        # An image's positions have no order of their own; its first token's offset is what is lost.
        return x - x[..., :1, :] if axial else np.broadcast_to(np.arange(x.shape[-1]), x.shape)

    return turn


def placed(site: Site, queries: Turn | None, keys: Turn | None) -> Plant:
    """Plant other angles for the queries, for the keys or for both."""
    return resettle(site, lambda probe, part, setting: _tables(probe, part, setting, queries, keys))


def _tables(probe: Probe, part: Any, setting: ResolvedCall, queries: Turn | None, keys: Turn | None) -> ResolvedCall:
    d = part.rope_dim if isinstance(part, LatentAttention) else part.width
    if part.positions is None or not hasattr(part.positions, "tables"):
        return {}
    *_, t, s = setting["allowed"].shape
    made: ResolvedCall = {}
    for name, count, turn in (("query", t, queries), ("key", s, keys)):
        given = probe.positions if probe.positions is not None else getattr(probe, f"{name}_positions")
        if turn is not None:
            where = turn(np.arange(count) if given is None else given)
            made["table" if "table" in setting else f"{name}_table"] = part.positions.tables(where, d, _length(part, probe))
    return made


def _length(part: Any, probe: Probe) -> Any:
    """Return the number of positions of the call, for a scaling that depends on it."""
    if not part.positions.grows:
        return None
    given = [x for x in (probe.positions, probe.query_positions, probe.key_positions) if x is not None]
    return max((float(x.max()) + 1 for x in given), default=None)


def slopes(site: Site) -> Turned:
    """Yield other slopes of ALiBi."""
    positions = getattr(site.contract, "positions", None)
    if not isinstance(positions, Alibi):
        return
    h = site.contract.num_heads
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
    yield Mistake("score bias forgotten", site.option(positions=None))
    for name, rates in several.items():
        if rates != right:
            yield Mistake(f"slopes of alibi {name}", site.option(positions=Alibi(rates)))
    yield Dial("factor of alibi's slopes", 1.0, lambda x: site.option(positions=Alibi(tuple(r * x for r in right))))


def distances(site: Site) -> Turned:
    """Yield other buckets and other learned distances."""
    positions = getattr(site.contract, "positions", None)
    if not isinstance(positions, (RelativeBias, RelativeKeys)):
        return
    yield Mistake("score bias forgotten", site.option(positions=None))
    yield Mistake("distances mirrored: t - s for s - t", _mirrored(site))
    name = "relative_bias" if isinstance(positions, RelativeBias) else "relative_keys"
    yield Mistake(f"{name} in the opposite order", site.weight(name, lambda a: a[::-1]))
    if isinstance(positions, RelativeKeys):
        factor = site.contract.score.factor(site.contract.width)
        if factor != 1.0:
            yield Mistake("relative keys not scaled", site.weight(name, lambda a: a / np.float32(factor)))
        return
    yield Mistake("heads of the buckets in the opposite order", site.weight(name, lambda a: a[:, ::-1]))
    other = "both directions" if not positions.bidirectional else "one direction"
    turned = replace(positions, bidirectional=not positions.bidirectional)
    yield Mistake(f"buckets for {other}", site.option(positions=turned))
    reach = positions.max_distance
    for label, far in (("twice as far", 2 * reach), ("half as far", reach // 2), ("to 128", 128), ("to 127", 127)):
        if far != reach and far > positions.num_buckets // (4 if positions.bidirectional else 2):
            yield Mistake(f"buckets reach {label}", site.option(positions=replace(positions, max_distance=far)))


def _mirrored(site: Site) -> Plant:
    def turn(probe: Probe, part: Any, setting: ResolvedCall) -> ResolvedCall:
        del probe, part
        return {name: -setting[name] for name in ("query_positions", "key_positions") if setting[name] is not None}

    return resettle(site, turn)
