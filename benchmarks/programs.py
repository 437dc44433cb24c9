"""Programs: the layer of a probe as two calls without arguments, each of which returns when its result is there.

forward()  = output                          nothing is kept for a backward pass
backward() = output, gradients               forward and backward: of every input and every parameter
"""

from __future__ import annotations

import importlib
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attention.parity.probes import Probe
from attention.parity.sides import Results

FORWARD, BACKWARD = "forward", "forward + backward"


@dataclass(frozen=True)
class Programs:
    """A layer that is ready to be timed.

    Args:
        calls: `FORWARD` and `BACKWARD`, each with a call.
        results: gives output and gradients as NumPy arrays under the names that `attention.parity` uses.
    """

    calls: dict[str, Callable[[], Any]]
    results: Callable[[], Results]


def build(side: str, probe: Probe, implementation: str) -> Programs:
    """Return the programs of a probe in one room, with everything on the room's default device.

    Args:
        side: "torch" or "jax".
        probe: the call.
        implementation: a kernel's name.
    """
    return BUILDERS[side](probe, implementation)


def torch_device() -> str:
    """Return where torch's arrays are placed: "cuda" if there is one."""
    import torch  # noqa: PLC0415 - each room is imported by those who ask for it

    return "cuda" if torch.cuda.is_available() else "cpu"


def torch_threads() -> int:
    """Return how many threads torch shares an operation among on the CPU."""
    import torch  # noqa: PLC0415

    return torch.get_num_threads()


def device_name(side: str) -> str:
    """Return the device that a room runs on, as its maker calls it."""
    if side == "jax":
        import jax  # noqa: PLC0415

        device = jax.devices()[0]
        return cpu_name() if device.platform == "cpu" else device.device_kind
    import torch  # noqa: PLC0415

    return torch.cuda.get_device_name() if torch_device() == "cuda" else cpu_name()


def cpu_name() -> str:
    """Return the processor's model name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def cores() -> int:
    """Return how many cores this process may use; JAX makes as many threads."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _torch(probe: Probe, implementation: str) -> Programs:
    import torch  # noqa: PLC0415

    room, device = importlib.import_module("attention.torch_impl"), torch_device()
    layer = room.MultiHeadAttention(probe.contract, dtype=probe.dtype).to(device)
    layer.load_weights(probe.weights)
    layer.train(probe.dropout_seed is not None)
    inputs = {name: room.params.to_tensor(x).to(device).requires_grad_() for name, x in probe.arrays.items()}
    cotangent = room.params.to_tensor(probe.cotangents["output"]).to(device)
    learned = {name: room.params.parameter(layer, name) for name in probe.contract.params}
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    @torch.no_grad()
    def forward() -> Any:
        output = layer(**inputs, **probe.call(), implementation=implementation)
        wait()
        return output

    def backward() -> Any:
        output = layer(**inputs, **probe.call(), implementation=implementation)
        gradients = torch.autograd.grad(output, [*inputs.values(), *learned.values()], cotangent)
        wait()
        return output, gradients

    def results() -> Results:
        output, gradients = backward()
        made = dict(zip([*inputs, *learned], gradients, strict=True))
        made |= {name: room.params.to_canonical(probe.contract.params[name], made[name]) for name in learned}
        named = {"output": output, **{f"d {name}": x for name, x in made.items()}}
        return {name: room.params.to_numpy(x) for name, x in named.items()}

    return Programs({FORWARD: forward, BACKWARD: backward}, results)


def _jax(probe: Probe, implementation: str) -> Programs:
    import jax  # noqa: PLC0415
    from flax import nnx  # noqa: PLC0415

    room = importlib.import_module("attention.jax_impl")
    layer = room.MultiHeadAttention(probe.contract, dtype=probe.dtype)
    layer.load_weights(probe.weights)
    layer.set_attributes(deterministic=probe.dropout_seed is None)
    graph, learned, rest = nnx.split(layer, nnx.Param, ...)
    # Arguments and not constants, or XLA could compute ahead of time what it is here to be timed on.
    given = jax.device_put((learned, probe.arrays, rest, jax.tree.map(jax.numpy.asarray, probe.call())))
    cotangent = jax.device_put(probe.cotangents["output"])

    @jax.jit
    def forward(learned: Any, arrays: Any, rest: Any, call: Any) -> Any:
        return nnx.merge(graph, learned, rest)(**arrays, **call, implementation=implementation)

    @jax.jit
    def backward(learned: Any, arrays: Any, rest: Any, call: Any, cotangent: Any) -> Any:
        output, pull_back = jax.vjp(lambda *moving: forward(*moving, rest, call), learned, arrays)
        return output, pull_back(cotangent)

    calls = {
        FORWARD: lambda: jax.block_until_ready(forward(*given)),
        BACKWARD: lambda: jax.block_until_ready(backward(*given, cotangent)),
    }

    def results() -> Results:
        output, (d_learned, d_arrays) = calls[BACKWARD]()
        gradients = {**d_arrays, **nnx.merge(graph, d_learned, rest).weights()}
        named = {"output": output, **{f"d {name}": x for name, x in gradients.items()}}
        return {name: np.asarray(x) for name, x in named.items()}

    return Programs(calls, results)


BUILDERS: dict[str, Callable[[Probe, str], Programs]] = {"torch": _torch, "jax": _jax}
