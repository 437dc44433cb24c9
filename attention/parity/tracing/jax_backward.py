"""Traceable functions of named arrays: the forward pass of a JAX program, and forward and backward pass in one.

forward(arrays) = outputs        both(arrays, cotangents) = outputs, gradients as "d NAME"
"""

# JAX leaves the types of its arrays unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from attention.parity.adapters.jax_program import JaxProgram
from attention.parity.adapters.program import Arrays, Call
from attention.parity.numerics.array_kinds import is_float

Array = Any


def forward_of(program: JaxProgram, learned: Arrays, call: Call) -> Callable[[dict[str, Array]], dict[str, Array]]:
    """Return the program as a function of named arrays."""

    def forward(arrays: dict[str, Array]) -> dict[str, Array]:
        filled = call.map(arrays.get)
        return program.outputs(program.pure({name: arrays[name] for name in learned}, filled.args, filled.kwargs))

    return forward


def with_gradients(
    forward: Callable[..., dict[str, Array]], given: Arrays, reached: list[str]
) -> Callable[..., dict[str, Array]]:
    """Return the program that also returns the gradient of every float array, as "d NAME"."""
    floats = [name for name, x in given.items() if is_float(x)]

    def both(arrays: dict[str, Array]) -> dict[str, Array]:
        rest = {name: arrays[name] for name in given if name not in floats}

        def reach(values: dict[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
            made = forward({**rest, **values})
            return {name: made[name] for name in reached}, made

        made, pull_back, everything = jax.vjp(reach, {name: arrays[name] for name in floats}, has_aux=True)
        weights = {name: jnp.asarray(arrays[f"cotangent of {name}"], x.dtype) for name, x in made.items()}
        [gradients] = pull_back(weights)
        return {**everything, **{f"d {name}": x for name, x in gradients.items()}}

    return both
