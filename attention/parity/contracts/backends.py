"""Backends: our layers in torch and JAX, and the oracle's formula in NumPy, behind one protocol.

    backend.run(probe).results = {"output": ..., "d query": ..., "d q_proj.kernel": ..., ...}    NumPy arrays, canonical layout

"numpy" runs the formula in NumPy, without gradients. "torch" and "jax" run the layers; "jax_eager" runs JAX one operation at a
time, which separates a mistake in the program from one in its compilation.
"""

# The frameworks leave many of their types unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np

from attention._extras import require
from attention.parity.adapters.xla_options import known
from attention.parity.contracts.probes import Probe
from attention.spec.errors import UnknownName
from attention.spec.kernels import Kernel, recorded
from attention.spec.options import one_of

Results = dict[str, np.ndarray]


@dataclass(frozen=True)
class BackendRun:
    """The results of a backend on a probe, and the kernels it chose.

    Attributes:
        results: the outputs, the requested intermediates, and the gradient of every input and parameter.
        kernels: those that were chosen, one for each attention.
    """

    results: Results
    kernels: tuple[Kernel, ...] = ()

    @property
    def kernel(self) -> str:
        """The names of the kernels, each once."""
        return ", ".join(dict.fromkeys(kernel.name for kernel in self.kernels)) or "formula"

    @property
    def rounds(self) -> tuple[str, ...]:
        """The intermediates that the kernels round to the dtype of their inputs."""
        return tuple(dict.fromkeys(intermediate for kernel in self.kernels for intermediate in kernel.rounds))


class Backend(Protocol):
    """A program that can be probed."""

    @property
    def name(self) -> str:
        """Its name in reports."""
        ...

    def run(self, probe: Probe, implementation: str) -> BackendRun:
        """Return the results of the program on the probe.

        Raises:
            KernelRefused: the kernel asked for cannot do it.
        """
        ...


class NumpyBackend:
    """The formula in NumPy float64, without gradients: those of the oracle come from JAX, and finite differences check them."""

    name = "numpy"

    def run(self, probe: Probe, implementation: str) -> BackendRun:
        del implementation
        weights, arrays = ({name: x.astype(np.float64) for name, x in group.items()} for group in (probe.weights, probe.arrays))
        setting = probe.contract.resolve(probe.arrays, **probe.call())
        # Poisoned tokens are multiplied before they are masked; NumPy warns of this, the frameworks do not.
        with np.errstate(invalid="ignore", over="ignore"):
            made = probe.contract.formula(np, weights, arrays, setting)
        return BackendRun({name: made[name] for name in (*probe.contract.outputs, *probe.intermediates)})


class TorchBackend:
    """The layer of `torch_impl`."""

    name = "torch"

    def run(self, probe: Probe, implementation: str) -> BackendRun:
        torch, params = importlib.import_module("torch"), importlib.import_module("attention.torch_impl.params")
        layer = probe.contract.build("torch", weights=probe.weights, dtype=probe.dtype)
        layer.train(probe.dropout_seed is not None)
        inputs = {name: params.to_tensor(x).requires_grad_() for name, x in probe.arrays.items()}
        with recorded() as kernels:
            results = named(probe, layer(**inputs, **probe.call(), **_options(probe.intermediates, implementation)))
        learned = {name: params.parameter(layer, name) for name in probe.contract.params}
        gradients = torch.autograd.grad(
            [results[name] for name in probe.cotangents],
            [*inputs.values(), *learned.values()],
            [params.to_tensor(x) for x in probe.cotangents.values()],
        )
        for (name, _), gradient in zip([*inputs.items(), *learned.items()], gradients, strict=True):
            param = probe.contract.params.get(name)
            results[f"d {name}"] = gradient if param is None else params.to_canonical(param, gradient)
        return BackendRun({name: params.to_numpy(x) for name, x in results.items()}, tuple(kernels))


