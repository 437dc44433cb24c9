"""Extra memory of a call beyond its inputs, each measured in a process of its own.

extra = (most that was resident during the call) - (resident before it)        outputs and gradients are part of it

On a CPU the kernel's own high-water mark is read, set back before the call; where it cannot be set back, the mark since the
process began. On an accelerator torch's allocator is asked, and what XLA planned for temporaries and results.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.cases import Case
from benchmarks.machine import platform_of

LIMIT = 600
"""Seconds that a child may take."""


@dataclass(frozen=True)
class Used:
    """What a child found.

    Attributes:
        extra: bytes at the peak of a call beyond those before it; None where it could not run.
        seconds: of that call.
        note: why there is no number.
    """

    extra: int | None = None
    seconds: float | None = None
    note: str = ""


def measure(case: Case, implementation: str, limit: int = LIMIT) -> Used:
    """Return what one call takes, in a new process.

    Args:
        case: the call.
        implementation: an exact name.
        limit: seconds.
    """
    asked = json.dumps({"case": asdict(case), "implementation": implementation})
    # XLA would take most of a GPU at once; a freed block goes back, so that it is not counted as still there.
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "MALLOC_MMAP_THRESHOLD_": "65536"}
    root = str(Path(__file__).parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH", ""))))
    try:
        ran = subprocess.run(  # noqa: S603 - this module, by this interpreter
            [sys.executable, "-m", "benchmarks.memory", asked],
            capture_output=True,
            text=True,
            env=environment,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Used(note=f"took more than {limit} s")
    lines = [line for line in ran.stdout.splitlines() if line.startswith('{"extra"')]
    if ran.returncode or not lines:
        said = ran.stderr.strip().splitlines()
        return Used(note=f"ended with {ran.returncode}: {said[-1][:200] if said else 'nothing said'}")
    return Used(**json.loads(lines[-1]))


def child(asked: str) -> Used:
    """Return what one call takes, in this process, which has done nothing else."""
    from benchmarks.implementations import find  # noqa: PLC0415 - the parent needs none of these
    from benchmarks.programs import build, exact  # noqa: PLC0415

    given = json.loads(asked)
    case, implementation = Case(**given["case"]), find(given["implementation"])
    small = Case(**{**given["case"], "S": min(case.S, 256), "T": min(case.sizes.T, 256)})
    # Torch is always exact, and JAX is long to import.
    with exact(case) if implementation.side == "jax" else nullcontext():
        # What a framework sets up once is no part of a call.
        for call in build(implementation, small, 1).calls:
            _ = call()
        found: list[Used] = []
        program = build(implementation, case, 1, lambda call: found.append(_watched(call, implementation.side)))
        if implementation.side == "jax" and platform_of("jax") != "cpu":
            return Used(program.planned, None, "as XLA planned it")
        # Only a call that compiles nothing tells what a call takes.
        return found[0] if found and program.compile_ms is None else _watched(program.calls[0], implementation.side)


def _watched(call: Callable[[], Any], side: str) -> Used:
    """Return what a call takes on the host, or on torch's GPU."""
    _ = gc.collect()
    if platform_of(side) == "cuda":
        import torch  # noqa: PLC0415

        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        seconds = _timed(call)
        return Used(torch.cuda.max_memory_allocated() - before, seconds)
    _trim()
    before = _status("VmRSS")
    with suppress(OSError):
        # 5 sets the high-water mark back to what is resident now.
        _ = Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    seconds = _timed(call)
    return Used(max(0, _status("VmHWM") - before), seconds)


def _timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    kept = call()
    del kept
    return time.perf_counter() - start


def _trim() -> None:
    """Give back what the allocator keeps for later, where it is glibc's."""
    with suppress(OSError, AttributeError):
        _ = ctypes.CDLL("libc.so.6").malloc_trim(0)


def _status(name: str) -> int:
    """Return a line of what Linux tells about this process, in bytes; elsewhere the most that was ever resident."""
    path = Path("/proc/self/status")
    if path.exists():
        (line,) = (line for line in path.read_text(encoding="ascii").splitlines() if line.startswith(name))
        return 1024 * int(line.split()[1])
    import resource  # noqa: PLC0415 - Windows has none

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


if __name__ == "__main__":
    _ = sys.stdout.write(json.dumps(asdict(child(sys.argv[1]))) + "\n")
