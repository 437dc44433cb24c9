"""Plan and run `attention verify`: a list of steps, each of which yields a part of the report.

contracts x dtypes       every named contract of `spec.cases`, on every probe of it
models x layers          every attention layer of a trained model in float32 and float64, on what it really saw
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np

from attention.parity.contracts.backends import BACKENDS, find
from attention.parity.contracts.check import as_float64, check, check_probe, expect, verdicts
from attention.parity.contracts.probes import Probe
from attention.parity.numerics.error_budget import Budget
from attention.parity.pretrained.models import RealLayer, check_installed, layers
from attention.parity.results.report import Report, Row
from attention.spec import cases
from attention.spec.dtypes import numpy_dtype
from attention.spec.errors import OptionError
from attention.spec.params import cast

RUNS = 16
"""Of a trained layer's budget: the least of 100,000 estimates from the usual 8 runs is far below the truth."""


@dataclass(frozen=True)
class Step:
    """One part of a run: a contract in one dtype, or a trained model. Another process can do it too."""

    name: str
    run: Callable[[], Report]


def plan(
    contracts: Sequence[str],
    models: Sequence[str],
    dtypes: Sequence[str] = ("float32",),
    backends: Sequence[str] = BACKENDS,
    implementation: str = "auto",
) -> list[Step]:
    """Return the steps of a run; every name is checked before the first step.

    Args:
        contracts: names of `spec.cases`, or "all".
        models: names of `pretrained.models`.
        dtypes: of the contracts' weights and inputs.
        backends: names of sides.
        implementation: "auto" or a kernel's name.

    Raises:
        UnknownName: no such contract, model, dtype or backend.
        MissingExtra: a backend or a model's package is not installed.
    """
    for backend in backends:
        _ = find(backend)
    for dtype in dtypes:
        _ = numpy_dtype(dtype)
    found = [cases.find(name) for name in (cases.CASES if "all" in contracts else contracts)]
    steps = [
        Step(f"{case.name}, {dtype}", partial(_check_case, case.name, dtype, tuple(backends), implementation))
        for case in found
        for dtype in dtypes
    ]
    for model in models:
        check_installed(model)
        steps.append(Step(model, partial(_check_model, model, tuple(backends), implementation)))
    return steps


def _check_case(name: str, dtype: str, backends: Sequence[str], implementation: str) -> Report:
    report = check(cases.find(name).contract, name=name, dtypes=(dtype,), backends=backends, implementation=implementation)
    return Report(report.rows)


def _check_model(name: str, backends: Sequence[str], implementation: str) -> Report:
    return sum((check_layer(layer, backends, implementation) for layer in layers(name)), Report())


def run(steps: Sequence[Step], jobs: int = 1) -> Iterator[tuple[Step, Report]]:
    """Yield each step with its report, as soon as it is there.

    Args:
        steps: of `plan`.
        jobs: how many processes share the work, each on one thread; 1 does all of it in this process, in order.

    Raises:
        OptionError: `jobs` < 1.
        AttentionError: what a step raised.
    """
    if jobs < 1:
        raise OptionError(f"jobs {jobs} must be at least 1")
    if jobs == 1 or len(steps) == 1:
        yield from ((step, step.run()) for step in steps)
        return
    # Neither framework outlives a fork, and threads of two processes on one core only wait for each other.
    others, context = multiprocessing.active_children(), multiprocessing.get_context("spawn")
    # An interrupt reaches every process of a terminal: this one ends the others.
    pool = ProcessPoolExecutor(min(jobs, len(steps)), context, signal.signal, (signal.SIGINT, signal.SIG_IGN))
    with _one_thread(), pool:
        # The longest steps, stacks of blocks and trained models, stand last in a plan, and must not be begun last.
        running = {pool.submit(step.run): step for step in [steps[0], *steps[:0:-1]]}
        try:
            for done in as_completed(running):
                yield running[done], done.result()
        except KeyboardInterrupt:
            for process in multiprocessing.active_children():
                if process not in others:
                    process.terminate()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _one_thread() -> Generator[None]:
    """Have the processes that begin meanwhile compute on one thread each, unless the user said how many."""
    names = [name for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS") if name not in os.environ]
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name in names:
            del os.environ[name]


def check_layer(layer: RealLayer, backends: Sequence[str] = BACKENDS, implementation: str = "auto") -> Report:
    """Return the report of one trained layer on what it saw, in float32 and float64.

    The backends stand beside transformers' own module of that layer; all are judged by the same oracle.

    Args:
        layer: of `pretrained.models.layers`.
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


def real_probe(layer: RealLayer, dtype: str) -> Probe:
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
