"""Programs: an implementation on a case, compiled and ready to be called on rotating copies of the inputs.

forward           output = attention(q, k, v)                                       nothing is kept for a backward pass
forward+backward  output, (dq, dk, dv) = attention(q, k, v), vjp(cotangent)

A call returns when its result is there, on an accelerator too. Float32 products are float32's own ("highest") everywhere.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from attention.spec.errors import AttentionError
from attention.spec.kernels import recorded
from benchmarks.adapters import Implementation
from benchmarks.cases import BACKWARD, FORWARD, Case, drawn
from benchmarks.machine import free_bytes, torch_device

COPIES = 3
"""Of the inputs: enough that no call finds in a cache what it is about to read because the call before left it there."""


class TooLarge(AttentionError):
    """A program would need more memory than there is."""


@dataclass(frozen=True)
class Program:
    """What is timed, and what is checked.

    Args:
        calls: the program on each copy of the inputs; nothing is returned before it is there.
        results: `results(cotangent)` gives output and, of forward+backward, gradients of the first copy, as NumPy arrays
            `(B, T or S, H or K, D)` under the names of the correctness gate.
        rounds: what the program rounds on purpose.
        kernel: the names of the kernels that were chosen, where it is ours.
        compile_ms: what was spent before the first call, or None where nothing is compiled.
        planned: bytes that a compiler set aside for temporaries and results, or None.
    """

    calls: tuple[Callable[[], Any], ...]
    results: Callable[[np.ndarray], dict[str, np.ndarray]]
    rounds: tuple[str, ...] = ()
    kernel: str = ""
    compile_ms: float | None = None
    planned: int | None = None


def _at_once(call: Callable[[], Any]) -> Any:
    return call()


def build(
    implementation: Implementation, case: Case, copies: int = COPIES, first: Callable[[Callable[[], Any]], Any] = _at_once
) -> Program:
    """Return the program of an implementation on a case.

    Args:
        implementation: the way to attend.
        case: the call.
        copies: of the inputs.
        first: is given torch's first call, to look on while it runs; JAX has none before the program is called.

    Raises:
        KernelRefused: a kernel of ours cannot do it.
        TooLarge: it would need more memory than there is.
    """
    need = 6 * case.dense_bytes if implementation.dense else 0
    if need > (free := free_bytes(implementation.side)):
        raise TooLarge(f"scores {need / 1e9:.0f} GB must fit in {free / 1e9:.0f} GB")
    if implementation.side == "jax":
        return _jax(implementation, case, _arrays(case, implementation.layout, copies))
    return _torch(implementation, case, _tensors(case, implementation.layout, copies), first)


def names(case: Case) -> tuple[str, ...]:
    """Return what the program of a case gives."""
    return ("output",) if case.program == FORWARD else ("output", "d query", "d key", "d value")


@contextmanager
def exact(case: Case) -> Iterator[None]:
    """Set JAX to the digits that a case asks for: 64 bits for float64, and float32 products in full."""
    import jax  # noqa: PLC0415 - each framework is imported by those who run in it

    # Asked of bfloat16 as well, "highest" would keep some accelerators from their own units.
    precise = jax.default_matmul_precision("highest") if case.dtype in ("float32", "float64") else nullcontext()
    with jax.enable_x64(case.dtype == "float64"), precise:
        yield


def forget() -> None:
    """Let go of the inputs that were kept for the implementations of a case."""
    for kept in (drawn, _tensors, _arrays):
        kept.cache_clear()


def _turned(x: Any, layout: str) -> Any:
    return x.swapaxes(1, 2) if layout == "BHTD" else x


@lru_cache(maxsize=2)
def _tensors(case: Case, layout: str, copies: int) -> tuple[tuple[Any, ...], ...]:
    """Return the inputs in torch, contiguous in a layout."""
    return tuple(_placed(copy, layout) for copy in drawn(case, copies))


def _placed(copy: tuple[np.ndarray, ...], layout: str) -> tuple[Any, ...]:
    backend, device = importlib.import_module("attention.torch_impl"), torch_device()
    q, k, v, g = (backend.params.to_tensor(np.ascontiguousarray(_turned(x, layout))).to(device) for x in copy)
    return (*(x.requires_grad_() for x in (q, k, v)), g)


def from_inputs(implementation: Implementation, case: Case, given: tuple[np.ndarray, ...]) -> Program:
    """Return the program of a torch implementation on inputs of the caller's own: query, key, value and a cotangent."""
    return _torch(implementation, case, (_placed(given, implementation.layout),), _at_once)


