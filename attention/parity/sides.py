"""Sides: the programs that are compared, behind one protocol.

    side.run(probe) = {"output": ..., "d query": ..., "d q_proj.kernel": ..., ...}        NumPy arrays, canonical layout

"numpy" is the oracle's own text run in NumPy, without gradients; "torch" and "jax" are the two rooms; "jax_eager" is JAX
one operation at a time, which tells a mistake of the program from one of its compilation.
"""

# The frameworks leave many of their types unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np

from attention._extras import require
from attention.parity.probes import Probe
from attention.spec.errors import UnknownName
from attention.spec.layers.oracle import oracle, settle

Results = dict[str, np.ndarray]


class Side(Protocol):
    """A program that can be probed."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    def kernel(self, probe: Probe, implementation: str) -> tuple[str, tuple[str, ...]]:
        """Return the kernel that would run, and the stages that it rounds to the dtype of its inputs.

        Raises:
            KernelRefused: none would.
        """
        ...

    def run(self, probe: Probe, implementation: str) -> Results:
        """Return the output, the stages asked for, and the gradient of every input and parameter."""
        ...


class NumpySide:
    """The formula in NumPy float64. It has no gradients: the oracle's come from JAX, and are checked by differences."""

    name = "numpy"

    def kernel(self, probe: Probe, implementation: str) -> tuple[str, tuple[str, ...]]:
        del probe, implementation
        return "formula", ()

    def run(self, probe: Probe, implementation: str) -> Results:
        del implementation
        weights, arrays = ({name: x.astype(np.float64) for name, x in group.items()} for group in (probe.weights, probe.arrays))
        setting = settle(probe.contract, probe.sizes, **probe.call())
        # Poisoned tokens are multiplied before they are masked, which NumPy, unlike the frameworks, remarks upon.
        with np.errstate(invalid="ignore", over="ignore"):
            stages = oracle(probe.contract, np, weights, arrays, setting)
        return {name: stages[name] for name in ("output", *probe.stages)}


class TorchSide:
    """The layer of `torch_impl`."""

    name = "torch"

    def kernel(self, probe: Probe, implementation: str) -> tuple[str, tuple[str, ...]]:
        return _chosen("torch", probe, implementation)

    def run(self, probe: Probe, implementation: str) -> Results:
        torch, room = importlib.import_module("torch"), importlib.import_module("attention.torch_impl")
        params = room.params
        layer = room.MultiHeadAttention(probe.contract, dtype=probe.dtype)
        layer.load_weights(probe.weights)
        layer.train(probe.dropout_seed is not None)
        inputs = {name: params.to_tensor(x).requires_grad_() for name, x in probe.arrays.items()}
        output, stages = _split(
            layer(**inputs, **probe.call(), return_stages=probe.stages, implementation=implementation), probe
        )
        results = {"output": output, **stages}
        learned = {name: params.parameter(layer, name) for name in probe.contract.params}
        gradients = torch.autograd.grad(
            [results[name] for name in probe.cotangents],
            [*inputs.values(), *learned.values()],
            [params.to_tensor(x) for x in probe.cotangents.values()],
        )
        for (name, _), gradient in zip([*inputs.items(), *learned.items()], gradients, strict=True):
            param = probe.contract.params.get(name)
            results[f"d {name}"] = gradient if param is None else params.to_canonical(param, gradient)
        return {name: params.to_numpy(x) for name, x in results.items()}


