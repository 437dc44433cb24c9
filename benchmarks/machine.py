"""The machine of a benchmark: devices, cores, free memory and versions.

machine = devices by framework, cores, threads, versions and flags
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

SIDES = ("torch", "jax")


def torch_device() -> str:
    """Return where torch's arrays are placed: "cuda" if there is one."""
    import torch  # noqa: PLC0415 - each framework is imported by those who ask for it

    return "cuda" if torch.cuda.is_available() else "cpu"


def platform_of(side: str) -> str:
    """Return the kind of device that a framework runs on: "cpu", "cuda", "gpu", "tpu"."""
    if side == "torch":
        return torch_device()
    import jax  # noqa: PLC0415

    return jax.default_backend()


def device_name(side: str) -> str:
    """Return the device that a framework runs on, as its maker calls it."""
    if platform_of(side) == "cpu":
        return cpu_name()
    if side == "jax":
        import jax  # noqa: PLC0415

        return jax.devices()[0].device_kind
    import torch  # noqa: PLC0415

    return torch.cuda.get_device_name()


def cpu_name() -> str:
    """Return the processor's model name."""
    models = _lines("/proc/cpuinfo", "model name")
    return models[0] if models else platform.processor() or platform.machine()


def cores() -> int:
    """Return how many cores this process may use; JAX makes as many threads."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_bytes(side: str) -> float:
    """Return how much memory a framework may still take, in bytes; infinite where nobody knows."""
    if platform_of(side) == "cpu":
        found = _lines("/proc/meminfo", "MemAvailable")
        # A tenth is left to everybody else.
        return 0.9 * 1024 * int(found[0].split()[0]) if found else float("inf")
    if side == "torch":
        import torch  # noqa: PLC0415

        return 0.9 * torch.cuda.mem_get_info()[0]
    import jax  # noqa: PLC0415

    known = jax.devices()[0].memory_stats() or {}
    return 0.9 * (known["bytes_limit"] - known["bytes_in_use"]) if "bytes_limit" in known else float("inf")


def machine(sides: tuple[str, ...] = SIDES) -> dict[str, Any]:
    """Return what the times depend on."""
    # It brings JAX along, which a child that measures torch's memory has no use for.
    from attention.parity.results.provenance import environment  # noqa: PLC0415

    threads = None
    if "torch" in sides:
        import torch  # noqa: PLC0415

        threads = torch.get_num_threads()
    return {
        "devices": {side: device_name(side) for side in sides},
        "cores": cores(),
        "torch threads": threads,
        "environment": environment(),
    }


def _lines(path: str, name: str) -> list[str]:
    """Return what stands behind a name, and its colon, in a file of the kernel's."""
    lines = Path(path).read_text(encoding="utf-8").splitlines() if Path(path).exists() else []
    return [line.partition(":")[2].strip() for line in lines if line.startswith(name)]
