"""Error budgets: how far a correct program may stray from the same mathematics in float64.

    sigma = RMS over runs of (perturbed - unperturbed), at least 0.3 times its own RMS along the last axis (0.7 in large arrays)

A program is traced once in float64 and its jaxpr interpreted: every result is perturbed as if it had been rounded (see
`stochastic_rounding`). Unperturbed, the same interpreter is the oracle.

References:
    Parker, Monte Carlo Arithmetic, 1997. Higham and Mary, SIAM J. Sci. Comput. 41, 2019: why sums grow so slowly.
"""

# JAX leaves the types of its arrays and equations unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attention.parity.numerics.array_kinds import concrete, is_complex, is_float, is_key, widened
from attention.parity.numerics.dtype_rounding import rounding
from attention.parity.numerics.stochastic_rounding import Spreads, StochasticRounding
from attention.spec.errors import DTypeError, OptionError, shown
from attention.spec.options import SEED, SWITCH, takes_arguments, whole

Array = Any
Tree = Any
Program = Callable[..., Tree]


@dataclass(frozen=True)
class _Differentiated:
    # A dataclass and not a closure: two of the same program are equal and share one trace.
    program: Program

    def __call__(self, arguments: tuple[Tree, ...], cotangents: Tree) -> tuple[Tree, Tree]:
        leaves, structure = jax.tree.flatten(arguments)
        floats = [i for i, leaf in enumerate(leaves) if is_float(leaf)]

        def program(*values: Array) -> Tree:
            filled = dict(zip(floats, values, strict=True))
            return self.program(*structure.unflatten([filled.get(i, leaf) for i, leaf in enumerate(leaves)]))

        outputs, pull_back = jax.vjp(program, *(leaves[i] for i in floats))
        cotangents = jax.tree.map(lambda c, o: jnp.asarray(c, o.dtype), cotangents, outputs)
        gradients = dict(zip(floats, pull_back(cotangents), strict=True))
        return outputs, structure.unflatten([gradients.get(i) for i in range(len(leaves))])


def differentiated(program: Program) -> Program:
    """Return the program `(arguments, cotangents) -> (outputs, gradients)`, whose budget covers the backward pass.

        budget(differentiated(program), (arguments, cotangents), dtype="float32")

    Args:
        program: `program(*arguments)` returns a pytree of float arrays.

    Returns:
        A program of two arguments: the tuple `arguments`, and `cotangents` shaped as its outputs. `gradients` is
        shaped as `arguments`, with None in place of every integer or bool, which are constants.
    """
    return _Differentiated(program)


@dataclass(frozen=True)
class Budget:
    """The oracle's results and their error budget.

    Args:
        value: the float64 results, a pytree of NumPy arrays.
        sigma: one standard deviation of each element's rounding error, shaped and in units as `value`. 0 where nothing
            is rounded or `value` is not finite; NaN where a perturbed run broke down, for which there is no budget.
    """

    value: Tree
    sigma: Tree


