"""The passes as one custom operator for torch.compile and torch.export; blocks are planned at run time.

    graph: context, logsumexp = attention::blockwise(q, k, v, bias, sinks, arrays, batch, said)
    said  = options and mask structure as text; arrays = the mask's arrays

A graph of one mask's blocks would be wrong for the next mask. The graph holds one operator, which plans its blocks at run
time from the mask's values: new lengths or documents do not recompile.
"""

from __future__ import annotations

from ast import literal_eval
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attention.spec.axes import COMPUTE, Sizes, dtype_name
from attention.spec.kernels import Request
from attention.spec.masks import KINDS
from attention.spec.masks.algebra import Mask
from attention.torch_impl.kernels.blockwise.call import Limits, call_of, zero_masked_call
from attention.torch_impl.kernels.blockwise.passes import backward, forward
from attention.torch_impl.kernels.blockwise.products import Rule
from attention.torch_impl.kernels.blockwise.steps import Call
from attention.torch_impl.kernels.constants import constant

_KINDS = {kind.__name__: kind for kind in KINDS}
_TENSORS = "Tensor q, Tensor k, Tensor v, Tensor? bias, Tensor? sinks, Tensor[] arrays, SymInt[] batch, str said"


def attention(limits: Limits, request: Request, zero_masking: bool, *given: Any) -> tuple[Tensor, Tensor]:
    """Return context and logsumexp inside a graph.

    Args:
        limits: of the kernel.
        request: the call.
        zero_masking: whether masked tokens may hold NaN.
        *given: q, k, v, bias and sinks, as `passes.forward` takes them.
    """
    arrays: list[Tensor] = []
    # Python's own numbers: the repr of NumPy's is not a literal.
    seed = int(request.dropout_seed) if isinstance(request.dropout_seed, np.integer) else request.dropout_seed
    mask, seed = _encoded(request.mask, arrays), _encoded(seed, arrays)
    softcap = None if request.softcap is None else float(request.softcap)
    rule = (float(request.scale), softcap, float(request.dropout_rate))
    options = ((limits.tile, limits.most, limits.side, limits.fused), rule, zero_masking)
    return torch.ops.attention.blockwise(*given, arrays, request.sizes.batch, _literals(mask, seed, options))


@constant
def _literals(*encoded: Any) -> str:
    return repr(encoded)


def _encoded(x: Any, arrays: list[Tensor]) -> tuple[str, str, Any]:
    """Return a mask, or a part of one, as literals, and append its arrays to a list."""
    if isinstance(x, Mask):
        return "mask", type(x).__name__, tuple((name, traced, _encoded(value, arrays)) for name, value, traced in x.parts())
    if isinstance(x, tuple):
        return "several", "", tuple(_encoded(part, arrays) for part in x)  # pyright: ignore[reportUnknownVariableType]
    if isinstance(x, Tensor):
        arrays.append(x)
        return "array", "", len(arrays) - 1
    return "structure", "", x


def _decoded(encoded: tuple[str, str, Any], arrays: list[Tensor]) -> Any:
    """Return the mask from the literals of `_encoded` and its arrays."""
    kind, name, x = encoded
    if kind == "mask":
        values = [(field, traced, _decoded(value, arrays)) for field, traced, value in x]
        structure = [(field, None if traced else value, traced) for field, traced, value in values]
        return _KINDS[name].rebuild(structure, [value for _, traced, value in values if traced])
    if kind == "several":
        return tuple(_decoded(part, arrays) for part in x)
    return arrays[x] if kind == "array" else x


_read = lru_cache(maxsize=256)(literal_eval)


def _call(
    q: Tensor, k: Tensor, v: Tensor, arrays: list[Tensor], batch: Any, said: str
) -> tuple[Call, tuple[Tensor, Tensor, Tensor]]:
    """Return the call, and q, k and v with zeros for masked tokens if needed."""
    mask, seed, (limits, (scale, softcap, rate), zero_masking) = _read(said)
    _, t, heads, group, d = q.shape
    sizes = Sizes(tuple(batch), t, k.shape[1], heads * group, heads, d, v.shape[-1])
    call = call_of(Limits(*limits), _decoded(mask, arrays), sizes, Rule(scale, softcap, rate), _decoded(seed, arrays), q.device)
    return call, zero_masked_call(call, q, k, v) if zero_masking else (q, k, v)


def _forward(
    q: Tensor, k: Tensor, v: Tensor, bias: Any, sinks: Any, arrays: Any, batch: Any, said: str
) -> tuple[Tensor, Tensor]:
    call, given = _call(q, k, v, arrays, batch, said)
    return forward(call, *given, bias, sinks)


def _shape_forward(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    del k, rest
    return q.new_empty((*q.shape[:-1], v.shape[-1])), q.new_empty(q.shape[:-1], dtype=_compute(q))


def _backward(
    q: Tensor, k: Tensor, v: Tensor, bias: Any, sinks: Any, arrays: Any, batch: Any, said: str, *rest: Any
) -> tuple[Tensor, ...]:
    out, lse, g, g_lse, wants_bias = rest
    call, given = _call(q, k, v, arrays, batch, said)
    made = backward(call, (*given, bias, sinks), (out, lse), (g, g_lse), wants_bias)
    return tuple(q.new_empty(0) if x is None else x for x in made)


def _shape_backward(q: Tensor, k: Tensor, v: Tensor, bias: Any, sinks: Any, *rest: Any) -> tuple[Tensor, ...]:
    dbias = bias.new_empty(bias.shape, dtype=_compute(q)) if rest[-1] else q.new_empty(0)
    return *(x.new_empty(x.shape) for x in (q, k, v)), dbias, q.new_empty(0) if sinks is None else sinks.new_empty(sinks.shape)


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    *given, arrays, ctx.batch, ctx.said = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*given, *output, *arrays)


def _gradients(ctx: Any, *grads: Any) -> Any:
    *given, out, lse = ctx.saved_tensors[:7]
    arrays = list(ctx.saved_tensors[7:])
    wanted = ctx.needs_input_grad[:5]
    made = torch.ops.attention.blockwise_backward(*given, arrays, ctx.batch, ctx.said, out, lse, *grads, wanted[3])
    return *(x if want else None for x, want in zip(made, wanted, strict=True)), [None] * len(arrays), None, None


def _compute(x: Tensor) -> torch.dtype:
    return getattr(torch, COMPUTE[dtype_name(x)])


_five = ", ".join(["Tensor"] * 5)
_ahead = torch.library.custom_op("attention::blockwise", _forward, mutates_args=(), schema=f"({_TENSORS}) -> (Tensor, Tensor)")
_back = torch.library.custom_op(
    "attention::blockwise_backward",
    _backward,
    mutates_args=(),
    schema=f"({_TENSORS}, Tensor out, Tensor lse, Tensor? g, Tensor? g_lse, bool wants_bias) -> ({_five})",
)
_ = _ahead.register_fake(_shape_forward), _back.register_fake(_shape_backward)
_ahead.register_autograd(_gradients, setup_context=_keep)
