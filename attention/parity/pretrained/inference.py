"""Run a layer of a backend without gradients: the outputs and intermediates of a probe, on the kernels of inference."""

# The frameworks leave many of their types unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from attention.parity.contracts.backends import Backend, BackendRun, JaxBackend, TorchBackend, named, signature
from attention.parity.contracts.probes import Probe
from attention.spec.kernels import Kernel, recorded


def forward(backend: Backend, probe: Probe) -> BackendRun:
    """Return the outputs and intermediates of a backend on a probe, on the kernels of inference."""
    if isinstance(backend, TorchBackend):
        return _torch(probe)
    if isinstance(backend, JaxBackend):
        return _jax(probe, compiled=backend.compiled)
    # The formula in NumPy has no gradients.
    return backend.run(probe, "auto")


def _torch(probe: Probe) -> BackendRun:
    torch, params = importlib.import_module("torch"), importlib.import_module("attention.torch_impl").params
    layer = probe.contract.build("torch", weights=probe.weights)
    layer.train(probe.dropout_seed is not None)
    inputs = {name: params.to_tensor(x) for name, x in probe.arrays.items()}
    with torch.no_grad(), recorded() as kernels:
        results = named(probe, layer(**inputs, **probe.call(), **_returned(probe.intermediates)))
    return BackendRun({name: params.to_numpy(x) for name, x in results.items()}, tuple(kernels))


def _jax(probe: Probe, *, compiled: bool) -> BackendRun:
    import jax  # noqa: PLC0415 - only this backend needs it
    from flax import nnx  # noqa: PLC0415

    with jax.enable_x64(False):
        layer = nnx.eval_shape(lambda: probe.contract.build("jax", seed=None))
        layer.load_weights(probe.weights)
        layer.set_attributes(deterministic=probe.dropout_seed is None, raise_if_not_found=False)
        graph, learned, rest = nnx.split(layer, nnx.Param, ...)
        program, chosen = _jax_program(graph, probe.intermediates, compiled=compiled)
        given = jax.tree.map(jax.numpy.asarray, (probe.arrays, probe.call()))
        results = named(probe, program(learned, rest, *given))
        return BackendRun({name: np.asarray(x) for name, x in results.items()}, chosen[signature((learned, *given))])


@cache
def _jax_program(
    graph: Any, intermediates: tuple[str, ...], *, compiled: bool
) -> tuple[Callable[..., Any], dict[Any, tuple[Kernel, ...]]]:
    """Return the layer, and the dict in which tracing records its kernels.

    Layers that differ only in data share one compilation.
    """
    import jax  # noqa: PLC0415
    from flax import nnx  # noqa: PLC0415

    chosen: dict[Any, tuple[Kernel, ...]] = {}

    def program(learned: Any, rest: Any, arrays: Any, call: Any) -> Any:
        with recorded() as kernels:
            made = nnx.merge(graph, learned, rest)(**arrays, **call, **_returned(intermediates))
        chosen[signature((learned, arrays, call))] = tuple(kernels)
        return made

    return (jax.jit(program) if compiled else program), chosen


def _returned(intermediates: tuple[str, ...]) -> dict[str, Any]:
    """Return the keyword `return_intermediates`, which some layers lack."""
    return {"return_intermediates": intermediates} if intermediates else {}