def budget(
    program: Program,
    arguments: tuple[Tree, ...],
    *,
    dtype: str,
    storage: str | None = None,
    runs: int = 8,
    seed: int = 0,
    casts: bool = False,
) -> Budget:
    """Return the float64 results of a program and how far correct rounding may move each of them.

        >>> budget(lambda x: x + 1, (np.zeros(3, np.float32),), dtype="float32").value
        array([1., 1., 1.])

    Args:
        program: hashable; `program(*arguments)` is traceable by JAX and returns a pytree of float arrays. An equal
            program with the same shapes is traced once, whatever the dtype. Where it narrows floats they stay
            float64: say `stored` there. A kernel that JAX cannot see into counts as one rounding.
        arguments: a tuple of pytrees. Floats are given bits, upcast exactly; integers and bools stay as they are. All
            are traced: what must be static belongs in the program.
        dtype: the name of the dtype that the program computes in, a key of `ROUNDINGS`.
        storage: the name of the dtype at `stored` and `stored_gradient`; `dtype` if None.
        runs: number of perturbed runs, at least 1. The relative error of sigma is about 1 / sqrt(2 runs).
        seed: a non-negative int. The same seed gives the same budget.
        casts: whether what the program casts to bfloat16 or float16 is rounded as those are, forward and backward.

    Raises:
        DTypeError: an unknown dtype name, or an argument that is neither a number, a bool nor a random key.
        OptionError: `arguments` is no tuple, `runs` < 1 or `seed` < 0.
    """
    _check(program, arguments, runs, seed)
    SWITCH.check("casts", casts)
    units = np.asarray([(r.unit, r.floor) for r in (rounding(dtype), rounding(dtype if storage is None else storage))])
    arguments = jax.tree.map(_upcast, arguments)
    leaves, structure = jax.tree.flatten(arguments)
    # Always the CPU, so that a seed gives the same budget on every machine.
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]), np.errstate(all="ignore"):
        jaxpr, outputs = _traced(program, structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves))

        spreads = Spreads()

        def run(draws: np.random.Generator | None) -> Tree:
            return outputs.unflatten(StochasticRounding(draws, units, spreads, casts=casts).run(jaxpr, leaves))

        value = run(None)
        perturbed = [run(np.random.Generator(np.random.SFC64((seed, number)))) for number in range(runs)]
        return Budget(value, jax.tree.map(spread, value, *perturbed))


@lru_cache(maxsize=256)
def _traced(program: Program, structure: Any, leaves: tuple[tuple[tuple[int, ...], Any], ...]) -> tuple[Any, Any]:
    """Return the jaxpr of a program, and the structure of its outputs. Equal programs of one shape are traced once."""
    arguments = structure.unflatten([jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in leaves])
    jaxpr, outputs = jax.make_jaxpr(program, return_shape=True)(*arguments)
    return jaxpr, jax.tree.structure(outputs)


def _check(program: Any, arguments: Any, runs: Any, seed: Any) -> None:
    if not isinstance(arguments, tuple):
        raise OptionError(f"arguments {type(arguments).__name__} must be a tuple")
    if not takes_arguments(program, len(arguments)):
        raise OptionError(f"program {shown(program)} must be a function of {len(arguments)} arguments")
    whole(1, 2**16, wanted="an int >= 1").check("runs", runs)
    SEED.check("seed", seed)


def _upcast(leaf: Any) -> Array:
    array = concrete(leaf)
    if is_key(array):
        return array
    if array.dtype.kind not in "biu" and not is_float(array) and not is_complex(array):
        raise DTypeError(f"arguments {array.dtype} must be numbers, bools or random keys")
    return widened(array)


MANY = 2**16
"""Arrays of so many elements have some whose spread is small by chance in every run: their floor is higher."""


def spread(value: Array, *perturbed: Array) -> Array:
    """Return the spread of the perturbed values, shaped as `value`."""
    return spread_of(reduce(np.hypot, (moved(value, each) for each in perturbed)), len(perturbed))


def moved(value: Array, perturbed: Array) -> Array:
    """Return the change of each element in one run. `np.hypot` adds these up, because the square of 1e-200 is 0."""
    with np.errstate(invalid="ignore"):
        gap = perturbed - value
    # -inf - -inf is NaN, yet a score that is masked in every run has not moved.
    return np.abs(np.where(np.isfinite(value), np.where(np.isfinite(gap), gap, np.nan), 0.0))


def spread_of(total: Array, runs: int) -> Array:
    """Return the spread from the root of the sum of squares of what `runs` runs moved."""
    sigma = total / math.sqrt(runs)
    if not sigma.size or not sigma.ndim:
        return np.asarray(sigma)
    # A spread that is small by chance in every run is no more exact than its neighbours. Of a thousand elements, one comes out
    # below 0.33 in eight runs; of the logits of a language model, hundreds would be at a floor of 0.3, and three sigma be 10.
    floor = 0.3 if sigma.size < MANY else 0.7
    return np.maximum(sigma, floor * np.hypot.reduce(sigma, axis=-1, keepdims=True) / math.sqrt(sigma.shape[-1]))