@dataclass(frozen=True)
class JaxSide:
    """The layer of `jax_impl`, under `jax.jit` or one operation at a time.

    Args:
        name: what reports call it.
        compiled: whether XLA sees the whole layer, and may fuse and reorder it.
    """

    name: str = "jax"
    compiled: bool = True

    def kernel(self, probe: Probe, implementation: str) -> tuple[str, tuple[str, ...]]:
        return _chosen("jax", probe, implementation)

    def run(self, probe: Probe, implementation: str) -> Results:
        import jax  # noqa: PLC0415 - only this side needs it
        from flax import nnx  # noqa: PLC0415

        room = importlib.import_module("attention.jax_impl")
        with jax.enable_x64(probe.dtype == "float64"):
            layer = room.MultiHeadAttention(probe.contract, dtype=probe.dtype)
            layer.load_weights(probe.weights)
            layer.set_attributes(deterministic=probe.dropout_seed is None)
            graph, learned, rest = nnx.split(layer, nnx.Param, ...)
            program = _jax_program(graph, implementation, probe.stages, compiled=self.compiled)
            call = jax.tree.map(jax.numpy.asarray, probe.call())
            arrays, cotangents = (jax.tree.map(jax.numpy.asarray, x) for x in (probe.arrays, probe.cotangents))
            results, (d_learned, d_arrays) = program(learned, arrays, rest, call, cotangents)
            nnx.update(layer, d_learned)
            gradients = {f"d {name}": x for name, x in [*d_arrays.items(), *layer.weights().items()]}
            return {name: np.asarray(x) for name, x in {**results, **gradients}.items()}


@cache
def _jax_program(graph: Any, implementation: str, stages: tuple[str, ...], *, compiled: bool) -> Callable[..., Any]:
    """Return the layer with its gradients; probes that differ in data alone share one compilation."""
    import jax  # noqa: PLC0415
    from flax import nnx  # noqa: PLC0415

    def program(learned: Any, arrays: Any, rest: Any, call: Any, cotangents: Any) -> Any:
        def forward(learned: Any, arrays: Any) -> tuple[Any, Any]:
            layer = nnx.merge(graph, learned, rest)
            made = layer(**arrays, **call, return_stages=stages, implementation=implementation)
            output, staged = made if stages else (made, {})
            results = {"output": output, **staged}
            return {name: results[name] for name in cotangents}, results

        _, pull_back, results = jax.vjp(forward, learned, arrays, has_aux=True)
        return results, pull_back(cotangents)

    return jax.jit(program) if compiled else program


def _split(made: Any, probe: Probe) -> tuple[Any, dict[str, Any]]:
    return made if probe.stages else (made, {})


@contextmanager
def zeros(backend: str, dtype: str) -> Iterator[Callable[[tuple[int, ...]], Any]]:
    """Give a function that makes arrays of zeros in a framework, float64 included: what `explain` is asked about."""
    if backend == "torch":
        torch = importlib.import_module("torch")
        yield lambda shape: torch.zeros(shape, dtype=getattr(torch, dtype))
    else:
        import jax  # noqa: PLC0415

        with jax.enable_x64(dtype == "float64"):
            yield lambda shape: jax.numpy.zeros(shape, dtype)


def _chosen(backend: str, probe: Probe, implementation: str) -> tuple[str, tuple[str, ...]]:
    """Return the kernel that a room's `explain` names for a call of the probe's form."""
    n = probe.sizes
    shapes = ((*n.batch, n.T, n.H, n.D), (*n.batch, n.S, n.K, n.D), (*n.batch, n.S, n.K, n.E))
    room = importlib.import_module(f"attention.{backend}_impl")
    with zeros(backend, probe.dtype) as make:
        choice = room.explain(
            *map(make, shapes),
            implementation=implementation,
            softcap=probe.contract.softcap,
            bias=make(n.scores) if "bias" in probe.arrays else None,
            dropout_rate=0.0 if probe.dropout_seed is None else probe.contract.dropout_rate,
            dropout_seed=probe.dropout_seed,
            precision=probe.contract.precision,
            return_stages=probe.stages,
        )
    return choice.kernel.name, choice.kernel.rounds


SIDES: dict[str, Side] = {
    side.name: side for side in (NumpySide(), TorchSide(), JaxSide(), JaxSide("jax_eager", compiled=False))
}
BACKENDS = ("torch", "jax")
"""The rooms' sides: what is compared unless something else is asked for."""


def find(name: str) -> Side:
    """Return the side called `name`.

    Raises:
        UnknownName: there is none.
        MissingExtra: its framework is not installed.
    """
    if name not in SIDES:
        raise UnknownName(f"backend {name!r} must be one of {', '.join(SIDES)}")
    framework = name.removesuffix("_eager")
    if framework in BACKENDS:
        require(framework, extra=framework, wanted_by=f"backend {name!r}")
    return SIDES[name]
