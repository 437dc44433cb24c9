"""Error budgets: how far a correct program may stray from the same mathematics in float64.

    sigma = RMS over runs of (perturbed - unperturbed), at least 0.3 times its own RMS along the last axis
    perturbed result = o + max(spread, min(|o|, floor)) / sqrt(3) * xi,   xi ~ N(0, 1)

    spread = 0                                        exact results: a move, a choice, a comparison, a sign
    spread = u |o|                                    add, mul, div, tanh, ...
    spread = 1.5 u |o|                                exp, log
    spread = u sqrt(log2(n) sum (a_k b_k)^2 + o^2)    a sum of n terms or products

A program is traced once in float64 and its jaxpr interpreted: every result is perturbed as if it had been rounded.
u is the unit roundoff of the compute dtype, or of the storage dtype where the program says `stored`; below floor a
result may underflow. Both are arguments of the compiled code, so it serves every dtype; with both 0 it is the oracle.

References:
    Parker, Monte Carlo Arithmetic, 1997. Higham and Mary, SIAM J. Sci. Comput. 41, 2019: why sums grow so slowly.
"""

# JAX leaves the types of its arrays and equations unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive, Var
from jax.interpreters import ad, batching, mlir

from attention.spec.errors import DTypeError, OptionError

Array = Any
Tree = Any
Program = Callable[..., Tree]


@dataclass(frozen=True)
class Rounding:
    """How a dtype rounds.

    Args:
        unit: unit roundoff, half the distance from 1 to the next number.
        tiny: smallest normal number.
        gradual: whether every machine keeps results below `tiny` as subnormals; if not, some flush them to zero.
    """

    unit: float
    tiny: float
    gradual: bool = False

    @property
    def floor(self) -> float:
        """The absolute error that a result near zero may have."""
        return self.unit * self.tiny if self.gradual else self.tiny


# XLA flushes float32 and bfloat16 subnormals on CPU and TPU; those of float16 begin where attention weights live.
ROUNDINGS = {
    "float64": Rounding(2.0**-53, 2.0**-1022),
    "float32": Rounding(2.0**-24, 2.0**-126),
    "tensorfloat32": Rounding(2.0**-11, 2.0**-126),
    "bfloat16": Rounding(2.0**-8, 2.0**-126),
    "float16": Rounding(2.0**-11, 2.0**-14, gradual=True),
}


def rounding(dtype_name: str) -> Rounding:
    """Return how the dtype of this name rounds.

    Raises:
        DTypeError: the name is not one of `ROUNDINGS`.
    """
    if dtype_name not in ROUNDINGS:
        raise DTypeError(f"dtype {dtype_name!r} must be one of {', '.join(ROUNDINGS)}")
    return ROUNDINGS[dtype_name]


_stored = Primitive("stored")
_stored.def_impl(lambda x, **_: x)
_stored.def_abstract_eval(lambda x, **_: x)
batching.defvectorized(_stored)
mlir.register_lowering(_stored, lambda _context, x, **_: [x])


def _stored_transpose(cotangent: Any, _x: Any, *, forward: bool, backward: bool) -> list[Any]:
    if type(cotangent) is ad.Zero:
        return [cotangent]
    return [_stored.bind(cotangent, forward=backward, backward=forward)]


ad.deflinear2(_stored, _stored_transpose)


def stored(x: Array) -> Array:
    """Return float array `x`, which a program writes down in its storage dtype, and so the cotangent of `x`."""
    return _stored.bind(x, forward=True, backward=True)


def stored_gradient(x: Array) -> Array:
    """Return float array `x`, whose bits are given, but whose cotangent is written down in the storage dtype."""
    return _stored.bind(x, forward=False, backward=True)


