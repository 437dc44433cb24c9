"""Certificates: versions, hardware, code and weight hashes needed to repeat a verdict.

    certificate = {format, version, ok, limits, environment, code, notes, rows}
    code        = SHA-256 over every source file of this package, by path
    weights     = SHA-256 over names, dtypes, shapes and bytes, in the order of the names; in each row's facts

A certificate holds no array: two of them are compared by their hashes and by their z.
"""

# The flags of torch and JAX are read only where the user has imported them, and have no types.
# pyright: standard

from __future__ import annotations

import hashlib
import inspect
import os
import platform
import sys
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from attention import __version__

FORMAT, VERSION = "attention certificate", 1
PACKAGES = ("numpy", "torch", "jax", "jaxlib", "flax", "optax", "transformers")


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of named arrays: equal exactly if names, dtypes, shapes and bits are.

    >>> digest({"a": np.zeros(2)}) == digest({"a": np.zeros((2, 1))})
    False
    """
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        found.update(f"{name} {array.dtype} {np.shape(arrays[name])}\n".encode())
        found.update(array.tobytes())
    return found.hexdigest()


@cache
def code() -> str:
    """Return the SHA-256 of this package's source."""
    root, found = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        found.update(f"{path.relative_to(root).as_posix()}\n".encode() + path.read_bytes())
    return found.hexdigest()


def source(subject: Any) -> dict[str, str]:
    """Return the file that a user's program is written in and its SHA-256, or nothing where there is no such file."""
    owner = subject if inspect.isroutine(subject) else type(subject)
    try:
        path = Path(inspect.getsourcefile(inspect.unwrap(owner)) or "")
        return {"file": path.name, "file sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    except (TypeError, OSError):
        return {}


def environment() -> dict[str, str]:
    """Return the environment of the numbers: versions, machine, devices and precision flags."""
    found = {"attention": __version__, **{name: _version(name) for name in PACKAGES}}
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    place = {"python": platform.python_version(), "machine": machine}
    return {**place, **found, **_torch(sys.modules.get("torch")), **_jax(sys.modules.get("jax"))}


def _torch(torch: Any) -> dict[str, str]:
    if torch is None:
        return {}
    cuda = torch.cuda.is_available()
    flags = {
        "torch device": torch.cuda.get_device_name() if cuda else f"cpu, {torch.get_num_threads()} threads",
        "torch float32 matmul precision": torch.get_float32_matmul_precision(),
        "torch deterministic algorithms": str(torch.are_deterministic_algorithms_enabled()),
    }
    return flags | ({"torch cuDNN TF32": str(torch.backends.cudnn.allow_tf32)} if cuda else {})


def _jax(jax: Any) -> dict[str, str]:
    if jax is None:
        return {}
    return {
        "jax device": ", ".join(dict.fromkeys(device.device_kind for device in jax.devices())),
        "jax default matmul precision": str(jax.config.jax_default_matmul_precision),
        "jax x64": str(jax.config.jax_enable_x64),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
