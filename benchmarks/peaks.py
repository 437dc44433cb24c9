"""Peak rates of this machine in each framework (GEMM, bandwidth), measured in the same run.

flops = 2 n^3 / time of a matrix product (n, n) @ (n, n)        the best of several, float32 sums
bytes = (read + written) / time of a copy, or read / time of a sum, whichever is more
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.machine import platform_of, torch_device
from benchmarks.programs import Program
from benchmarks.results import Peak
from benchmarks.timing import Clock

SIDES = {"cpu": (2048, 2**26), "accelerator": (8192, 2**30)}
"""By device: n of the product, and elements of what is copied."""
TRIES = 5


def gemm(side: str, dtype: str) -> tuple[Program, int]:
    """Return a matrix product of a framework, and its operations."""
    n = _size(side)[0]
    call = _torch_gemm(n, dtype) if side == "torch" else _jax_gemm(n, dtype)
    return Program((call,), lambda _: {}), 2 * n**3


def peaks(sides: Iterable[str], dtypes: Iterable[str], clock: Clock) -> tuple[Peak, ...]:
    """Return what each framework reaches in each dtype.

    Args:
        sides: "torch", "jax".
        dtypes: of the product's inputs.
        clock: as for what is held against it.
    """
    found: list[Peak] = []
    for side in sides:
        moved = _bandwidth(side, clock)
        for dtype in dtypes:
            program, flops = gemm(side, dtype)
            found.append(Peak(side, dtype, flops / _best(program.calls[0], clock), moved))
    return tuple(found)


def _size(side: str) -> tuple[int, int]:
    return SIDES["cpu" if platform_of(side) == "cpu" else "accelerator"]


def _best(call: Callable[[], Any], clock: Clock) -> float:
    """Return the least seconds of several calls, after one that is not counted."""
    _ = call()
    least = float("inf")
    for _ in range(TRIES):
        start = clock.read()
        _ = call()
        least = min(least, clock.read() - start)
    return max(least, time.get_clock_info("perf_counter").resolution)


def _torch_gemm(n: int, dtype: str) -> Callable[[], Any]:
    import torch  # noqa: PLC0415 - each framework is imported by those who ask for it

    a, b = (torch.randn(n, n, device=torch_device()).to(getattr(torch, dtype)) for _ in "ab")
    wait = torch.cuda.synchronize if torch_device() == "cuda" else int
    return lambda: (a @ b, wait())


def _jax_gemm(n: int, dtype: str) -> Callable[[], Any]:
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415

    a, b = (jax.random.normal(jax.random.key(seed), (n, n), dtype) for seed in (0, 1))
    kind = jnp.float64 if dtype == "float64" else jnp.float32
    precision = "highest" if dtype in ("float32", "float64") else None
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision=precision, preferred_element_type=kind))
    return lambda: jax.block_until_ready(product(a, b))


def _bandwidth(side: str, clock: Clock) -> float:
    """Return bytes a second."""
    n = _size(side)[1]
    if side == "torch":
        import torch  # noqa: PLC0415

        x = torch.ones(n, device=torch_device())
        y = torch.empty_like(x)
        wait = torch.cuda.synchronize if torch_device() == "cuda" else int
        copy, total = (lambda: (y.copy_(x), wait())), (lambda: (x.sum(), wait()))
    else:
        import jax  # noqa: PLC0415
        import jax.numpy as jnp  # noqa: PLC0415

        x = jnp.ones(n, jnp.float32)
        copied, summed = jax.jit(lambda x: -x), jax.jit(jnp.sum)
        copy, total = (lambda: jax.block_until_ready(copied(x))), (lambda: jax.block_until_ready(summed(x)))
    return max(8 * n / _best(copy, clock), 4 * n / _best(total, clock))