OPTIMISED = ("plain", "real text")
"""Probes that XLA compiles with all its optimisations, as it does for users."""
ALONE = {"xla_cpu_parallel_codegen_split_count": 1}
"""Options of XLA's CPU compiler: one piece, since the tests run a process on each core."""
QUICKLY = {**ALONE, "xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
"""Options for the other probes, which run only once: the same program, compiled sooner."""


@dataclass(frozen=True)
class JaxBackend:
    """The layer of `jax_impl`, under `jax.jit` or one operation at a time.

    Args:
        name: what reports call it.
        compiled: whether XLA compiles the whole layer, and may fuse and reorder it.
    """

    name: str = "jax"
    compiled: bool = True

    def run(self, probe: Probe, implementation: str) -> BackendRun:
        import jax  # noqa: PLC0415 - only this backend needs it
        from flax import nnx  # noqa: PLC0415

        with jax.enable_x64(probe.dtype == "float64"):
            # Its parameters are loaded, so that their initialisation, which JAX would compile, is skipped.
            layer = nnx.eval_shape(lambda: probe.contract.build("jax", seed=None, dtype=probe.dtype))
            layer.load_weights(probe.weights)
            layer.set_attributes(deterministic=probe.dropout_seed is None, raise_if_not_found=False)
            graph, learned, rest = nnx.split(layer, nnx.Param, ...)
            compiler = ("default" if probe.name in OPTIMISED else "quick") if self.compiled else "none"
            program, chosen = _jax_program(probe.contract.outputs, graph, implementation, probe.intermediates, compiler)
            given = jax.tree.map(jax.numpy.asarray, (probe.arrays, probe.call(), probe.cotangents))
            results, (d_learned, d_arrays) = program(learned, rest, *given)
            nnx.update(layer, d_learned)
            gradients = {f"d {name}": x for name, x in [*d_arrays.items(), *layer.weights().items()]}
            kernels = chosen[signature((learned, *given))]
            return BackendRun({name: np.asarray(x) for name, x in {**results, **gradients}.items()}, kernels)


@cache
def _jax_program(
    outputs: tuple[str, ...], graph: Any, implementation: str, intermediates: tuple[str, ...], compiler: str
) -> tuple[Callable[..., Any], dict[Any, tuple[Kernel, ...]]]:
    """Return the layer with its gradients, and where it writes down its kernels while it is traced.

    Probes that differ in data alone share one compilation.
    """
    import jax  # noqa: PLC0415
    from flax import nnx  # noqa: PLC0415

    chosen: dict[Any, tuple[Kernel, ...]] = {}

    def program(learned: Any, rest: Any, arrays: Any, call: Any, cotangents: Any) -> Any:
        def forward(learned: Any, arrays: Any) -> tuple[Any, Any]:
            made = nnx.merge(graph, learned, rest)(**arrays, **call, **_options(intermediates, implementation))
            results = _by_name(outputs, intermediates, made)
            return {name: results[name] for name in cotangents}, results

        with recorded() as kernels:
            _, pull_back, results = jax.vjp(forward, learned, arrays, has_aux=True)
        chosen[signature((learned, arrays, call, cotangents))] = tuple(kernels)
        return results, pull_back(cotangents)

    options = known(QUICKLY if compiler == "quick" else ALONE) if jax.default_backend() == "cpu" else {}
    return (program if compiler == "none" else jax.jit(program, compiler_options=options)), chosen


def signature(tree: Any) -> Any:
    """Return the structure, shapes and dtypes on which a compilation depends."""
    import jax  # noqa: PLC0415

    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)


def named(probe: Probe, made: Any) -> dict[str, Any]:
    """Return the results of a layer by the names of its contract's outputs and of the requested intermediates."""
    return _by_name(probe.contract.outputs, probe.intermediates, made)


def _by_name(outputs: tuple[str, ...], intermediates: tuple[str, ...], made: Any) -> dict[str, Any]:
    *values, intermediate_values = made if intermediates else (*(made if isinstance(made, tuple) else (made,)), {})
    return {**dict(zip(outputs, values, strict=True)), **intermediate_values}


def _options(intermediates: tuple[str, ...], implementation: str) -> dict[str, Any]:
    """Return the options of a call that some layers lack, if they are used."""
    asked = {"return_intermediates": intermediates, "implementation": "" if implementation == "auto" else implementation}
    return {name: value for name, value in asked.items() if value}


ALL: dict[str, Backend] = {
    side.name: side for side in (NumpyBackend(), TorchBackend(), JaxBackend(), JaxBackend("jax_eager", compiled=False))
}
BACKENDS = ("torch", "jax")
"""The backends that are compared by default."""


def find(name: str) -> Backend:
    """Return the backend called `name`.

    Raises:
        UnknownName: there is none.
        MissingExtra: its framework is not installed.
    """
    one_of(*ALL).raising(UnknownName).check("backend", name)
    framework = name.removesuffix("_eager")
    if framework in BACKENDS:
        require(framework, extra=framework, wanted_by=f"backend {name!r}")
    return ALL[name]
