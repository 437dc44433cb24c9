"""Unlisted mutations: mistakes in no catalogue, which the diagnosis must not give a name.

Each is a hook inside the formula of an attention. A diagnosis that gave it the name of a known mistake would send its reader
to the wrong line.
"""

# The intermediates are arrays of any namespace.
# pyright: standard

from __future__ import annotations

from dataclasses import replace

import numpy as np

from attention.parity.contracts.probes import Probe
from attention.parity.mutations.formula_hooks import HookContext, hook_intermediate, on
from attention.parity.mutations.locations import Location
from attention.parity.mutations.mutation import Mutation
from attention.parity.mutations.operators import Operator
from attention.spec.axes import Array
from attention.spec.layers.contract import Contract


def unlisted_mutations(contract: Contract) -> list[Mutation]:
    """Return mistakes that nobody is known to have made, in a multi-head layer."""
    intermediates = {
        "scores + 0.01 times the key's index": ("scores", lambda at, x: x + 0.01 * at.xp.arange(x.shape[-1])),
        "values 1.1 times as large in every second head": (
            "value",
            lambda at, x: x * _every_second(at, x.shape[-2], 1.1)[:, None],
        ),
        "a temperature that grows with the query's index": ("scores", _warming),
        "tanh of the output": ("out_proj", lambda at, x: at.xp.tanh(x)),
        "weights to the power of 1.1 in head 0": ("weights", _sharpened),
        "scores below 0 halved": ("scores", lambda at, x: at.xp.where(x < 0, x / 2, x)),
        "the context of the next token": ("context", lambda at, x: at.xp.concat([x[..., 1:, :, :], x[..., :1, :, :]], axis=-3)),
        "the first feature of every key forgotten": ("key", lambda at, x: x * _without_first(at, x.shape[-1])),
        "the largest weight of a row left out": ("weights", lambda at, x: at.xp.where(x == x.max(-1, keepdims=True), 0 * x, x)),
    }
    made = [
        Mutation(name, hook_intermediate(Location(contract), on(intermediate, hook)))
        for name, (intermediate, hook) in intermediates.items()
    ]
    return [*made, Mutation("queries and keys of batch row 0 wrong by 0.1 %", _row_wrong(1.001))]


def _every_second(at: HookContext, heads: int, factor: float) -> Array:
    return at.xp.where(at.xp.arange(heads) % 2 == 0, factor, 1.0)


def _warming(at: HookContext, x: Array) -> Array:
    return x / (1.0 + 0.05 * at.xp.arange(x.shape[-2]))[:, None]


def _sharpened(at: HookContext, x: Array) -> Array:
    powers = at.xp.where(at.xp.arange(x.shape[-3]) == 0, 1.1, 1.0)[:, None, None]
    raised = x**powers
    total = raised.sum(-1, keepdims=True)
    return raised / at.xp.where(total == 0, 1.0, total)


def _without_first(at: HookContext, width: int) -> Array:
    return at.xp.where(at.xp.arange(width) == 0, 0.0, 1.0)


def _row_wrong(factor: float) -> Operator:
    def operator(probe: Probe) -> Probe:
        query = probe.arrays["query"].copy()
        query[0] *= np.float32(factor)
        rest = {"key": probe.arrays.get("key", probe.arrays["query"])}
        return replace(probe, arrays={**rest, **probe.arrays, "query": query})

    return operator
