"""Both rooms behind one face, so that a law is written once and asked of every kernel of each.

    for every (room, kernel):  attend(q, k, v) = what the kernel answers, or, where it refuses with a reason, what "auto" answers
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from attention import jax_impl, torch_impl
from attention.spec.errors import KernelRefused
from attention.torch_impl.params import to_numpy, to_tensor

Arrays = list[np.ndarray]


@dataclass(frozen=True)
class Room:
    """One room: how it reads NumPy, is read by it, and differentiates."""

    name: str
    module: ModuleType
    array: Callable[[np.ndarray], Any]
    numpy: Callable[[Any], np.ndarray]
    grad: Callable[[Callable[..., Any], Arrays], Arrays]

    def layer(self, contract: Any, **options: Any) -> Any:
        return self.module.MultiHeadAttention(contract, **options)

    def __str__(self) -> str:
        return self.name


def torch_grad(scalar: Callable[..., Any], arrays: Arrays) -> Arrays:
    leaves = [to_tensor(x).requires_grad_() for x in arrays]
    return [to_numpy(g) for g in torch.autograd.grad(scalar(*leaves), leaves)]


def jax_grad(scalar: Callable[..., Any], arrays: Arrays) -> Arrays:
    leaves = [jnp.asarray(x) for x in arrays]
    return [np.asarray(g) for g in jax.grad(scalar, tuple(range(len(leaves))))(*leaves)]


TORCH = Room("torch", torch_impl, to_tensor, to_numpy, torch_grad)
JAX = Room("jax", jax_impl, jnp.asarray, np.asarray, jax_grad)
ROOMS = (TORCH, JAX)
each_room = pytest.mark.parametrize("room", ROOMS, ids=str)


@dataclass(frozen=True)
class Kernel:
    """One kernel of one room."""

    room: Room
    name: str

    def __str__(self) -> str:
        return f"{self.room}-{self.name}"

    def chosen(self, *arrays: Any, **options: Any) -> str:
        """Return this kernel's name, or "auto" where it refuses, having shown that it says why and does not answer."""
        try:
            choice = self.room.module.explain(*arrays, implementation=self.name, **options)
        except KernelRefused as refusal:
            before, reason = str(refusal).split(" refuses: ")
            assert before == f"kernel {self.name!r}"
            assert reason
            with pytest.raises(KernelRefused, match="refuses"):
                _ = self.room.module.dot_product_attention(*arrays, implementation=self.name, **options)
            return "auto"
        assert (choice.kernel.name, choice.refusals) == (self.name, ())
        return self.name

    def native(self, *arrays: np.ndarray, **options: Any) -> Any:
        """Return the answer to NumPy arrays, arrays among the options included, in the room's own arrays."""
        inputs = [self.room.array(x) if isinstance(x, np.ndarray) else x for x in arrays]
        options = {n: self.room.array(x) if isinstance(x, np.ndarray) else x for n, x in options.items()}
        return self.room.module.dot_product_attention(*inputs, implementation=self.chosen(*inputs, **options), **options)

    def attend(self, *arrays: np.ndarray, **options: Any) -> np.ndarray:
        """Return the context as NumPy."""
        return self.room.numpy(self.native(*arrays, **options))

    def stages(self, *arrays: np.ndarray, **options: Any) -> dict[str, np.ndarray]:
        """Return every stage as NumPy."""
        wanted = ("scores", "weights", "logsumexp", "context")
        context, stages = self.native(*arrays, return_stages=wanted, **options)
        assert tuple(stages) == wanted
        np.testing.assert_array_equal(self.room.numpy(context), self.room.numpy(stages["context"]))
        return {name: self.room.numpy(x) for name, x in stages.items()}

    def grads(self, *arrays: np.ndarray, along: np.ndarray, **options: Any) -> Arrays:
        """Return the gradient of `sum(context * along)` with respect to each array."""
        direction = self.room.array(along)
        name = self.chosen(*(self.room.array(x) for x in arrays), **options)

        def scalar(*inputs: Any) -> Any:
            out = self.room.module.dot_product_attention(*inputs, implementation=name, **options)
            return (out * direction).sum()

        return self.room.grad(scalar, list(arrays))


KERNELS = [Kernel(room, name) for room in ROOMS for name in room.module.KERNELS]
each_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=str)


@contextmanager
def x64() -> Iterator[None]:
    """JAX's 64-bit mode, which the oracle needs and torch always has."""
    with jax.enable_x64(True):
        yield


def close(got: Any, wanted: np.ndarray, within: float) -> None:
    """Raise unless `got` is `wanted` up to `within` times the largest finite element of `wanted`."""
    got, wanted = np.asarray(got), np.asarray(wanted)
    assert got.dtype == wanted.dtype, f"{got.dtype} must be {wanted.dtype}"
    assert got.shape == wanted.shape, f"{got.shape} must be {wanted.shape}"
    scale = np.max(np.abs(wanted), where=np.isfinite(wanted), initial=0.0)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=within * scale)
