"""The formula and both layers as programs with gradients, on one call in float64.

    formula        values in NumPy; gradients by JAX's autodiff of the same text
    torch          the layer, one operation at a time
    jax            the layer as `jax.jit` would trace it

The JAX trace is evaluated in NumPy (`numerics.jaxpr_interpreter`): compiling a program for one call would take seconds.
"""

# The frameworks leave many of their types unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.lax import stop_gradient

from attention.jax_impl.params import parameter
from attention.parity.contracts.backends import Results, TorchBackend
from attention.parity.contracts.probes import Probe
from attention.parity.numerics.jaxpr_interpreter import JaxprInterpreter

Tree = Any
Arrays = dict[str, Any]


def formula(probe: Probe, implementation: str = "auto") -> Results:
    """Return what the formula makes of a call: values from NumPy, gradients from JAX."""
    del implementation
    contract, setting = probe.contract, probe.contract.resolve(probe.arrays, **probe.call())

    def forward(weights: Arrays, arrays: Arrays) -> Arrays:
        made = contract.formula(jnp, weights, arrays, setting, constant=stop_gradient)
        return {name: made[name] for name in _named(probe)}

    with np.errstate(all="ignore"):
        values = contract.formula(np, probe.weights, probe.arrays, setting)
    made, (d_weights, d_arrays) = pulled_back(probe, forward, probe.weights, probe.arrays)
    for name, value in made.items():
        np.testing.assert_allclose(value, values[name], rtol=1e-9, atol=1e-12, err_msg=f"{name}: the formula in JAX, in NumPy")
    return {**{name: values[name] for name in made}, **_gradients({**d_arrays, **d_weights})}


def torch_layer(probe: Probe, implementation: str = "auto") -> Results:
    """Return what the layer of `torch_impl` makes of a call."""
    return TorchBackend().run(probe, implementation).results


def jax_layer(probe: Probe, implementation: str = "auto") -> Results:
    """Return what the layer of `jax_impl` makes of a call, as a compiler would trace it."""
    with jax.enable_x64(True):
        layer = nnx.eval_shape(lambda: probe.contract.build("jax", dtype="float64", seed=None))
        for name, value in probe.weights.items():
            parameter(layer, name).set_value(value)
        layer.set_attributes(deterministic=probe.dropout_seed is None, raise_if_not_found=False)
        graph, learned, rest = nnx.split(layer, nnx.Param, ...)
        options = {"return_intermediates": probe.intermediates} if probe.intermediates else {}
        options |= {} if implementation == "auto" else {"implementation": implementation}

        def forward(learned: Tree, arrays: Arrays, call: Arrays) -> Arrays:
            made = nnx.merge(graph, learned, rest)(**arrays, **call, **options)
            *values, intermediate_values = (
                made if probe.intermediates else (*(made if isinstance(made, tuple) else (made,)), {})
            )
            return {**dict(zip(probe.contract.outputs, values, strict=True)), **intermediate_values}

        made, (d_learned, d_arrays) = pulled_back(probe, forward, learned, probe.arrays, probe.call())
        nnx.update(layer, d_learned)
        return {**made, **_gradients({**d_arrays, **layer.weights()})}


def pulled_back(probe: Probe, forward: Callable[..., Arrays], learned: Tree, arrays: Arrays, *constant: Tree) -> Any:
    """Return the results of a JAX function, and the gradients of its first two arguments."""

    def program(learned: Tree, arrays: Arrays, cotangents: Arrays, *constant: Tree) -> Any:
        def wanted(learned: Tree, arrays: Arrays) -> tuple[Arrays, Arrays]:
            made = forward(learned, arrays, *constant)
            return {name: made[name] for name in cotangents}, made

        _, pull_back, made = jax.vjp(wanted, learned, arrays, has_aux=True)
        return made, pull_back(cotangents)

    arguments = (learned, arrays, probe.cotangents, *constant)
    with jax.enable_x64(True), jax.disable_jit(), np.errstate(all="ignore"):
        jaxpr, shape = jax.make_jaxpr(program, return_shape=True)(*arguments)
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(arguments)]
        return jax.tree.unflatten(jax.tree.structure(shape), JaxprInterpreter().run(jaxpr, leaves))


def _named(probe: Probe) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*probe.contract.outputs, *probe.intermediates)))


def _gradients(found: Mapping[str, Any]) -> Results:
    return {f"d {name}": np.asarray(x) for name, x in found.items()}
