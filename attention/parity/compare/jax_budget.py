"""Rounding budget of a JAX program: its jaxpr is evaluated in float64 with every operation perturbed.

value, sigma = budget(differentiated(program), ((params, args, kwargs), cotangents))        by name
"""

# JAX leaves the types of its arrays unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attention.parity.adapters import Arrays, Call
from attention.parity.adapters.jax_program import JaxProgram, leaves
from attention.parity.numerics.array_kinds import is_float
from attention.parity.numerics.error_budget import Budget, budget, differentiated


@dataclass(frozen=True)
class _Outputs:
    """The outputs of a program by name, all of them floats.

    Args:
        program: the user's.
        narrow: the dtype in which it is traced; "" for that of its arguments. A program that says float32 of some arrays and
            is given float64 for others may not fit together; traced in float32, it is evaluated in float64 all the same.
    """

    # A dataclass and no closure: two of the same program are equal, so they share one trace.
    program: JaxProgram
    narrow: str = ""

    def __call__(self, *arguments: Any) -> dict[str, Any]:
        if not self.narrow:
            return self._run(*arguments)
        arguments = jax.tree.map(lambda x: jnp.asarray(x, self.narrow) if is_float(x) else x, arguments)
        with jax.enable_x64(False):
            return self._run(*arguments)

    def _run(self, *arguments: Any) -> dict[str, Any]:
        outputs = self.program.results(*arguments)
        # Integers become floats, through which no gradient flows, so that they too are compared.
        return {name: jnp.asarray(x, x.dtype if is_float(x) else float) for name, x in outputs.items()}


def traced(
    program: JaxProgram,
    call: Call,
    params: Arrays,
    cotangents: Arrays | None,
    *,
    dtype: str,
    narrow: str = "",
    runs: int = 8,
    casts: bool = False,
) -> Budget:
    """Return what a program makes in float64 and how far correct rounding may move it: dicts by name.

    Args:
        program: the user's.
        call: the inputs, whose bits are given.
        params: by the program's names.
        cotangents: by the names of outputs; None asks for no gradients.
        dtype: the dtype whose rounding is counted.
        narrow: the dtype in which it is traced; "" for float64.
        runs: of the Monte Carlo arithmetic.
        casts: whether what the program casts to bfloat16 or float16 is rounded as those are.
    """
    subject: Any = _Outputs(program, narrow)
    arguments: tuple[Any, ...] = program.arguments(call, params)
    if cotangents is None:
        return budget(subject, arguments, dtype=dtype, runs=runs, casts=casts)
    with jax.enable_x64(not narrow):
        shapes = jax.eval_shape(subject, *arguments)
    weights = {name: np.asarray(cotangents.get(name, np.zeros(x.shape)), np.float64) for name, x in shapes.items()}
    made = budget(differentiated(subject), (arguments, weights), dtype=dtype, runs=runs, casts=casts)
    return Budget(_named(made.value), _named(made.sigma))


def _named(tree: Any) -> Arrays:
    """Return outputs and gradients by name, as programs name them."""
    outputs, (params, args, kwargs) = tree
    return {**outputs, **{f"d {name}": x for name, x in {**params, **leaves(Call(args, kwargs))}.items()}}
