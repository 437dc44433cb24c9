"""The check: every probe of a contract, on every side, against the oracle's budget.

    for each probe:  (values, sigma) = budget(oracle and its gradients)        judge(side.run(probe), values, sigma)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attention.parity import sides
from attention.parity.budget import Budget, budget, differentiated, stored, stored_gradient
from attention.parity.compare import Verdict, judge
from attention.parity.probes import Probe, probes
from attention.parity.report import Report, Row
from attention.spec.axes import COMPUTE
from attention.spec.errors import KernelRefused
from attention.spec.layers.multi_head import MultiHeadAttention
from attention.spec.layers.oracle import Setting, oracle, settle

STORED = {"q_proj", "k_proj", "v_proj", "out_proj", "rotated", "context"}
"""What a layer writes down in the dtype of its weights, whatever the kernel."""

STAGES = ("output", "weights", "logsumexp")


ROUNDS = ("weights", "d scores", "logsumexp")
"""What a kernel may round on purpose: see `Kernel.rounds`."""


@dataclass(frozen=True)
class LayerProgram:
    """The oracle as a JAX program, with marks where a real one rounds. Layers that differ in mask alone are equal."""

    contract: MultiHeadAttention

    def __call__(self, weights: Any, inputs: Any, constants: tuple[Any, ...], rounds: Any) -> dict[str, Any]:
        """Return the output, weights and logsumexp of the layer; `rounds` says of each of `ROUNDS` whether it applies."""
        setting = Setting(*jax.tree.map(jax.lax.stop_gradient, constants))
        weights, inputs = ({name: stored_gradient(x) for name, x in group.items()} for group in (weights, inputs))
        mark = partial(_mark, rounds)
        formula = partial(oracle, self.contract, jnp, weights, inputs, setting, constant=jax.lax.stop_gradient, mark=mark)
        stages, again = formula(), formula(recompute=True)
        for name in ("output", "weights"):
            backward = jnp.where(rounds["logsumexp"], again[name], stages[name])
            stages[name] = _value_of(stages[name], backward)
        return {name: stages[name] for name in STAGES}


def _mark(rounds: Any, stage: str, x: Any) -> Any:
    """Round a stage where a program in low precision does. The choice is exact, so one program serves all kernels."""
    if stage in STORED:
        return stored(x)
    if stage == "input":
        return stored_gradient(x)
    if stage in rounds and stage != "logsumexp":
        return jnp.where(rounds[stage], stored(x), x)
    return jnp.where(rounds[f"d {stage}"], stored_gradient(x), x) if f"d {stage}" in rounds else x


def _value_of(forward: Any, backward: Any) -> Any:
    """Return the value and the rounding errors of `forward`, with the gradient of `backward`."""
    return jax.lax.stop_gradient(forward) + (backward - jax.lax.stop_gradient(backward))


def expect(probe: Probe, rounds: tuple[str, ...] = (), runs: int = 8) -> Budget:
    """Return what a correct program makes of a probe, and how far it may stray: dicts by result name.

    Args:
        probe: the call.
        rounds: stages that the kernel rounds to the dtype of its inputs.
        runs: of the Monte Carlo arithmetic.
    """
    contract, sizes = probe.contract, probe.sizes
    setting = settle(contract, sizes, **probe.call())
    allowed = np.ones(sizes.scores, bool) if setting.allowed is None else setting.allowed
    # Every probe of one shape is given the same arguments, so that all masks, biases and positions share one compilation.
    inputs = {**probe.arrays, "bias": probe.arrays.get("bias", np.zeros(sizes.scores))}
    constants = (allowed, setting.query_table, setting.key_table, setting.keep)
    shapes = {"output": (*sizes.batch, sizes.T, contract.embed_dim), "weights": sizes.scores, "logsumexp": sizes.scores[:-1]}
    cotangents = {name: probe.cotangents.get(name, np.zeros(shape)).astype(np.float64) for name, shape in shapes.items()}
    # Where storage is no coarser than arithmetic, writing a stage down changes nothing, and is not counted twice.
    coarse = COMPUTE[probe.dtype] != probe.dtype
    flags = {name: np.bool_(name in rounds and (coarse or name == "logsumexp")) for name in ROUNDS}
    made = budget(
        differentiated(LayerProgram(replace(contract, mask=None, precision=None))),
        ((probe.weights, inputs, constants, flags), cotangents),
        dtype=COMPUTE[probe.dtype],
        storage=probe.dtype,
        runs=runs,
    )
    return Budget(_named(made.value, probe), _named(made.sigma, probe))


def _named(tree: Any, probe: Probe) -> dict[str, np.ndarray]:
    """Return the results that the probe has, by the names that sides use."""
    outputs, (d_weights, d_inputs, *_) = tree
    gradients = {**{name: d_inputs[name] for name in probe.arrays}, **d_weights}
    return {
        **{name: outputs[name] for name in ("output", *probe.stages)},
        **{f"d {name}": gradient for name, gradient in gradients.items()},
    }


def verdicts(results: Mapping[str, np.ndarray], expected: Budget) -> tuple[Verdict, ...]:
    """Return a verdict on every result of a side that the oracle knows."""
    return tuple(judge(name, got, expected.value[name], expected.sigma[name]) for name, got in results.items())


def check_probe(
    subject: str,
    probe: Probe,
    backends: Iterable[str] = sides.BACKENDS,
    implementation: str = "auto",
    facts: Mapping[str, Any] | None = None,
) -> list[Row]:
    """Return a row for every side that ran the probe, or why its kernel refused.

    Args:
        subject: what the report calls the contract.
        probe: the call.
        backends: names of sides.
        implementation: "auto" or a kernel's name.
        facts: what else the report shall say.
    """
    rows: list[Row] = []
    expected: dict[tuple[str, ...], Budget] = {}
    for backend in backends:
        side = sides.find(backend)
        row = Row(subject, probe.name, backend, "", probe.dtype, facts=dict(facts or {}))
        try:
            kernel, rounds = side.kernel(probe, implementation)
        except KernelRefused as refusal:
            rows.append(replace(row, kernel=implementation, refusal=str(refusal)))
            continue
        if rounds not in expected:
            expected[rounds] = expect(probe, rounds)
        found = verdicts(side.run(probe, implementation), expected[rounds])
        rows.append(replace(row, kernel=kernel, verdicts=found))
    return rows


def check(
    contract: MultiHeadAttention,
    *,
    name: str = "contract",
    dtypes: Iterable[str] = ("float32",),
    backends: Iterable[str] = sides.BACKENDS,
    implementation: str = "auto",
    progress: Callable[[str], object] = lambda _: None,
) -> Report:
    """Return the report of every probe of a contract: outputs and gradients of both backends against the oracle.

    Args:
        contract: the layer.
        name: what the report calls it.
        dtypes: of weights and inputs.
        backends: names of sides: "torch", "jax", "numpy".
        implementation: "auto" or a kernel's name.
        progress: told of each probe before it runs.

    Raises:
        UnknownName: no such dtype, backend or kernel.
        MissingExtra: a backend's framework is not installed.
    """
    rows: list[Row] = []
    for dtype in dtypes:
        for probe in probes(contract, dtype):
            _ = progress(f"{name}, {dtype}, {probe.name}")
            rows += check_probe(name, probe, backends, implementation)
    return Report(tuple(rows))
