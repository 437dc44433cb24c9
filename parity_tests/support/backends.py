"""One interface to both backends, so that a test is written once and runs on every kernel of each.

kernel.attend(q, k, v, ...) = what the kernel answers, or, where it refuses and says why, what "auto" answers
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from attention import jax_impl, spec, torch_impl
from attention.spec import INTERMEDIATES, MultiHeadAttention
from attention.spec.errors import KernelRefused
from attention.torch_impl.params import to_numpy, to_tensor
from parity_tests.support.absent import ABSENT


@dataclass(frozen=True)
class Backend:
    """One backend: how it reads NumPy, is read by NumPy, runs a function, and differentiates a scalar of several arrays."""

    name: str
    module: ModuleType
    array: Callable[[np.ndarray], Any]
    numpy: Callable[[Any], np.ndarray]
    whole: Callable[[Callable[..., Any]], Callable[..., Any]]
    grad: Callable[[Callable[..., Any], list[Any]], Any]

    def native(self, x: Any) -> Any:
        """Return `x` in the backend's own type if it is an array, and as it is if not."""
        return self.array(x) if isinstance(x, np.ndarray) else x

    def layer(self, contract: MultiHeadAttention, **options: Any) -> Any:
        return self.module.MultiHeadAttention(contract, **options)

    def __str__(self) -> str:
        return self.name


def torch_grad(scalar: Callable[..., Any], arrays: list[torch.Tensor]) -> Any:
    leaves = [x.requires_grad_() for x in arrays]
    return torch.autograd.grad(scalar(*leaves), leaves, materialize_grads=True)


def jax_grad(scalar: Callable[..., Any], arrays: list[jax.Array]) -> Any:
    return jax.jit(jax.grad(scalar, tuple(range(len(arrays)))))(*arrays)


# JAX compiles a call as a whole in a fraction of the time that it takes over each operation alone.
TORCH = Backend("torch", torch_impl, to_tensor, to_numpy, lambda call: call, torch_grad)
JAX = Backend("jax", jax_impl, jnp.asarray, np.asarray, jax.jit, jax_grad)
BACKENDS = tuple(backend for backend in (TORCH, JAX) if backend.name not in ABSENT)
each_backend = pytest.mark.parametrize("backend", BACKENDS, ids=str)


def wide(*values: Any) -> AbstractContextManager[Any]:
    """Return JAX's 64-bit mode if any of the values is float64, and its usual mode if not."""
    wanted = "jax" not in ABSENT and any(str(getattr(x, "dtype", "")) == "float64" for x in values)
    return jax.enable_x64(True) if wanted else nullcontext()


@dataclass(frozen=True)
class Kernel:
    """One kernel of one backend, asked in NumPy."""

    backend: Backend
    name: str

    def __str__(self) -> str:
        return f"{self.backend}-{self.name}"

    def chosen(self, *arrays: Any, **options: Any) -> str:
        """Return this kernel's name, or "auto" where it refuses, having shown that it says why and does not answer."""
        try:
            choice = self.backend.module.explain(*arrays, implementation=self.name, **options)
        except KernelRefused as refusal:
            named, reason = str(refusal).split(" refuses: ")
            assert named == f"kernel {self.name!r}"
            assert reason
            with pytest.raises(KernelRefused, match="refuses"):
                _ = self.backend.module.dot_product_attention(*arrays, implementation=self.name, **options)
            return "auto"
        assert (choice.kernel.name, choice.refusals) == (self.name, ())
        return self.name

    def answer(self, *arrays: Any, **options: Any) -> Any:
        """Return what the backend returns for its own arrays."""
        return self.backend.module.dot_product_attention(*arrays, implementation=self.chosen(*arrays, **options), **options)

    def attend(self, *arrays: np.ndarray, **options: Any) -> np.ndarray:
        """Return the context."""
        with wide(*arrays):
            return self.backend.numpy(_attend(self, Same(options))(*map(self.backend.array, arrays)))

    def intermediates(self, *arrays: np.ndarray, **options: Any) -> dict[str, np.ndarray]:
        """Return every intermediate by name."""
        with wide(*arrays):
            context, intermediates = _intermediates(self, Same(options))(*map(self.backend.array, arrays))
            np.testing.assert_array_equal(self.backend.numpy(context), self.backend.numpy(intermediates["context"]))
            return {name: self.backend.numpy(x) for name, x in intermediates.items()}

    def grads(
        self, q: np.ndarray, k: np.ndarray, v: np.ndarray, along: np.ndarray, *, intermediate: str = "context", **options: Any
    ) -> list[np.ndarray]:
        """Return the gradients of `sum(intermediate * along)` with respect to q, k, v and each array among the options."""
        learned = [x for x in options.values() if isinstance(x, np.ndarray)]
        with wide(q):
            call = _grads(self, intermediate, Same(options))
            return [self.backend.numpy(g) for g in call(*map(self.backend.array, (along, q, k, v, *learned)))]


