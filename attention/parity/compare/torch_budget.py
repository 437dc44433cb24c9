"""Rounding budget of a torch program: it runs in float64 under a mode that rounds every operation at random.

value = run without noise        sigma = spread of 8 runs with it        by name
"""

# torch leaves many of its types unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

import numpy as np

from attention.parity.adapters import Arrays, Call, Program
from attention.parity.adapters.torch_program import TorchProgram, same_draws
from attention.parity.numerics.array_kinds import is_float
from attention.parity.numerics.dtype_rounding import Rounding, rounding
from attention.parity.numerics.error_budget import Budget, moved, spread_of
from attention.parity.numerics.stochastic_rounding_torch import noisy
from attention.spec.errors import SideFailed

LARGE = 2**24
"""Parameters from which on no copy of them in float64 is made, where there are no gradients."""


def perturbed(program: Program, call: Call, params: Arrays, cotangents: Arrays | None, *, dtype: str, runs: int = 8) -> Budget:
    """Return what a program makes in float64 and how far correct rounding may move it: dicts by name.

    Args:
        program: a TorchProgram.
        call: the inputs, whose bits are given.
        params: by the program's names.
        cotangents: by the names of outputs; None asks for no gradients.
        dtype: the dtype whose rounding is counted.
        runs: of the Monte Carlo arithmetic.
    """
    assert isinstance(program, TorchProgram)  # noqa: S101 - for the type checker
    unit = rounding(dtype)

    def run(draws: np.random.Generator | None, *, narrow: bool) -> Arrays:
        return _results(program, call, params, cotangents, draws, unit, narrow=narrow)

    narrow = cotangents is None and sum(x.size for x in params.values()) > LARGE
    try:
        value = run(None, narrow=narrow)
    except SideFailed:
        # A program may look at the dtype of its parameters, and refuse operands of two.
        if not narrow:
            raise
        narrow, value = False, run(None, narrow=False)
    total: Arrays = {}
    for number in range(runs):
        made = run(np.random.default_rng((0, number)), narrow=narrow)
        for name, x in value.items():
            # Taken out of the run, so that the gradients of one run alone are held.
            gap = moved(x, made.pop(name))
            total[name] = np.hypot(total[name], gap) if name in total else gap
    return Budget(value, {name: spread_of(x, runs) for name, x in total.items()})


def _results(
    program: TorchProgram,
    call: Call,
    params: Arrays,
    cotangents: Arrays | None,
    draws: np.random.Generator | None,
    unit: Rounding,
    *,
    narrow: bool = False,
) -> Arrays:
    """Return the outputs and gradients of one run. The backward pass of the CPU runs in this thread, and so in the mode too.

    Args:
        program: the user's.
        call: the inputs.
        params: by name.
        cotangents: by the names of outputs; None asks for no gradients.
        draws: of the noise; None makes none.
        unit: the rounding that is counted.
        narrow: whether parameters stay in their own dtype, to be widened by each operation that uses them: exactly what a
            copy in float64 would give, in half of its memory.
    """
    if narrow:
        call = call.map(lambda _, leaf: leaf.astype(np.float64) if isinstance(leaf, np.ndarray) and is_float(leaf) else leaf)
    bound = program.bind(call, params, None if narrow else "float64")
    with same_draws(program.devices), noisy(draws, unit):
        outputs = bound.outputs()
        gradients = {} if cotangents is None else bound.gradients(outputs, cotangents)
    return {name: x.detach().cpu().double().numpy() for name, x in {**outputs, **gradients}.items()}
