"""Operators on the inputs of a call: another input, another bias, inputs and weights rounded to a coarser dtype.

operator(right probe) = wrong probe        as in `operators.py`
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import ml_dtypes
import numpy as np

from attention.parity.contracts.probes import Probe
from attention.parity.mutations.operators import Operator


def input_for(name: str, other: str) -> Operator:
    """Return the operator that replaces one input by another."""

    def mutate(probe: Probe) -> Probe:
        arrays = inputs(probe)
        return replace(probe, arrays={**arrays, name: arrays[other]})

    return mutate


def inputs_exchanged(probe: Probe) -> Probe:
    """Exchange key and value."""
    arrays = inputs(probe)
    return replace(probe, arrays={**arrays, "key": arrays["value"], "value": arrays["key"]})


def inputs(probe: Probe) -> dict[str, np.ndarray]:
    """Return the arrays of a call, including inputs that default to another."""
    if "query" not in probe.arrays:
        return dict(probe.arrays)
    key = probe.arrays.get("key", probe.arrays["query"])
    return {**probe.arrays, "key": key, "value": probe.arrays.get("value", key)}


def change_bias(change: Callable[[np.ndarray], np.ndarray]) -> Operator:
    """Return the operator that changes the bias of the call."""

    def mutate(probe: Probe) -> Probe:
        return replace(probe, arrays={name: change(x) if name == "bias" else x for name, x in probe.arrays.items()})

    return mutate


bias_ignored = change_bias(np.zeros_like)
"""Forget the bias that comes with a call."""


def in_tf32(x: np.ndarray) -> np.ndarray:
    """Return float32 `x` rounded to TensorFloat-32: ten bits behind the point."""
    rounded = ((x.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
    return np.where(np.isfinite(x), rounded, x)


ROUNDED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "TF32": in_tf32,
    "bfloat16": lambda x: x.astype(ml_dtypes.bfloat16).astype(x.dtype),
    "float16": lambda x: x.astype(np.float16).astype(x.dtype),
}


def change_inputs(change: Callable[[np.ndarray], np.ndarray], names: tuple[str, ...]) -> Operator:
    """Return the operator that changes inputs, including those that default to another input."""

    def mutate(probe: Probe) -> Probe:
        return replace(probe, arrays={name: change(x) if name in names else x for name, x in inputs(probe).items()})

    return mutate


def change_weights(change: Callable[[np.ndarray], np.ndarray]) -> Operator:
    """Return the operator that changes every parameter."""
    return lambda probe: replace(probe, weights={name: change(x) for name, x in probe.weights.items()})


queries_in_tf32 = change_inputs(in_tf32, ("query",))
"""Round the queries to TensorFloat-32."""
