"""Additive scores in torch: all hidden features at once, or a few at a time, in both passes.

x[t, s] = sum_a v[a] tanh(q[t, a] + k[s, a])        see attention/spec/layers/alignment_scores.py

Autograd would keep every slice's tanh for the backward pass, and together they are the (*batch, T, S, A) tensor again; so
the lean form has derivatives of its own, which make each slice anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import Any

import array_api_compat.torch as xp
import torch
from torch import Tensor

from attention.spec.layers import alignment_scores as spec


def additive(q: Tensor, k: Tensor, v: Tensor, *, lean: int | None = None) -> Tensor:
    """Return `v . tanh(q + k)` of every pair.

    Args:
        q: `(*batch, T, A)`, the mapped queries, in the compute dtype; so are the others.
        k: `(*batch, S, A)`, the mapped keys.
        v: `(A,)`.
        lean: how many of the A features are computed at a time; None means all.

    Returns:
        `(*batch, T, S)`.
    """
    if lean is None:
        return spec.additive(xp, q, k, v)
    # torch.compile takes no function with a forward-mode derivative of its own.
    function = _Lean if torch.compiler.is_compiling() else _Forward
    return function.apply(q, k, v, lean)


class _Lean(torch.autograd.Function):
    """The sum over slices, which keeps its inputs alone."""

    generate_vmap_rule = True

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, lean: int) -> Tensor:
        return reduce(torch.add, (spec.additive(xp, *part) for part in _slices(q, k, v, lean=lean)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004 - torch names it
        *arrays, ctx.lean = inputs
        ctx.save_for_backward(*arrays)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0][..., None]
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for q, k, v in _slices(*ctx.saved_tensors, lean=ctx.lean):
            raised = _raised(q, k)
            slope = grad * v * (1.0 - raised * raised)
            parts.append((slope.sum(-2), slope.sum(-3), (grad * raised).flatten(end_dim=-2).sum(0)))
        return (*(torch.cat(slices, dim=-1) for slices in zip(*parts, strict=True)), None)


class _Forward(_Lean):
    """The same, with a derivative in forward mode."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _Lean.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:3])

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        at = ctx.saved_tensors
        along = (torch.zeros_like(x) if way is None else way for x, way in zip(at, tangents, strict=False))
        return reduce(torch.add, (_moved(*part) for part in _slices(*at, *along, lean=ctx.lean)))


def _moved(q: Tensor, k: Tensor, v: Tensor, d_q: Tensor, d_k: Tensor, d_v: Tensor) -> Tensor:
    """Return how one slice's term moves with its arguments."""
    raised = _raised(q, k)
    slope = (1.0 - raised * raised) * (d_q[..., :, None, :] + d_k[..., None, :, :])
    return torch.matmul(slope, v) + torch.matmul(raised, d_v)


def _raised(q: Tensor, k: Tensor) -> Tensor:
    return torch.tanh(q[..., :, None, :] + k[..., None, :, :])


def _slices(*arrays: Tensor, lean: int) -> Iterator[tuple[Tensor, ...]]:
    """Give the features of all arrays, `lean` at a time."""
    return zip(*(x.split(lean, dim=-1) for x in arrays), strict=True)
