"""Compare the outputs of two whole models without a second copy of either.

    value = the torch model in float64        sigma = spread of perturbed runs        parameters widened one operation at a time

Through dozens of layers, real kernels lose a few times what the perturbed runs say. The model's own error in its own dtype
measures this factor: sigma is scaled by it, up to the limit at which the model would no longer agree with itself.
"""

# Modules come from users, with types that strict mode cannot know.
# pyright: standard

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from attention.parity.adapters.program import Arrays, Call
from attention.parity.blocks.instrumented_model import InstrumentedModel, Run
from attention.parity.compare.verdicts import broken
from attention.parity.numerics.array_kinds import is_float
from attention.parity.numerics.comparison import MOST_RMS, judge
from attention.parity.numerics.dtype_rounding import rounding
from attention.parity.numerics.error_budget import Budget, spread
from attention.parity.param_mapping import result_pairing
from attention.parity.results.report import Row
from attention.spec.errors import ShapeError, SideFailed

LARGE = 2**26
"""Parameters above which only two perturbed runs are made: along a row of logits they suffice."""


def whole(
    sides: tuple[InstrumentedModel, InstrumentedModel], labels: tuple[str, str], call: Call, runs: tuple[Run, Run], row: Row
) -> Iterator[Row]:
    """Yield a row for the outputs of each model.

    Args:
        sides: the first and the second model.
        labels: what the report calls them.
        call: the inputs.
        runs: what they made.
        row: what all rows have in common.
    """
    try:
        pairs = result_pairing.outputs(runs[0].outputs, runs[1].outputs, labels)
        index, found, told = budgeted(sides, call, runs)
    except SideFailed as error:
        yield replace(row, side=labels[1], failure=f"there is no budget: {error}", open=True)
        return
    except ShapeError as error:
        yield replace(row, side=labels[1], failure=str(error))
        return
    pairing = result_pairing.Pairing(pairs, None)
    facts = {"budget": f"{labels[index]} run in float64, {told}"}
    for of, (label, run) in enumerate(zip(labels, runs, strict=True)):
        values = pairing.onto(of, index, run.outputs, found.value)
        sigmas = pairing.onto(of, index, run.outputs, found.sigma)
        wide = {name: (got.astype(np.float64), wanted) for name, (got, wanted) in values.items()}
        verdicts = tuple(judge(name, got, wanted, sigmas[name][1]) for name, (got, wanted) in wide.items())
        failures = [each for name, (got, wanted) in wide.items() for each in broken(name, label, got, wanted)]
        reference = f"{labels[index]} in float64"
        yield replace(row, side=label, verdicts=verdicts, failure="; ".join(failures[:3]), facts=facts, reference=reference)


def budgeted(sides: tuple[InstrumentedModel, InstrumentedModel], call: Call, runs: tuple[Run, Run]) -> tuple[int, Budget, str]:
    """Return the number of the model that is the oracle, its float64 outputs with budgets by name, and their description.

    Raises:
        SideFailed: no model runs in float64.
    """
    index = next((i for i, side in enumerate(sides) if side.perturbs), 1)
    side, own = sides[index], runs[index].outputs
    if side.perturbs:
        try:
            value, sigma = _perturbed(side, call, _coarsest(runs))
        except SideFailed:
            # A program may require one dtype for all parameters.
            pass
        else:
            scaled = {name: sigma[name] * _lost(own[name], x, sigma[name]) for name, x in value.items()}
            return index, Budget(value, scaled), "each operation perturbed"
    return _own_error(sides, call, runs, index)


def _own_error(
    sides: tuple[InstrumentedModel, InstrumentedModel], call: Call, runs: tuple[Run, Run], first: int
) -> tuple[int, Budget, str]:
    """Return the float64 outputs of the first model that has any, its own error in its own dtype being the budget."""
    unit, reasons = rounding(_coarsest(runs)).unit, list[str]()
    for index in (first, 1 - first):
        try:
            value = _wide(sides[index].program.run(call, dtype="float64").outputs)
        except SideFailed as error:
            reasons.append(str(error))
            continue
        errors = {name: runs[index].outputs[name].astype(np.float64) - x for name, x in value.items()}
        sigma = {name: np.maximum(_row(errors[name]), unit * _row(x)) for name, x in value.items()}
        return index, Budget(value, sigma), "its own error in its own dtype being the budget"
    raise SideFailed(f"neither model runs in float64: {'; '.join(reasons)}")


def _perturbed(side: InstrumentedModel, call: Call, dtype: str) -> tuple[Arrays, Arrays]:
    unit = rounding(dtype)
    value = _wide(side.perturbed(call, None, unit))
    size = sum(x.size for x in side.program.params.values())
    draws = [np.random.default_rng((0, number)) for number in range(2 if size > LARGE else 8)]
    moved = [side.perturbed(call, each, unit) for each in draws]
    return value, {name: spread(x, *(each[name] for each in moved)) for name, x in value.items()}


def _lost(own: np.ndarray, value: np.ndarray, sigma: np.ndarray) -> float:
    """Return the RMS error of the model in its own dtype, in sigmas: at least 1, at most the limit of agreement."""
    rms = judge("", own.astype(np.float64), value, sigma).rms
    return min(max(rms, 1.0), MOST_RMS)


def _wide(arrays: Arrays) -> Arrays:
    return {name: x.astype(np.float64) for name, x in arrays.items()}


def _row(x: np.ndarray) -> np.ndarray:
    """Return the RMS along the last axis, for each of its elements."""
    finite = np.where(np.isfinite(x), x, 0.0).astype(np.float64)
    return np.broadcast_to(np.sqrt(np.mean(finite**2, axis=-1, keepdims=True)), x.shape) if x.ndim else np.abs(finite)


def _coarsest(runs: tuple[Run, Run]) -> str:
    names = {str(x.dtype) for run in runs for x in run.outputs.values() if is_float(x)}
    return max(names or {"float32"}, key=lambda name: rounding(name).unit)
