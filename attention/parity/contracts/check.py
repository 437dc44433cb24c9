"""Check a contract: every probe, on every backend, against the oracle's error budget.

for each probe:  (values, sigma) = budget(oracle and its gradients)        judge(backend.run(probe), values, sigma)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from attention.parity.contracts.backends import BACKENDS, BackendRun, find
from attention.parity.contracts.probes import Probe, check_contract, probes
from attention.parity.numerics.comparison import Verdict, judge
from attention.parity.numerics.dtype_rounding import rounding
from attention.parity.numerics.error_budget import Budget, budget, differentiated
from attention.parity.numerics.rounding_sites import ROUNDS, LayerProgram
from attention.parity.results import provenance
from attention.parity.results.report import Report, Row
from attention.spec.axes import COMPUTE
from attention.spec.errors import KernelRefused
from attention.spec.layers.contract import Contract
from attention.spec.options import ITERABLE, MAPPING, TEXT, checked, function_of, instance, whole

BUDGET = instance(Budget, wanted="a Budget")
PROBE = instance(Probe, wanted="a Probe, as `probes` returns them")
RUNS = whole(1, 2**16)
AGAIN = 64
"""Runs of the budget that a failing array is judged by: 8 may miss what rounding does to a saturated row one time in ten."""


@checked(probe=PROBE, rounds=ITERABLE, runs=RUNS)
def expect(probe: Probe, rounds: tuple[str, ...] = (), runs: int = 8) -> Budget:
    """Return the results of a correct program on a probe, and their error budget: dicts by result name.

    Args:
        probe: the call.
        rounds: intermediates that the kernel rounds to the dtype of its inputs.
        runs: of the Monte Carlo arithmetic.
    """
    # Rounding is linear in the unit: the budget of float64 is that of float32, scaled. Its own would be the oracle's rounding.
    if probe.dtype == "float64":
        return as_float64(expect(replace(probe, dtype="float32"), rounds, runs))
    contract = probe.contract
    # Probes of one shape have the same arguments, so that all masks, biases and positions share one compilation.
    arrays = {**{name: np.zeros(shape) for name, shape in contract.optional(probe.arrays).items()}, **probe.arrays}
    shapes = contract.results(probe.arrays)
    cotangents = {name: probe.cotangents.get(name, np.zeros(shape)).astype(np.float64) for name, shape in shapes.items()}
    flags = {name: np.bool_(name in counted(probe.dtype, rounds)) for name in ROUNDS}
    made = budget(
        differentiated(LayerProgram(contract.unresolved(), tuple(shapes))),
        ((probe.weights, arrays, contract.resolve(probe.arrays, **probe.call()), flags), cotangents),
        dtype=COMPUTE[probe.dtype],
        storage=probe.dtype,
        runs=runs,
    )
    return Budget(_named(made.value, probe), _named(made.sigma, probe))


def counted(dtype: str, rounds: tuple[str, ...]) -> tuple[str, ...]:
    """Return the intermediates whose rounding by a kernel moves its results: budgets that differ in others are one.

    Where storage is no coarser than arithmetic, writing an intermediate down changes nothing; a kept logsumexp does in every
    dtype.
    """
    coarse = COMPUTE[dtype] != dtype
    return tuple(name for name in ROUNDS if name in rounds and (coarse or name == "logsumexp"))


def as_float64(expected: Budget) -> Budget:
    """Return the budget of a float64 program from that of a float32 one on the same numbers."""
    finer = rounding("float64").unit / rounding("float32").unit
    return Budget(expected.value, {name: sigma * finer for name, sigma in expected.sigma.items()})


def _named(tree: Any, probe: Probe) -> dict[str, np.ndarray]:
    """Return the results that the probe has, by the names of the backends' results."""
    outputs, (d_weights, d_inputs, *_) = tree
    gradients = {**{name: d_inputs[name] for name in probe.arrays}, **d_weights}
    return {
        **{name: outputs[name] for name in (*probe.contract.outputs, *probe.intermediates)},
        **{f"d {name}": gradient for name, gradient in gradients.items()},
    }


