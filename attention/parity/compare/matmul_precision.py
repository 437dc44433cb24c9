"""Precision of float32 matrix products of a framework, measured on the device where a program runs.

    loss = rms(fl(A B) - A B) / rms(A B)        1e-7 at full precision, 2^-11 with TF32, 2^-8 with bfloat16 passes

Whether a flag has an effect depends on the device, its driver and the library behind the product; the product itself tells.
"""

# The flags of the frameworks have no types.
# pyright: standard

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from attention.parity.adapters import Program

LEAST = 2.0**-16
"""Relative error above which a product is none of float32, whose own is 1e-7; TF32's is 4e-4."""
SIZE = 64


def loss(program: Program) -> float:
    """Return the relative error, root mean square, of a product of random float32 matrices in the program's framework."""
    draws = np.random.default_rng(0)
    a, b = (draws.normal(size=(SIZE, SIZE)).astype(np.float32) for _ in range(2))
    wide = a.astype(np.float64) @ b.astype(np.float64)
    made = {"torch": _torch_product, "jax": _jax_product}.get(program.framework, _numpy_product)(program, a, b)
    return float(np.linalg.norm(made.astype(np.float64) - wide) / np.linalg.norm(wide))


def _numpy_product(_: Program, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a @ b


def _torch_product(program: Program, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    torch, device = importlib.import_module("torch"), _device(program)
    with torch.no_grad():
        return (torch.from_numpy(a).to(device) @ torch.from_numpy(b).to(device)).float().cpu().numpy()


def _jax_product(_: Program, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    jnp = importlib.import_module("jax.numpy")
    return np.asarray(jnp.dot(jnp.asarray(a), jnp.asarray(b)))


def _device(program: Program) -> Any:
    return next(iter(getattr(program, "devices", ())), "cpu")


def settings(program: Program) -> str:
    """Return the flags that a framework's products depend on, as the user set them."""
    if program.framework == "jax":
        jax = importlib.import_module("jax")
        return f"jax_default_matmul_precision={jax.config.jax_default_matmul_precision!r} on {jax.default_backend()}"
    torch = importlib.import_module("torch")
    flags = {
        "torch.get_float32_matmul_precision()": torch.get_float32_matmul_precision,
        "torch.backends.cuda.matmul.allow_tf32": lambda: torch.backends.cuda.matmul.allow_tf32,
    }
    return ", ".join(f"{name} is {_asked(flag)!r}" for name, flag in flags.items()) + f" on {_device(program)}"


def _asked(flag: Callable[[], Any]) -> Any:
    """Return a flag of torch, which refuses to tell while it is set by both its old name and its new one."""
    try:
        return flag()
    except RuntimeError:
        return "set by both its names"


def convolutions(program: Program) -> str:
    """Return the flag that lets a torch program's convolutions run in TF32, if it is set where it counts, or ""."""
    if program.framework != "torch" or not str(_device(program)).startswith("cuda"):
        return ""
    torch = importlib.import_module("torch")
    return "torch.backends.cudnn.allow_tf32=True" if _asked(lambda: torch.backends.cudnn.allow_tf32) else ""


def autocast(program: Program) -> str:
    """Return the dtype to which torch casts a program's products as it is called now, or ""."""
    if program.framework != "torch" or not program.runs_here:
        return ""
    torch, kind = importlib.import_module("torch"), str(_device(program)).partition(":")[0]
    return str(torch.get_autocast_dtype(kind)).removeprefix("torch.") if torch.is_autocast_enabled(kind) else ""
