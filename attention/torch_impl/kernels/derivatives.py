"""Refuse derivatives that torch's fused kernels lack: second order and forward mode, also under torch.func.

    order = transforms of torch.func around the call that differentiate, + 1 if autograd itself follows its inputs

A fused kernel has one backward pass. It must not run under a tangent, nor where the order exceeds 1; and where autograd
records the backward pass itself, whether it will be differentiated is only known once it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Torch has no public way to look at its transforms, or through them.
from torch._C import _functorch as functorch  # pyright: ignore[reportAttributeAccessIssue]
from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters
from torch.autograd import forward_ad

from attention.spec.errors import KernelRefused
from attention.torch_impl.kernels.constants import constant


def refuses(*inputs: Tensor | None) -> str | None:
    """Return why a kernel that has one backward pass cannot take these inputs, or None if it can."""
    given = [x for x in inputs if x is not None]
    # Without an open level of forward mode, the usual case, no tensor has a tangent.
    if getattr(forward_ad, "_current_level", 0) >= 0 and any(forward_ad.unpack_dual(x).tangent is not None for x in given):
        return "has no forward-mode derivative"
    order = _transforms()
    # What a compiler traces holds its values itself.
    if order and not torch.compiler.is_compiling():
        order += any(_innermost(x).requires_grad for x in given)
    return "has no second derivative" if order > 1 else None


def is_transformed(x: Tensor) -> bool:
    """Return whether a transform of torch.func holds the values of `x`; to a compiler nothing looks so."""
    return not torch.compiler.is_compiling() and bool(functorch.is_functorch_wrapped_tensor(x))


@constant
def _transforms() -> int:
    """Return how many transforms around this call differentiate."""
    return sum(level.key().name in ("Grad", "Jvp") for level in retrieve_all_functorch_interpreters())


def _innermost(x: Tensor) -> Tensor:
    while functorch.is_functorch_wrapped_tensor(x):
        x = functorch.get_unwrapped(x)
    return x


def once(kernel: str, x: Tensor) -> Tensor:
    """Return `x`, whose gradient may be taken but not differentiated again.

    Raises:
        KernelRefused: later, when a backward pass through the backward pass arrives here.
    """
    if not x.requires_grad or torch.compiler.is_compiling() or is_transformed(x):
        return x
    x = x.view_as(x)
    if x.requires_grad:
        _ = x.register_hook(lambda g: _marked(g, kernel))
    return x


def last(kernel: str, out: Tensor) -> Tensor:
    """Return `out`, as one operation of a fused kernel made it: as `once` of all inputs of that operation, and cheaper.

    Raises:
        KernelRefused: later, when a backward pass through the backward pass arrives here.
    """
    if out.requires_grad and not torch.compiler.is_compiling() and out.grad_fn is not None and not is_transformed(out):
        _ = out.grad_fn.register_hook(lambda made, _: tuple(_marked(g, kernel) for g in made))
    return out


def _marked(g: Tensor | None, kernel: str) -> Tensor | None:
    # A gradient that is not recorded, as usual, costs nothing; torch passes None where there is none at all.
    return _Last.apply(g, kernel) if g is not None and g.requires_grad else g


class _Last(torch.autograd.Function):
    """The identity, and no derivative."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, kernel: str) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.kernel = kernel
        return g.view_as(g)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise KernelRefused(f"kernel {ctx.kernel!r} refuses: has no second derivative; implementation='reference' has")
