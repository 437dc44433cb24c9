"""Error budgets: how far a correct program may stray from the same mathematics in float64.

    sigma = RMS over runs of (perturbed - unperturbed), at least 0.3 times its own RMS along the last axis
    perturbed result = o + max(spread, min(|o|, floor)) / sqrt(3) * xi,   xi ~ N(0, 1)

    spread = 0                                        exact results: a move, a choice, a comparison, a sign
    spread = u |o|                                    add, mul, div, tanh, ...
    spread = 1.5 u |o|                                exp, log
    spread = u sqrt(log2(n) sum (a_k b_k)^2 + o^2)    a sum of n terms or products

A program is traced once in float64 and its jaxpr interpreted: every result is perturbed as if it had been rounded. u is the
unit roundoff of the compute dtype, or of the storage dtype where the program says `stored`; below floor a result may
underflow. They are arguments of the compiled code, so a program is compiled once per shape, not once per dtype.

References:
    Parker, Monte Carlo Arithmetic, 1997; Higham and Mary, SIAM J. Sci. Comput. 41, 2019 (the sqrt(log2 n) of a tree sum).
"""

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
from jax.extend.core import Literal, Primitive
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
        gradual: whether results below `tiny` are kept as subnormals; if not, a machine may flush them to zero.
    """

    unit: float
    tiny: float
    gradual: bool = False

    @property
    def floor(self) -> float:
        """The absolute error that a result near zero may have."""
        return self.unit * self.tiny if self.gradual else self.tiny


# XLA on CPU and TPU flushes float32 and bfloat16 subnormals; float16 subnormals begin where attention weights live.
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
    """Return float array `x`, which the program writes down in its storage dtype, as it does the cotangent of `x`."""
    return _stored.bind(x, forward=True, backward=True)


def stored_gradient(x: Array) -> Array:
    """Return float array `x`, whose bits are given and exact but whose cotangent is written down in the storage dtype."""
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
    """Return the program `(arguments, cotangents) -> (outputs, gradients)`, whose budget covers the backward pass too.

        budget(differentiated(program), (arguments, cotangents), dtype="float32")

    Args:
        program: `program(*arguments)` returns a pytree of float arrays.

    Returns:
        A program of two arguments: the tuple `arguments`, and `cotangents` shaped as its outputs. `gradients` is shaped
        as `arguments`, with None in place of every integer or bool, which are constants.
    """
    return _Differentiated(program)


@dataclass(frozen=True)
class Budget:
    """The oracle and its error bar.

    Args:
        value: the float64 results, a pytree of NumPy arrays.
        sigma: one standard deviation of rounding error per element, the same pytree, in the units of `value`. It is 0
            where nothing is rounded or `value` is not finite, and NaN where a perturbed run broke down: no budget exists.
    """

    value: Tree
    sigma: Tree


def budget(
    program: Program, arguments: tuple[Tree, ...], *, dtype: str, storage: str | None = None, runs: int = 8, seed: int = 0
) -> Budget:
    """Return the float64 results of a program and how far correct rounding may move each of them.

    Args:
        program: hashable; `program(*arguments)` is traceable by JAX and returns a pytree of float arrays. A second call
            with an equal program and the same shapes compiles nothing, whatever the dtype.
        arguments: a tuple of pytrees. Floats are given bits and upcast exactly; integers and bools stay as they are. All
            are traced: what must be static belongs in the program.
        dtype: the name of the dtype that the program computes in, a key of `ROUNDINGS`.
        storage: the dtype at `stored` and `stored_gradient`; `dtype` if None.
        runs: number of perturbed runs, at least 1. The relative error of sigma is about 1 / sqrt(2 runs).
        seed: a non-negative int. The same seed gives the same budget.

    Raises:
        DTypeError: an unknown dtype name, or an argument that is no float, integer or bool.
        OptionError: `arguments` is no tuple, `runs` < 1 or `seed` < 0.
    """
    _check(arguments, runs, seed)
    units = np.asarray([(r.unit, r.floor) for r in (rounding(dtype), rounding(storage or dtype))])
    arguments = jax.tree.map(_upcast, arguments)

    def run(number: int, amplitude: float) -> Tree:
        key = np.random.SeedSequence((seed, number)).generate_state(4)
        return jax.tree.map(np.asarray, _run(program, key, amplitude, units, arguments))

    # One device and one generator, so that a seed means the same budget whatever accelerator is there.
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        # Without amplitude the same compiled code is the oracle.
        value = run(0, 0.0)
        perturbed = [run(number, 1 / math.sqrt(3)) for number in range(runs)]
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


def _upcast(leaf: Any) -> Array:
    array = np.asarray(leaf)
    if _is_float(array):
        return array.astype(np.float64)
    if array.dtype.kind not in "biu":
        raise DTypeError(f"arguments {array.dtype} must be floats, integers or bools")
    return array


def _sigma(value: Array, *perturbed: Array) -> Array:
    """Return the spread of the perturbed values, shaped as `value`; hypot, because the square of 1e-200 is 0."""
    with np.errstate(invalid="ignore"):
        moved = np.stack(perturbed) - value
    # -inf - -inf is NaN, yet a masked score that is -inf in both runs has not moved.
    moved = np.where(np.isfinite(value), np.where(np.isfinite(moved), moved, np.nan), 0.0)
    sigma = np.hypot.reduce(moved, axis=0) / math.sqrt(len(perturbed))
    if not sigma.size or not sigma.ndim:
        return np.asarray(sigma)
    # An element that was lucky in every run is no better known than its neighbours.
    return np.maximum(sigma, 0.3 * np.hypot.reduce(sigma, axis=-1, keepdims=True) / math.sqrt(sigma.shape[-1]))


@partial(jax.jit, static_argnums=0)
def _run(program: Program, key: Array, amplitude: Array, units: Array, arguments: tuple[Tree, ...]) -> Tree:
    traced, outputs = jax.make_jaxpr(program, return_shape=True)(*arguments)
    _, results = _evaluate(traced, key, amplitude, units, jax.tree.leaves(arguments))
    return jax.tree.unflatten(jax.tree.structure(outputs), results)


# Primitives whose float results are moved or chosen, never rounded. A primitive in none of these tables is rounded once.
EXACT = frozenset(
    """abs approx_top_k bitcast_convert_type broadcast broadcast_in_dim ceil clamp concatenate convert_element_type copy copy_p
    cummax cummin device_put dynamic_slice dynamic_update_slice empty empty2 floor gather imag iota max min name neg
    optimization_barrier pad pvary real reduce_max reduce_min reduce_precision reduce_window_max reduce_window_min rem
    reshape reshard rev rng_uniform round scatter scatter_max scatter_min select_n sharding_constraint sign slice sort
    split squeeze stop_gradient tile top_k transpose while""".split()
)
INLINE = {"jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call", "eval_jaxpr"}
ULPS = {"exp": 1.5, "exp2": 1.5, "expm1": 1.5, "log": 1.5, "log1p": 1.5}


def _contracted(lhs, rhs, *, dimension_numbers, **_):
    (axes, _), _ = dimension_numbers
    return math.prod(lhs.shape[axis] for axis in axes)

# number of terms; linear or bilinear, so applied to squares they give sum of squares
TERMS = {
    "dot_general": lambda p, lhs, rhs: math.prod(lhs.shape[axis] for axis in p["dimension_numbers"][0][0]),
    "conv_general_dilated": lambda p, lhs, rhs: rhs.size // rhs.shape[p["dimension_numbers"].rhs_spec[0]],
    "reduce_sum": lambda p, x: math.prod(x.shape[axis] for axis in p["axes"]),
    "cumsum": lambda p, x: x.shape[p["axis"]],
    "reduce_window_sum": lambda p, x: math.prod(p["window_dimensions"]),
}


def _normal(key, count):
    key, bits = lax.rng_bit_generator(key, (count,), dtype=np.uint32)
    uniform = ((bits >> 9).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-22) - np.float32(1)
    return key, lax.erf_inv(uniform) * np.float32(math.sqrt(2))


def _sub(eqn):
    return eqn.params["jaxpr"] if "jaxpr" in eqn.params else eqn.params["call_jaxpr"]


def _draws(jaxpr):
    total = 0
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name = eqn.primitive.name
        if name in INLINE:
            total += _draws(_sub(eqn))
        elif name in LOOPS or name in EXACT:
            continue
        else:
            total += sum(math.prod(v.aval.shape) for v in eqn.outvars if _is_float(v.aval))
    return total


class _Frame:
    def __init__(self, jaxpr, key, amplitude, units):
        self.key, xi = _normal(key, _draws(jaxpr))
        self.xi = xi * amplitude
        self.amplitude, self.units, self.used = amplitude, units, 0

    def perturb(self, o, spread, floor):
        xi = lax.slice(self.xi, (self.used,), (self.used + o.size,)).reshape(o.shape)
        self.used += o.size
        spread = jnp.maximum(spread, jnp.minimum(abs(o), floor))
        return jnp.where(jnp.isfinite(spread), o + spread * xi, o)

    def inside(self, jaxpr, key, args):
        return _evaluate(jaxpr, key, self.amplitude, self.units, args)

    def run(self, jaxpr, args):
        consts = getattr(jaxpr, "consts", ())
        jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
        def read(v): 
            return np.asarray(v.val, v.aval.dtype) if isinstance(v, Literal) else env[v]
        for eqn in jaxpr.eqns:
            inputs = [read(v) for v in eqn.invars]
            name = eqn.primitive.name
            if name in INLINE:
                outs = self.run(_sub(eqn), inputs)
            elif name in LOOPS:
                outs = LOOPS[name](self, eqn, inputs)
            else:
                outs = self.one(eqn, inputs)
            env.update(zip(eqn.outvars, outs, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def one(self, eqn, inputs):
        bind = lambda *x: eqn.primitive.bind(*x, **eqn.primitive.get_bind_params(eqn.params))
        outs = bind(*inputs)
        if not eqn.primitive.multiple_results:
            outs = [outs]
        name = eqn.primitive.name
        if name in EXACT: return outs
        (unit, floor), (unit_s, floor_s) = self.units
        if name == "stored":
            if not eqn.params["forward"]: return outs
            unit, floor = unit_s, floor_s
        if name in TERMS:
            n = TERMS[name](eqn.params, *inputs)
            squares = bind(*(x * x for x in inputs))
            return [self.perturb(outs[0], unit * jnp.sqrt(math.log2(max(n, 1)) * squares + outs[0]**2), floor)]
        return [self.perturb(o, unit * ULPS.get(name, 1.0) * abs(o), floor) if _is_float(o) else o for o in outs]


def _evaluate(jaxpr, key, amplitude, units, args):
    frame = _Frame(jaxpr, key, amplitude, units)
    outs = frame.run(jaxpr, args)
    return frame.key, outs


def _scan(frame, eqn, inputs):
    p = eqn.params
    if "ft_in" in p:
        c, k, _ = map(len, p["ft_in"].unpack())
    else:
        c, k = p["num_consts"], p["num_carry"]
    consts, carry, xs = inputs[:c], inputs[c:c+k], inputs[c+k:]
    def step(state, x):
        key, carry = state
        key, outs = frame.inside(p["jaxpr"], key, [*consts, *carry, *x])
        return (key, outs[:k]), outs[k:]
    (frame.key, carry), ys = lax.scan(step, (frame.key, carry), xs, length=p["length"], reverse=p["reverse"])
    return [*carry, *ys]


def _while(frame, eqn, inputs):
    p = eqn.params
    a, b = p["cond_nconsts"], p["body_nconsts"]
    cc, bc, init = inputs[:a], inputs[a:a+b], inputs[a+b:]
    frame.key, outs = lax.while_loop(
        lambda s: frame.inside(p["cond_jaxpr"], s[0], [*cc, *s[1]])[1][0],
        lambda s: frame.inside(p["body_jaxpr"], s[0], [*bc, *s[1]]), (frame.key, init))
    return outs

def _cond(frame, eqn, inputs):
    frame.key, outs = lax.switch(inputs[0], [partial(frame.inside, b) for b in eqn.params["branches"]], frame.key, inputs[1:])
    return outs

LOOPS = {"scan": _scan, "while": _while, "cond": _cond}