class Same:
    """Options of a call, equal to others where each of them is the same object."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options

    def __hash__(self) -> int:
        return hash(tuple(self.options))

    def __eq__(self, other: object) -> bool:
        mine, theirs = (list(x.options.items()) if isinstance(x, Same) else [] for x in (self, other))
        return len(mine) == len(theirs) and all(a == b and x is y for (a, x), (b, y) in zip(mine, theirs, strict=True))


# Calls that differ in their arrays alone share a compilation, which is what such a call costs in JAX.


@lru_cache(maxsize=8)
def _attend(kernel: Kernel, same: Same) -> Callable[..., Any]:
    options = {name: kernel.backend.native(x) for name, x in same.options.items()}
    return kernel.backend.whole(lambda *inputs: kernel.answer(*inputs, **options))


@lru_cache(maxsize=8)
def _intermediates(kernel: Kernel, same: Same) -> Callable[..., Any]:
    options = {name: kernel.backend.native(x) for name, x in same.options.items()}

    def call(*inputs: Any) -> Any:
        context, intermediates = kernel.answer(*inputs, return_intermediates=INTERMEDIATES, **options)
        assert tuple(intermediates) == INTERMEDIATES
        return context, intermediates

    return kernel.backend.whole(call)


@lru_cache(maxsize=8)
def _grads(kernel: Kernel, intermediate: str, same: Same) -> Callable[..., Any]:
    names = [name for name, x in same.options.items() if isinstance(x, np.ndarray)]

    def gradients(along: Any, *inputs: Any) -> Any:
        def scalar(q: Any, k: Any, v: Any, *rest: Any) -> Any:
            given = same.options | dict(zip(names, rest, strict=True))
            if intermediate == "context":
                return (kernel.answer(q, k, v, **given) * along).sum()
            return (kernel.answer(q, k, v, return_intermediates=(intermediate,), **given)[1][intermediate] * along).sum()

        return kernel.backend.grad(scalar, list(inputs))

    return kernel.backend.whole(gradients)


def runs_here(kernel: Kernel) -> bool:
    """Return whether a kernel answers the plainest of calls on this machine, in float32 or in bfloat16.

    One that is made for another device refuses here whatever it is asked, and `test_backend_kernels.py` shows that it says why.
    """
    for dtype in ("float32", "bfloat16"):
        plain = [kernel.backend.array(spec.cast({"x": np.zeros((1, 2, 1, 8))}, dtype)["x"])] * 3
        try:
            _ = kernel.backend.module.explain(*plain, implementation=kernel.name)
        except KernelRefused:
            continue
        return True
    return False


KERNELS = [
    kernel for backend in BACKENDS for name in backend.module.kernels.KERNELS if runs_here(kernel := Kernel(backend, name))
]
each_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=str)


def numbers(seed: int, *shape: int, dtype: str = "float64") -> np.ndarray:
    """Return normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def close(got: np.ndarray, wanted: np.ndarray, within: float) -> None:
    """Raise unless `got` is `wanted` up to `within` times the largest finite element of `wanted`."""
    assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
    largest = np.max(np.abs(wanted), where=np.isfinite(wanted), initial=0.0)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=within * largest)
