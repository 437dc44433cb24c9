"""The outputs of two whole models, judged without a second copy of either.

value = the torch model in float64        sigma = spread of perturbed runs        parameters widened one operation at a time
"""

# pyright: standard

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from attention.parity.adapters.program import Call
from attention.parity.blocks.recorded_side import Run, Side
from attention.parity.blocks.torch_side import TorchSide
from attention.parity.compare.verdicts import broken
from attention.parity.numerics.comparison import judge
from attention.parity.numerics.error_budget import Budget, rounding, spread
from attention.parity.numerics.jaxpr_interpreter import is_float
from attention.parity.param_mapping import result_pairing
from attention.parity.results.report import Row
from attention.spec.errors import ShapeError, SideFailed

LARGE = 2**26
"""Parameters above which two perturbed runs must do: the budget of a row of elements is then as good as that of eight."""


def whole(sides: tuple[Side, Side], labels: tuple[str, str], call: Call, runs: tuple[Run, Run], row: Row) -> Iterator[Row]:
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
        index, found = budgeted(sides, call, runs)
    except (ShapeError, SideFailed) as error:
        yield replace(row, side=labels[1], failure=str(error))
        return
    pairing = result_pairing.Pairing(pairs, None)
    for of, (label, run) in enumerate(zip(labels, runs, strict=True)):
        values = pairing.onto(of, index, run.outputs, found.value)
        sigmas = pairing.onto(of, index, run.outputs, found.sigma)
        wide = {name: (got.astype(np.float64), wanted) for name, (got, wanted) in values.items()}
        verdicts = tuple(judge(name, got, wanted, sigmas[name][1]) for name, (got, wanted) in wide.items())
        failures = [each for name, (got, wanted) in wide.items() for each in broken(name, label, got, wanted)]
        facts = {"budget": f"{labels[index]} run in float64, each operation perturbed"}
        yield replace(row, side=label, verdicts=verdicts, failure="; ".join(failures[:3]), facts=facts)


def budgeted(sides: tuple[Side, Side], call: Call, runs: tuple[Run, Run]) -> tuple[int, Budget]:
    """Return which model is the oracle, and its float64 outputs and their budget by name.

    Raises:
        SideFailed: neither is a torch model, or it does not run in float64.
    """
    for index, side in enumerate(sides):
        if isinstance(side, TorchSide):
            unit = rounding(_coarsest(runs))
            value = side.perturbed(call, None, unit)
            size = sum(x.size for x in side.program.params.values())
            draws = [np.random.default_rng((0, number)) for number in range(2 if size > LARGE else 8)]
            moved = [side.perturbed(call, each, unit) for each in draws]
            wide = {name: x.astype(np.float64) for name, x in value.items()}
            return index, Budget(wide, {name: spread(x, *(each[name] for each in moved)) for name, x in wide.items()})
    raise SideFailed("the whole models are compared with the float64 run of a torch model, and neither of them is one")


def _coarsest(runs: tuple[Run, Run]) -> str:
    names = {str(x.dtype) for run in runs for x in run.outputs.values() if is_float(x)}
    return max(names or {"float32"}, key=lambda name: rounding(name).unit)
