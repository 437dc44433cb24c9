"""Runs: what `attention parity` was asked for, as a list of steps, each of which makes a part of the report.

contracts x dtypes x probes        every named contract of `spec.cases`
models x layers x dtypes           every attention layer of a trained model, on what it really saw
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np

from attention.parity import real, sides
from attention.parity.budget import Budget
from attention.parity.checks import as_float64, check_probe, expect, verdicts
from attention.parity.probes import Probe, probes
from attention.parity.report import Report, Row
from attention.spec import cases
from attention.spec.params import cast, numpy_dtype

RUNS = 16
"""Of a trained layer's budget: the least of 100,000 estimates from the usual 8 runs is far below the truth."""


@dataclass(frozen=True)
class Step:
    """One part of a run: what it is, and the work."""

    name: str
    run: Callable[[], Report]


def plan(
    contracts: Sequence[str],
    models: Sequence[str],
    dtypes: Sequence[str] = ("float32",),
    backends: Sequence[str] = sides.BACKENDS,
    implementation: str = "auto",
) -> list[Step]:
    """Return the steps of a run; every name is checked before the first step.

    Args:
        contracts: names of `spec.cases`, or "all".
        models: names of `parity.real`.
        dtypes: of the contracts' weights and inputs.
        backends: names of sides.
        implementation: "auto" or a kernel's name.

    Raises:
        UnknownName: no such contract, model, dtype or backend.
        MissingExtra: a backend or a model's package is not installed.
    """
    for backend in backends:
        _ = sides.find(backend)
    for dtype in dtypes:
        _ = numpy_dtype(dtype)
    named = list(cases.CASES) if "all" in contracts else contracts
    found = [cases.find(name) for name in named]
    steps = [
        Step(f"{case.name}, {dtype}: {probe.name}", partial(_probed, case.name, probe, backends, implementation))
        for case in found
        for dtype in dtypes
        for probe in probes(case.contract, dtype)
    ]
    for model in models:
        steps += _real_steps(model, backends, implementation)
    return steps


def _probed(subject: str, probe: Probe, backends: Sequence[str], implementation: str) -> Report:
    return Report(tuple(check_probe(subject, probe, backends, implementation)))


def _real_steps(model: str, backends: Sequence[str], implementation: str) -> Iterator[Step]:
    for layer in real.layers(model):
        yield Step(f"{model}, layer {layer.layer}", partial(check_layer, layer, backends, implementation))


def check_layer(layer: real.RealLayer, backends: Sequence[str] = sides.BACKENDS, implementation: str = "auto") -> Report:
    """Return the report of one trained layer on what it saw, in float32 and float64.

    The backends stand beside transformers' own module of that layer; all are judged by the same oracle.

    Args:
        layer: of `real.layers`.
        backends: names of sides.
        implementation: "auto" or a kernel's name.
    """
    facts = {"model": layer.model, "layer": layer.layer, "heads": layer.contract.num_heads}
    facts |= {"tokens": int(layer.lengths.sum()), "padding": layer.padding}
    subject = f"{layer.model}[{layer.layer}]"
    single = real_probe(layer, "float32")

    @cache
    def once(rounds: tuple[str, ...]) -> Budget:
        return expect(single, rounds, RUNS)

    def expected(probe: Probe, rounds: tuple[str, ...]) -> Budget:
        # Both dtypes are given the same numbers, so that one budget serves them.
        return as_float64(once(rounds)) if probe.dtype == "float64" else once(rounds)

    rows: list[Row] = []
    for probe in (single, real_probe(layer, "float64")):
        rows += check_probe(subject, probe, backends, implementation, facts, expected)
        theirs = verdicts(layer.foreign(single.cotangents["output"], probe.dtype), expected(probe, ()))
        rows.append(Row(subject, probe.name, "transformers", "eager", probe.dtype, theirs, facts=facts))
    return Report(tuple(rows))


def real_probe(layer: real.RealLayer, dtype: str) -> Probe:
    """Return the call that a trained layer really made, with a random cotangent."""
    kind = numpy_dtype(dtype)
    cotangent = np.random.default_rng(layer.layer).normal(size=layer.hidden.shape).astype(np.float32)
    return Probe(
        "real text",
        replace(layer.contract, precision="highest"),
        dtype,
        cast(layer.weights, dtype),
        {"query": layer.hidden.astype(kind)},
        {"output": cotangent.astype(kind)},
        mask=layer.mask,
    )