def _torch(
    implementation: Implementation, case: Case, inputs: tuple[tuple[Any, ...], ...], first: Callable[[Callable[[], Any]], Any]
) -> Program:
    import torch  # noqa: PLC0415

    backend = importlib.import_module("attention.torch_impl")
    attention = implementation.make(case)
    wait = torch.cuda.synchronize if torch_device() == "cuda" else int

    @torch.no_grad()
    def forward(q: Any, k: Any, v: Any, _: Any) -> tuple[Any, ...]:
        made = (attention.function(q, k, v, *attention.extras),)
        _ = wait()
        return made

    def backward(q: Any, k: Any, v: Any, cotangent: Any) -> tuple[Any, ...]:
        output = attention.function(q, k, v, *attention.extras)
        made = (output, *torch.autograd.grad(output, (q, k, v), cotangent))
        _ = wait()
        return made

    program = backward if case.program == BACKWARD else forward

    def results(cotangent: np.ndarray) -> dict[str, np.ndarray]:
        sparse = backend.params.to_tensor(_turned(cotangent, implementation.layout)).to(inputs[0][3].device)
        q, k, v, _ = inputs[0]
        made = (_turned(x, implementation.layout) for x in program(q, k, v, sparse))
        return {name: backend.params.to_numpy(x.detach().cpu()) for name, x in zip(names(case), made, strict=True)}

    start = time.perf_counter()
    with recorded() as kernels:
        _ = first(lambda: program(*inputs[0]))
    took = (time.perf_counter() - start) * 1e3
    calls = tuple(lambda copy=copy: program(*copy) for copy in inputs)
    return Program(calls, results, *_said(implementation, kernels), took if implementation.slow else None)


@lru_cache(maxsize=2)
def _arrays(case: Case, layout: str, copies: int) -> tuple[tuple[Any, ...], ...]:
    """Return the inputs in JAX, in a layout."""
    import jax  # noqa: PLC0415

    return tuple(jax.device_put(tuple(_turned(x, layout) for x in copy)) for copy in drawn(case, copies))


def _jax(implementation: Implementation, case: Case, inputs: tuple[tuple[Any, ...], ...]) -> Program:
    import jax  # noqa: PLC0415

    attention = implementation.make(case)
    # Arguments and not constants, or XLA could compute ahead of time what it is here to be timed on.
    extras = jax.device_put(attention.extras)

    def forward(q: Any, k: Any, v: Any, _: Any, extras: Any) -> tuple[Any, ...]:
        return (attention.function(q, k, v, *extras),)

    def backward(q: Any, k: Any, v: Any, cotangent: Any, extras: Any) -> tuple[Any, ...]:
        output, pull_back = jax.vjp(lambda *moving: attention.function(*moving, *extras), q, k, v)
        return output, *pull_back(cotangent)

    start = time.perf_counter()
    with recorded() as kernels:
        lowered = jax.jit(backward if case.program == BACKWARD else forward).lower(*inputs[0], extras)
    compiled = lowered.compile()
    took = (time.perf_counter() - start) * 1e3
    planned = _planned(compiled)

    def results(cotangent: np.ndarray) -> dict[str, np.ndarray]:
        made = compiled(*inputs[0][:3], jax.device_put(_turned(cotangent, implementation.layout)), extras)
        return {name: np.asarray(_turned(x, implementation.layout)) for name, x in zip(names(case), made, strict=True)}

    calls = tuple(lambda copy=copy: jax.block_until_ready(compiled(*copy, extras)) for copy in inputs)
    return Program(calls, results, *_said(implementation, kernels), took, planned)


def _planned(compiled: Any) -> int | None:
    """Return how many bytes a compiled program will take, if it says so.

    Raises:
        TooLarge: there are not as many.
    """
    plan = compiled.memory_analysis()
    need = None if plan is None else plan.temp_size_in_bytes + plan.output_size_in_bytes
    if (need or 0) > (free := free_bytes("jax")):
        raise TooLarge(f"temporaries {(need or 0) / 1e9:.0f} GB must fit in {free / 1e9:.0f} GB")
    return need


def _said(implementation: Implementation, kernels: list[Any]) -> tuple[tuple[str, ...], str]:
    """Return what was rounded on purpose, and by which kernels."""
    if not implementation.ours:
        return implementation.rounds, ""
    return tuple(dict.fromkeys(x for kernel in kernels for x in kernel.rounds)), ", ".join(
        dict.fromkeys(kernel.name for kernel in kernels)
    )
