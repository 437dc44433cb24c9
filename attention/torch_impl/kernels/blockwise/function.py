"""The passes as a `torch.autograd.Function` with vmap: first derivatives only; a batch of calls runs as one call.

Attention(q, k, v, bias, sinks) = context, logsumexp        d Attention = Gradient        d Gradient: refused
vmap(Attention) of n calls of B rows                        = Attention of n B rows, whose masks repeat
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

# Torch has no public way to unwrap the tensors of its transforms.
from torch._C import _functorch as functorch  # pyright: ignore[reportAttributeAccessIssue]

from attention.spec.errors import KernelRefused
from attention.spec.masks.algebra import Mask
from attention.torch_impl.kernels.blockwise.passes import backward, forward
from attention.torch_impl.kernels.blockwise.plan import repeated
from attention.torch_impl.kernels.blockwise.steps import Call

Inputs = tuple[Any, ...]
"""q, k, v, bias and sinks, as `passes.forward` takes them."""


class Attention(torch.autograd.Function):
    """Context and logsumexp."""

    @staticmethod
    def forward(call: Call, *given: Any) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return forward(call, *given)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.call, *given = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*given, *output)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        wants_bias = ctx.needs_input_grad[4]
        made = Gradient.apply(ctx.call, wants_bias, *ctx.saved_tensors, *grads)
        # An absent gradient is an empty tensor, because a function under vmap must return tensors.
        return None, *(x if wanted else None for x, wanted in zip(made, ctx.needs_input_grad[1:], strict=True))

    @staticmethod
    def vmap(info: Any, in_dims: Any, call: Call, *given: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        n = info.batch_size
        out = Attention.apply(_repeated(call, n), *_flat(_batched(given, in_dims[1:], n)))
        return tuple(x.unflatten(0, (n, -1)) for x in out), (0, 0)


class Gradient(torch.autograd.Function):
    """The gradients of q, k, v, bias and sinks; those not wanted are empty."""

    @staticmethod
    def forward(call: Call, wants_bias: bool, *tensors: Any) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        given, made, grads = tensors[:5], tensors[5:7], tensors[7:]
        with torch.autocast(made[0].device.type, enabled=False):
            found = backward(call, given, made, grads, wants_bias)
        return tuple(made[0].new_zeros(0) if x is None else x for x in found)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        del ctx, grads
        raise KernelRefused("kernel 'blockwise' refuses: has no second derivative; implementation='reference' has")

    @staticmethod
    def vmap(info: Any, in_dims: Any, call: Call, wants_bias: bool, *tensors: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        n = info.batch_size
        batched = _batched(tensors, in_dims[2:], n)
        found = Gradient.apply(_repeated(call, n), wants_bias, *_flat(batched))
        # An input shared by the rows of a call gets the sum of their gradients.
        made = tuple(_summed(x, own, n) for x, own in zip(found, batched[:5], strict=True))
        return made, (0,) * len(found)


def _summed(x: Tensor, own: Tensor | None, n: int) -> Tensor:
    """Return n gradients of the shape of `own`, or n empty ones if not wanted."""
    if own is None or (own.numel() and not x.numel()):
        return x.new_zeros(n, 0)
    return x.unflatten(0, (n, -1)).sum_to_size(own.shape) if own.numel() else x.new_zeros(own.shape)


def _batched(tensors: Inputs, dims: Any, n: int) -> list[Tensor | None]:
    """Return tensors with the axis that vmap names as their first, of size n."""
    every = zip(tensors, dims, strict=True)
    return [None if x is None else x.expand(n, *x.shape) if dim is None else x.movedim(dim, 0) for x, dim in every]


def _flat(tensors: list[Tensor | None]) -> Inputs:
    """Return tensors `(n, 1 or B, ...)` as `(n B, ...)`; a row shared by a call must not be shared by all calls."""
    rows = tensors[0].shape[1] if tensors[0] is not None else 1
    return tuple(None if x is None else x.expand(-1, rows, *x.shape[2:]).flatten(0, 1) for x in tensors)


def _repeated(call: Call, n: int) -> Call:
    batch = call.sizes.batch
    return replace(call, plan=repeated(call.plan, n, batch), sizes=replace(call.sizes, batch=(n, *batch)))


def bare(mask: Mask) -> Mask | None:
    """Return the mask without the wrappers of torch.func.grad, as it has no derivative; None if it is under vmap."""
    if mask.is_static:
        return mask
    hidden: list[Tensor] = []

    def look(x: Tensor) -> Tensor:
        while functorch.is_functorch_wrapped_tensor(x):
            if functorch.is_batchedtensor(x):
                hidden.append(x)
                break
            x = functorch.get_unwrapped(x)
        return x

    seen = mask.map(look)
    return None if hidden else seen