def verdicts(results: Mapping[str, np.ndarray], expected: Budget) -> tuple[Verdict, ...]:
    """Return a verdict on every result that the oracle has too."""
    return tuple(judge(name, got, expected.value[name], expected.sigma[name]) for name, got in results.items())


def judged(probe: Probe, ran: BackendRun, budgets: Callable[[Probe, tuple[str, ...]], Budget] = expect) -> tuple[Verdict, ...]:
    """Return a verdict on every result of a backend; if one fails, by a budget of more runs.

    Args:
        probe: the call.
        ran: the results of the backend.
        budgets: returns `expect(probe, rounds)`, perhaps cached.
    """
    found = verdicts(ran.results, budgets(probe, ran.rounds))
    if all(verdict.agrees for verdict in found):
        return found
    return verdicts(ran.results, expect(probe, ran.rounds, AGAIN))


@checked(
    subject=TEXT,
    probe=PROBE,
    backends=ITERABLE,
    implementation=TEXT,
    facts=MAPPING | ", or None",
    expected=function_of(2) | ", or None",
)
def check_probe(
    subject: str,
    probe: Probe,
    backends: Iterable[str] = BACKENDS,
    implementation: str = "auto",
    facts: Mapping[str, Any] | None = None,
    expected: Callable[[Probe, tuple[str, ...]], Budget] | None = None,
) -> list[Row]:
    """Return a row for every backend: its verdicts, or why its kernel refused.

    Args:
        subject: what the report calls the contract.
        probe: the call.
        backends: their names.
        implementation: "auto" or a kernel's name.
        facts: further facts for the report.
        expected: returns the budget of a probe and a kernel's roundings; `expect` if None.
    """
    rows: list[Row] = []
    made = cache(expected or expect)

    def budgets(probe: Probe, rounds: tuple[str, ...]) -> Budget:
        budget = made(probe, counted(probe.dtype, rounds))
        BUDGET.check("expected result", budget)
        return budget

    for backend in backends:
        side = find(backend)
        # The contract of a probe sets this precision, whatever the flags of the frameworks.
        known = {"weights": provenance.digest(probe.weights), "matmul precision": "highest", **(facts or {})}
        row = Row(subject, probe.name, backend, "", probe.dtype, facts=known)
        try:
            ran = side.run(probe, implementation)
        except KernelRefused as refusal:
            rows.append(replace(row, kernel=implementation, refusal=str(refusal)))
            continue
        found = judged(probe, ran, budgets) if expected is None else verdicts(ran.results, budgets(probe, ran.rounds))
        rows.append(replace(row, kernel=ran.kernel, verdicts=found))
    return rows


@checked(name=TEXT, dtypes=ITERABLE, backends=ITERABLE, implementation=TEXT, progress=function_of(1))
def check(
    contract: Contract,
    *,
    name: str = "contract",
    dtypes: Iterable[str] = ("float32",),
    backends: Iterable[str] = BACKENDS,
    implementation: str = "auto",
    progress: Callable[[str], object] = lambda _: None,
) -> Report:
    """Return the report of every probe of a contract: outputs and gradients of both backends against the oracle.

    Args:
        contract: the layer.
        name: its name in the report.
        dtypes: of weights and inputs.
        backends: their names: "torch", "jax", "numpy".
        implementation: "auto" or a kernel's name.
        progress: called with the name of each probe before it runs.

    Raises:
        UnknownName: no such dtype, backend or kernel.
        MissingExtra: a backend's framework is not installed.
    """
    check_contract(contract)
    rows: list[Row] = []
    for dtype in dtypes:
        for probe in probes(contract, dtype):
            _ = progress(f"{name}, {dtype}, {probe.name}")
            rows += check_probe(name, probe, backends, implementation)
    return Report(tuple(rows), advice="parity.check(contract, backends=('jax_eager', 'torch')): is it the compilation?")