@dataclass(frozen=True)
class _Differentiated:
    # A dataclass and no closure: two of the same program are equal, so they share one compilation.
    program: Program

    def __call__(self, arguments: tuple[Tree, ...], cotangents: Tree) -> tuple[Tree, Tree]:
        leaves, structure = jax.tree.flatten(arguments)
        floats = [i for i, leaf in enumerate(leaves) if _is_float(leaf)]

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
    """The oracle and its error bar.

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
) -> Budget:
    """Return the float64 results of a program and how far correct rounding may move each of them.

        >>> budget(lambda x: x + 1, (np.zeros(3, np.float32),), dtype="float32").value
        array([1., 1., 1.])

    Args:
        program: hashable; `program(*arguments)` is traceable by JAX and returns a pytree of float arrays. An equal
            program with the same shapes is compiled once, whatever the dtype. Where it narrows floats they stay
            float64: say `stored` there. A kernel that JAX cannot see into counts as one rounding.
        arguments: a tuple of pytrees. Floats are given bits, upcast exactly; integers and bools stay as they are. All
            are traced: what must be static belongs in the program.
        dtype: the name of the dtype that the program computes in, a key of `ROUNDINGS`.
        storage: the name of the dtype at `stored` and `stored_gradient`; `dtype` if None.
        runs: number of perturbed runs, at least 1. The relative error of sigma is about 1 / sqrt(2 runs).
        seed: a non-negative int. The same seed gives the same budget.

    Raises:
        DTypeError: an unknown dtype name, or an argument that is no float, integer or bool.
        OptionError: `arguments` is no tuple, `runs` < 1 or `seed` < 0.
    """
    _check(arguments, runs, seed)
    units = np.asarray([(r.unit, r.floor) for r in (rounding(dtype), rounding(storage or dtype))]) / math.sqrt(3)
    arguments = jax.tree.map(_upcast, arguments)
    small = sum(leaf.size for leaf in jax.tree.leaves(arguments)) <= SMALL

    def run(number: int, units: Array) -> Tree:
        key = np.random.SeedSequence((seed, number)).generate_state(4)
        outputs = (_run_unoptimised if small else _run)(program, key, units, arguments)
        return jax.tree.map(lambda x: np.asarray(x, np.float64), outputs)

    # Always the CPU, so that a seed means the same budget whatever accelerator is there.
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        value = run(0, np.zeros_like(units))
        perturbed = [run(number, units) for number in range(runs)]
    return Budget(value, jax.tree.map(_sigma, value, *perturbed))


def _check(arguments: Any, runs: Any, seed: Any) -> None:
    if not isinstance(arguments, tuple):
        raise OptionError(f"arguments {type(arguments).__name__} must be a tuple")
    if not isinstance(runs, int) or runs < 1:
        raise OptionError(f"runs {runs!r} must be an int >= 1")
    if not isinstance(seed, int) or seed < 0:
        raise OptionError(f"seed {seed!r} must be an int >= 0")


def _is_float(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def _widened(x: Array) -> Array:
    return x.astype(np.float64) if _is_float(x) and x.dtype != np.float64 else x


def _upcast(leaf: Any) -> Array:
    array = np.asarray(leaf)
    if array.dtype.kind not in "biu" and not _is_float(array):
        raise DTypeError(f"arguments {array.dtype} must be floats, integers or bools")
    return _widened(array)


def _sigma(value: Array, *perturbed: Array) -> Array:
    """Return the spread of the perturbed values, shaped as `value`; by hypot, because the square of 1e-200 is 0."""
    with np.errstate(invalid="ignore"):
        moved = np.stack(perturbed) - value
    # -inf - -inf is NaN, yet a score that is masked in every run has not moved.
    moved = np.where(np.isfinite(value), np.where(np.isfinite(moved), moved, np.nan), 0.0)
    sigma = np.hypot.reduce(moved, axis=0) / math.sqrt(len(perturbed))
    if not sigma.size or not sigma.ndim:
        return np.asarray(sigma)
    # An element that was lucky in every run is no better known than its neighbours.
    return np.maximum(sigma, 0.3 * np.hypot.reduce(sigma, axis=-1, keepdims=True) / math.sqrt(sigma.shape[-1]))


# Float results of these are moved or chosen, never rounded. A primitive that no table names is rounded once.
EXACT = frozenset(
    """
    abs approx_top_k bitcast_convert_type broadcast_in_dim broadcast_to ceil clamp concatenate convert_element_type
    copy cummax cummin device_put dynamic_slice dynamic_update_slice empty empty2 floor gather imag iota max min name
    neg nextafter optimization_barrier pad pmax pmin pvary real reduce_max reduce_min reduce_precision
    reduce_window_max reduce_window_min rem reshape reshard rev rng_uniform round scatter scatter-max scatter-min
    select_n sharding_constraint sign slice sort split squeeze stack stop_gradient tile top_k transpose unstack
    """.split()  # noqa: SIM905 a table of names is read at a glance, a column of sixty quoted lines is not
)

# A call is no operation: its body is read as if it stood in its place.
CALLS = frozenset(
    """
    call closed_call composite core_call custom_jvp_call custom_vjp_call custom_vmap_call eval_jaxpr jit program_order
    remat2
    """.split()  # noqa: SIM905 as above
)

# The error of the usual implementations, in roundings.
FACTORS = {"exp": 1.5, "exp2": 1.5, "expm1": 1.5, "log": 1.5, "log1p": 1.5, "log2": 1.5}

# n of a sum, from its parameters and operands. Linear in each operand: of squares, these make sum (a b)^2.
TERMS: dict[str, Callable[..., int]] = {
    "conv_general_dilated": lambda p, _, rhs: rhs.size // rhs.shape[p["dimension_numbers"].rhs_spec[0]],
    "cumsum": lambda p, x: x.shape[p["axis"]],
    "dot_general": lambda p, lhs, _: math.prod(lhs.shape[axis] for axis in p["dimension_numbers"][0][0]),
    "reduce_sum": lambda p, x: math.prod(x.shape[axis] for axis in p["axes"]),
    "reduce_window_sum": lambda p, _: math.prod(p["window_dimensions"]),
}


def _body(eqn: Any) -> Any:
    return next(eqn.params[name] for name in ("jaxpr", "call_jaxpr", "call") if name in eqn.params)


def _rounds(eqn: Any) -> bool:
    name = eqn.primitive.name
    if name in EXACT or name in LOOPS or not any(_is_float(v.aval) for v in eqn.outvars):
        return False
    return name != "stored" or eqn.params["forward"]


def _draws(jaxpr: Any) -> int:
    """Return how many floats a jaxpr rounds, less those inside its loops."""
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in CALLS:
            total += _draws(_body(eqn))
        elif _rounds(eqn):
            total += sum(math.prod(v.aval.shape) for v in eqn.outvars if _is_float(v.aval))
    return total


class _Noise:
    """Interprets a jaxpr, perturbing as it goes.

    All xi of a jaxpr are drawn at once, because one generator compiles far faster than hundreds. The body of a loop is
    a jaxpr with a `_Noise` of its own; the generator's `key` is part of the loop's state, so no two draws are alike.
    """

    def __init__(self, jaxpr: Any, key: Array, units: Array) -> None:
        self.key, bits = lax.rng_bit_generator(key, (_draws(jaxpr),), dtype=np.uint32)
        # 23 bits, centred: exact in float32 and never 1, whose erf_inv is infinite.
        uniform = ((bits >> 9).astype(jnp.float32) + 0.5) * 2.0**-22 - 1
        self.xi = lax.erf_inv(uniform) * math.sqrt(2)
        self.units, self.used = units, 0

    def read(self, jaxpr: Any, arguments: Sequence[Array]) -> list[Array]:
        """Return the perturbed outputs of a jaxpr, open or closed."""
        constants = [_widened(c) for c in getattr(jaxpr, "consts", ())]
        jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
        values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True))

        def value(atom: Any) -> Array:
            return values[atom] if isinstance(atom, Var) else _widened(np.asarray(atom.val, atom.aval.dtype))

        for eqn in jaxpr.eqns:
            operands = [value(atom) for atom in eqn.invars]
            if eqn.primitive.name in CALLS:
                results = self.read(_body(eqn), operands)
            else:
                results = LOOPS.get(eqn.primitive.name, _Noise.round)(self, eqn, operands)
            values.update(zip(eqn.outvars, results, strict=True))
        return [value(atom) for atom in jaxpr.outvars]

    def inside(self, jaxpr: Any, key: Array, arguments: Sequence[Array]) -> tuple[Array, list[Array]]:
        """Return the next key and the outputs of the body of a loop."""
        noise = _Noise(jaxpr, key, self.units)
        results = noise.read(jaxpr, arguments)
        return noise.key, results

    def round(self, eqn: Any, operands: list[Array]) -> list[Array]:
        """Return the results of one primitive, rounded as the tables say."""
        results = _bind(eqn, operands)
        if not _rounds(eqn):
            return results
        name = eqn.primitive.name
        unit, floor = self.units[1 if name == "stored" else 0]
        if name in TERMS:
            depth = math.log2(max(1, TERMS[name](eqn.params, *operands)))
            squares = _bind(eqn, [x * x for x in operands])
            spreads = [unit * jnp.sqrt(depth * s + o * o) for s, o in zip(squares, results, strict=True)]
        else:
            spreads = [unit * FACTORS.get(name, 1.0) * abs(o) for o in results]
        return [self.perturb(o, s, floor) if _is_float(o) else o for o, s in zip(results, spreads, strict=True)]

    def perturb(self, o: Array, spread: Array, floor: Array) -> Array:
        """Return `o` as a rounding error of standard deviation `spread` may leave it."""
        xi = lax.slice(self.xi, (self.used,), (self.used + o.size,)).reshape(o.shape)
        self.used += o.size
        spread = jnp.maximum(spread, jnp.minimum(abs(o), floor))
        # inf + inf * xi may be NaN: a score that is masked with -inf stays what it is.
        return jnp.where(jnp.isfinite(spread), o + spread * xi, o)


def _bind(eqn: Any, operands: Sequence[Array]) -> list[Array]:
    """Return the exact results of one primitive, in float64 even where the program asks for fewer digits."""
    params = eqn.primitive.get_bind_params(eqn.params)
    if eqn.primitive.name != "bitcast_convert_type":
        narrow = [k for k, v in params.items() if isinstance(v, np.dtype) and jnp.issubdtype(v, jnp.floating)]
        params = params | dict.fromkeys(narrow, np.dtype(np.float64))
    results = eqn.primitive.bind(*operands, **params)
    return [_widened(o) for o in (results if eqn.primitive.multiple_results else [results])]


def _scan(noise: _Noise, eqn: Any, operands: list[Array]) -> list[Array]:
    p = eqn.params
    # JAX 0.11 groups the operands where 0.10 counts them.
    n, m = map(len, p["ft_in"].unpack()[:2]) if "ft_in" in p else (p["num_consts"], p["num_carry"])

    def step(state: Any, x: Any) -> Any:
        key, results = noise.inside(p["jaxpr"], state[0], [*operands[:n], *state[1], *x])
        return (key, results[:m]), results[m:]

    start = noise.key, operands[n : n + m]
    (noise.key, carry), ys = lax.scan(step, start, operands[n + m :], length=p["length"], reverse=p["reverse"])
    return [*carry, *ys]


def _while(noise: _Noise, eqn: Any, operands: list[Array]) -> list[Array]:
    p = eqn.params
    n, m = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]

    def goes_on(state: Any) -> Array:
        return noise.inside(p["cond_jaxpr"], state[0], [*operands[:n], *state[1]])[1][0]

    def step(state: Any) -> Any:
        return noise.inside(p["body_jaxpr"], state[0], [*operands[n:m], *state[1]])

    noise.key, results = lax.while_loop(goes_on, step, (noise.key, operands[m:]))
    return results


def _cond(noise: _Noise, eqn: Any, operands: list[Array]) -> list[Array]:
    branches = [partial(noise.inside, branch) for branch in eqn.params["branches"]]
    noise.key, results = lax.switch(operands[0], branches, noise.key, operands[1:])
    return results


LOOPS: dict[str, Callable[[_Noise, Any, list[Array]], list[Array]]] = {"scan": _scan, "while": _while, "cond": _cond}


def _perturbed(program: Program, key: Array, units: Array, arguments: tuple[Tree, ...]) -> Tree:
    jaxpr, outputs = jax.make_jaxpr(program, return_shape=True)(*arguments)
    results = _Noise(jaxpr, key, units).read(jaxpr, jax.tree.leaves(arguments))
    return jax.tree.structure(outputs).unflatten(results)


# A probe of few elements takes far longer to compile than to run, so XLA shall not optimise it.
SMALL = 2**14
UNOPTIMISED = {"xla_backend_optimization_level": 0}
if jax.__version_info__ < (0, 11):
    # The emitters without which XLA compiles twice as fast are the only ones from 0.11 on.
    UNOPTIMISED["xla_cpu_use_fusion_emitters"] = False

_run = jax.jit(_perturbed, static_argnums=0)
_run_unoptimised = jax.jit(_perturbed, static_argnums=0, compiler_options=UNOPTIMISED)
