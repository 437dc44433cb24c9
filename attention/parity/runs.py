"""Runs: what `attention parity` was asked for, as a list of steps, each of which makes a part of the report.

    contracts x dtypes x probes        every named contract of `spec.cases`
    models x layers x dtypes           every attention layer of a trained model, on what it really saw
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from attention.parity import real, sides
from attention.parity.checks import check_probe, expect, verdicts
from attention.parity.probes import Probe, probes
from attention.parity.report import Report, Row
from attention.spec import cases
from attention.spec.params import cast, numpy_dtype

REAL_DTYPES = ("float32", "float64")
"""The dtypes in which real layers run, and transformers beside them."""


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
        for dtype in REAL_DTYPES:
            work = partial(check_layer, layer, dtype, backends, implementation)
            yield Step(f"{model}, layer {layer.layer}, {dtype}", work)


def check_layer(
    layer: real.RealLayer, dtype: str, backends: Sequence[str] = sides.BACKENDS, implementation: str = "auto"
) -> Report:
    """Return the report of one trained layer on what it saw, for each backend and for transformers' own module.

    Args:
        layer: of `real.layers`.
        dtype: "float32" or "float64".
        backends: names of sides.
        implementation: "auto" or a kernel's name.
    """
    probe = real_probe(layer, dtype)
    subject = f"{layer.model}[{layer.layer}]"
    tokens = int(layer.lengths.sum())
    facts = {"model": layer.model, "layer": layer.layer, "heads": layer.contract.num_heads}
    facts |= {"tokens": tokens, "padding": layer.padding}
    theirs = layer.foreign(probe.cotangents["output"], dtype)
    row = Row(subject, probe.name, "transformers", "eager", dtype, verdicts(theirs, expect(probe)), facts=facts)
    return Report((*check_probe(subject, probe, backends, implementation, facts), row))


def real_probe(layer: real.RealLayer, dtype: str) -> Probe:
    """Return the call that a trained layer really made, with a random cotangent."""
    kind = numpy_dtype(dtype)
    cotangent = np.random.default_rng(layer.layer).normal(size=layer.hidden.shape).astype(kind)
    return Probe(
        "real text",
        replace(layer.contract, precision="highest"),
        dtype,
        cast(layer.weights, dtype),
        {"query": layer.hidden.astype(kind)},
        {"output": cotangent},
        mask=layer.mask,
    )
