"""The arrays of a call, computed for an implementation in any language: boolean masks, positions, rotary tables, dropout bits.

    masks.<place>          bool (*batch, H, T, S)      the contract's mask and the call's, True = may attend
    masks.present          bool (*batch, T, 1)         which tokens exist, where a block needs it
    positions.<input>      int64 (*batch, N)           counted from 0 where the call leaves it open
    rotary.<place>.<input>.cos, .sin                   float64 (*batch, N, R / 2)
    keep.<place>           bool                        the weights that dropout keeps

A place is a part of the layer, such as "self_attn" or "layers.0.self_attn"; that of a lone attention is "attention".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np

from attention.parity.contracts.probes import Probe
from attention.parity.numerics.error_budget import Budget

Arrays = dict[str, np.ndarray]
LONE = "attention"
TABLES = {"table": "x", "query_table": "query", "key_table": "key"}


def gathered(probe: Probe, expected: Budget) -> Arrays:
    """Return every array of a call and of its results, by "<group>.<name>".

    Args:
        probe: the call.
        expected: the oracle's results, and their budget.
    """
    groups: dict[str, Mapping[str, Any]] = {
        "inputs": probe.arrays,
        "weights": probe.weights,
        "cotangents": probe.cotangents,
        "positions": positions(probe),
        "oracle": expected.value,
        "sigma": expected.sigma,
    }
    made = {f"{group}.{name}": x for group, arrays in groups.items() for name, x in arrays.items()}
    made |= dict(resolved_arrays(probe.contract.resolve(probe.arrays, **probe.call())))
    # A scalar of NumPy's is no array, and a view of another lies in no row.
    return {name: np.array(x, order="C") for name, x in made.items()}


def positions(probe: Probe) -> Arrays:
    """Return the positions of a call, written out; none for a layer without positions."""
    names = {"query": "query_positions", "key": "key_positions"} if "key" in probe.contract.inputs else {"x": "positions"}
    setting = probe.contract.resolve(probe.arrays, **probe.call())
    if not any(kind in ("rotary", "positions") for kind, *_ in leaves(setting)):
        return {}
    made: Arrays = {}
    for name, keyword in names.items():
        rows = probe.arrays.get(name, next(iter(probe.arrays.values()))).shape[-2]
        given = getattr(probe, keyword)
        made[name] = np.asarray(np.arange(rows) if given is None else given, np.int64)
    return made


def resolved_arrays(setting: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the arrays of a resolved call by the names of the format."""
    for kind, place, name, leaf in leaves(setting):
        if kind == "rotary":
            for part, table in zip(("cos", "sin"), leaf, strict=True):
                yield f"rotary.{place or LONE}.{TABLES[name]}.{part}", table
        elif kind == "keep":
            # Dropout between the parts of a block has a number; a lone attention's has a place like any other.
            within = place if name == "keep" else f"{place}.{name}".removeprefix(".")
            yield f"keep.{within or LONE}", leaf
        elif kind == "masks" and (name != "present" or not place):
            yield f"masks.{name if name == 'present' else place or LONE}", leaf


def leaves(setting: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, str, str, Any]]:
    """Yield (group, place, name, value) of everything that a setting fixes; what it leaves open is None, and is left out."""
    for name, value in setting.items():
        if value is None:
            continue
        if name in TABLES:
            yield "rotary", place, name, value
        elif name == "keep" and isinstance(value, Mapping):
            # Differential attention drops by a mask for each of its two attentions.
            for part, kept in cast("Mapping[str, Any]", value).items():
                yield from leaves({"keep": kept}, f"{place}.{part}".removeprefix("."))
        elif isinstance(value, Mapping):
            yield from leaves(cast("Mapping[str, Any]", value), f"{place}.{name}".removeprefix("."))
        elif name in ("allowed", "present"):
            yield "masks", place, name, value
        elif name.endswith("_positions"):
            yield "positions", place, name, value
        else:
            yield "keep", place, name, value


def notes(probe: Probe, arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Return the notes of a call, in sentences."""
    said: list[str] = []
    poisoned = [name for name, x in probe.arrays.items() if not np.all(np.isfinite(np.asarray(x, np.float64)))]
    if poisoned:
        said.append(f"{', '.join(poisoned)}: padded tokens hold NaN and inf. What no query may attend to must reach no result.")
    masks = {name: x for name, x in arrays.items() if name.startswith("masks.") and name != "masks.present"}
    empty = [name for name, x in masks.items() if not np.all(np.any(x, axis=-1))]
    if empty:
        said.append(f"{', '.join(empty)}: some queries may attend to no key. Their weights and contexts are exactly 0.")
    if any(name.startswith("keep.") for name in arrays):
        said.append("keep: dropout is on. What is False is 0, what is True is divided by 1 - dropout_rate of the contract.")
    if probe.contract.inputs.keys() - probe.arrays.keys():
        absent = ", ".join(name for name in probe.contract.inputs if name not in probe.arrays)
        said.append(f"{absent}: absent, and so the same array as the input before; its gradient is part of that one's.")
    return said
