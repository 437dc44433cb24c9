"""Additive attention scores in torch, with all hidden features at once or in chunks, forward and backward.

x[t, s] = sum_a v[a] tanh(q[t, a] + k[s, a])        see attention/spec/layers/alignment_scores.py

Autograd would keep every slice's tanh for the backward pass, and together they are the (*batch, T, S, A) tensor again; so
the chunked form has derivatives of its own, which recompute each slice.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import Any

import array_api_compat.torch as xp
import torch
from torch import Tensor

from attention.spec.layers import alignment_scores as spec


def additive(q: Tensor, k: Tensor, v: Tensor, *, chunk_size: int | None = None) -> Tensor:
    """Return `v . tanh(q + k)` of every pair.

    Args:
        q: `(*batch, T, A)`, the mapped queries, in the compute dtype; so are the others.
        k: `(*batch, S, A)`, the mapped keys.
        v: `(A,)`.
        chunk_size: features computed at a time; None for all A.

    Returns:
        `(*batch, T, S)`.
    """
    if chunk_size is None:
        return spec.additive(xp, q, k, v)
    # torch.compile takes no function with a forward-mode derivative of its own.
    function = _Chunked if torch.compiler.is_compiling() else _Forward
    return function.apply(q, k, v, chunk_size)


class _Chunked(torch.autograd.Function):
    """The sum over slices, which keeps its inputs alone."""

    generate_vmap_rule = True

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, chunk_size: int) -> Tensor:
        return reduce(torch.add, (spec.additive(xp, *part) for part in _slices(q, k, v, chunk_size=chunk_size)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004 - torch names it
        *arrays, ctx.chunk_size = inputs
        ctx.save_for_backward(*arrays)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0][..., None]
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for q, k, v in _slices(*ctx.saved_tensors, chunk_size=ctx.chunk_size):
            raised = _raised(q, k)
            slope = grad * v * (1.0 - raised * raised)
            parts.append((slope.sum(-2), slope.sum(-3), (grad * raised).flatten(end_dim=-2).sum(0)))
        return (*(torch.cat(slices, dim=-1) for slices in zip(*parts, strict=True)), None)


class _Forward(_Chunked):
    """The same, with a derivative in forward mode."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _Chunked.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:3])

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        at = ctx.saved_tensors
        along = (torch.zeros_like(x) if way is None else way for x, way in zip(at, tangents, strict=False))
        return reduce(torch.add, (_moved(*part) for part in _slices(*at, *along, chunk_size=ctx.chunk_size)))


def _moved(q: Tensor, k: Tensor, v: Tensor, d_q: Tensor, d_k: Tensor, d_v: Tensor) -> Tensor:
    """Return how one slice's term moves with its arguments."""
    raised = _raised(q, k)
    slope = (1.0 - raised * raised) * (d_q[..., :, None, :] + d_k[..., None, :, :])
    return torch.matmul(slope, v) + torch.matmul(raised, d_v)


def _raised(q: Tensor, k: Tensor) -> Tensor:
    return torch.tanh(q[..., :, None, :] + k[..., None, :, :])


def _slices(*arrays: Tensor, chunk_size: int) -> Iterator[tuple[Tensor, ...]]:
    """Yield slices of `chunk_size` features of all arrays."""
    return zip(*(x.split(chunk_size, dim=-1) for x in arrays), strict=True)
