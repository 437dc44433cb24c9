"""`dot_product_attention` in PyTorch: check the call, choose a kernel, run it; known signatures reuse a cached plan.

context = softmax(q k^T * scale + ...) v        see attention/spec/attend.py
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from inspect import signature as signature_of
from typing import Any, Unpack, overload

import torch
from torch import Tensor

# Torch has no public way to detect an active transform.
from torch._C import _functorch as functorch  # pyright: ignore[reportAttributeAccessIssue]
from torch.autograd import forward_ad

from attention.spec.axes import check_beside, check_float, sizes
from attention.spec.call_types import AttendOptions, Names
from attention.spec.errors import DTypeError, OptionError
from attention.spec.kernels.kernel import _RECORDS, Choice, answer, choose  # pyright: ignore[reportPrivateUsage]
from attention.spec.kernels.plan_cache import Call, Plans
from attention.spec.kernels.request import OPTIONAL, Request, intermediate_names
from attention.spec.masks.algebra import Mask
from attention.spec.scores import SCORE_MOD, ScaledDot, ScoreMod
from attention.torch_impl.kernels import KERNELS
from attention.torch_impl.masks import confine_nan, native, read
from attention.torch_impl.random import check_seed

PLANS: Plans[Call] = Plans()
"""Of calls that have no options but structure."""


@overload
def dot_product_attention(
    q: Tensor, k: Tensor, v: Tensor, *, return_intermediates: tuple[()] = ..., **options: Unpack[AttendOptions[Tensor]]
) -> Tensor: ...


@overload
def dot_product_attention(
    q: Tensor, k: Tensor, v: Tensor, *, return_intermediates: Names, **options: Unpack[AttendOptions[Tensor]]
) -> tuple[Tensor, dict[str, Tensor]]: ...


@overload
def dot_product_attention(
    q: Tensor, k: Tensor, v: Tensor, *, return_intermediates: tuple[str, ...], **options: Unpack[AttendOptions[Tensor]]
) -> Tensor | tuple[Tensor, dict[str, Tensor]]: ...
def dot_product_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    score_mod: ScoreMod | None = None,
    sinks: Tensor | None = None,
    dropout_rate: float = 0.0,
    dropout_seed: Any = None,
    precision: str | None = None,
    return_intermediates: tuple[str, ...] = (),
    implementation: str = "auto",
) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
    """Return the attention of queries to keys and values.

    Args:
        q: `(*batch, T, H, D)`.
        k: `(*batch, S, K, D)`; query head h reads key/value head `h // (H // K)`.
        v: `(*batch, S, K, E)`.
        mask: which keys a query may attend to, such as `spec.Causal() & spec.Lengths(kv=[7, 5])`; None allows all.
        bias: added to the scores, broadcastable to `(*batch, H, T, S)`.
        scale: factor of `q . k`; None means 1 / sqrt(D).
        softcap: bounds scores to (-softcap, softcap) before the bias.
        score_mod: `(score, b, h, t, s) -> score`, written with operators, applied after the bias and before the mask.
        sinks: `(H,)` logits that join the denominator of the softmax and have no value.
        dropout_rate: probability of dropping a weight, in [0, 1).
        dropout_seed: an int or an integer scalar: the same seed drops the same weights in every framework and kernel.
        precision: least precision of float32 products: None (as the framework is set), "default", "high", "highest".
        return_intermediates: names among `spec.INTERMEDIATES`, to be returned as well. They never change which kernel makes the
            context.
        implementation: "auto", or the name of a kernel.

    Returns:
        `(*batch, T, H, E)` in the dtype of `q`; with `return_intermediates`, that and a dict of intermediates.

    Raises:
        ShapeError: a rank or a size does not fit.
        DTypeError: not a tensor, not floating, or two dtypes.
        MaskError: the mask does not fit, or leaves its alignment unsaid.
        OptionError: an option outside its range.
        UnknownName: no such kernel.
        KernelRefused: the kernel chosen by name refuses the call.
    """
    if not torch.is_grad_enabled():
        q, k, v = _unrecorded(q), _unrecorded(k), _unrecorded(v)
    named = intermediate_names(return_intermediates)
    absent = bias is sinks is score_mod is precision is None and not named
    if absent and is_plain(scale, softcap, dropout_rate, implementation):
        found = signature(q, k, v)
        if found is not None:
            found = (found, id(mask), scale, softcap, implementation)
            call = PLANS.get(found) or plan(PLANS, found, q, k, v, mask, scale, softcap, implementation)
            if call is not None:
                return call.run(q, k, v)
    request = make_request(q, k, v, mask, bias, scale, softcap, score_mod, sinks, dropout_rate, dropout_seed, precision, named)
    intermediates = _run(request, implementation)
    return (intermediates["context"], {name: intermediates[name] for name in named}) if named else intermediates["context"]


def plan(
    plans: Plans[Call],
    found: Hashable,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Mask | None,
    scale: float | None,
    softcap: float | None,
    implementation: str,
) -> Call | None:
    """Return the plan of a checked call, stored in `plans` by its signature, or None if it depends on array values.

    Raises:
        AttentionError: as `dot_product_attention`.
    """
    if isinstance(mask, Mask) and (mask.confines_nan or not mask.is_static):
        return None
    request = make_request(q, k, v, mask, None, scale, softcap)
    kernel = choose(KERNELS, request, implementation).kernel
    return plans.keep(found, Call.of(request, kernel, mask, KERNELS.rules, *KERNELS.values()))


def _unrecorded(x: Tensor) -> Tensor:
    """Return a tensor without requires_grad, for calls under no_grad, so that it does not affect the choice of a kernel."""
    return x.detach() if isinstance(x, Tensor) and x.requires_grad else x  # pyright: ignore[reportUnnecessaryIsInstance]


def is_plain(scale: Any, softcap: Any, dropout_rate: Any, implementation: Any) -> bool:
    """Return whether a plan can be keyed by the options: Python numbers, no dropout."""
    numbers = (float, int)
    return (
        (scale is None or type(scale) in numbers)
        and (softcap is None or type(softcap) in numbers)
        and type(dropout_rate) in numbers
        and dropout_rate == 0
        and type(implementation) is str
    )


def signature(*tensors: Tensor) -> tuple[Any, ...] | None:
    """Return all properties of tensors, except their values, that checks and kernels depend on.

    None if they must be checked at every call: inside a compiler, a transform or autocast, for tensor subclasses, and while
    the chosen kernels are recorded.
    """
    if torch.compiler.is_compiling() or functorch.peek_interpreter_stack() is not None or _RECORDS:
        return None
    if getattr(forward_ad, "_current_level", 0) >= 0:
        return None
    found: list[Any] = [torch.is_grad_enabled(), id(KERNELS.rules), *map(id, KERNELS.values())]
    for x in tensors:
        if (type(x) is not Tensor and type(x) is not torch.nn.Parameter) or autocasts(x.device):
            return None
        found += (x.shape, x.dtype, x.device, x.requires_grad)
    return tuple(found)


def _run(request: Request, implementation: str) -> dict[str, Tensor]:
    run = partial(answer, KERNELS, implementation=implementation)
    if request.mask is None or not request.mask.confines_nan:
        return run(request)
    return confine_nan(request, run)


OPTIONS = tuple(name for name, p in signature_of(dot_product_attention).parameters.items() if p.kind is p.KEYWORD_ONLY)


def explain(q: Tensor, k: Tensor, v: Tensor, *, implementation: str = "auto", **options: Any) -> Choice:
    """Return the choice that `dot_product_attention` would make for the same arguments: the kernel and every refusal."""
    for name in options:
        if name not in OPTIONS:
            raise OptionError(f"{name} is no argument of dot_product_attention: {', '.join(OPTIONS)}")
    intermediates = intermediate_names(options.pop("return_intermediates", ()))
    return choose(KERNELS, make_request(q, k, v, **options, intermediates=intermediates), implementation)


def make_request(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Mask | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    score_mod: ScoreMod | None = None,
    sinks: Tensor | None = None,
    dropout_rate: float = 0.0,
    dropout_seed: Any = None,
    precision: str | None = None,
    intermediates: tuple[str, ...] = (),
) -> Request:
    """Return the checked request of a call; arguments as in `dot_product_attention`."""
    if dropout_seed is not None:
        check_seed(dropout_seed)
    if score_mod is not None and not torch.compiler.is_compiling():
        SCORE_MOD.check("score_mod", score_mod)
    check_tensors(query=q, key=k, value=v, bias=bias, sinks=sinks)
    dtype = check_float(query=q, key=k, value=v)
    check_beside(dtype, bias=bias, sinks=sinks)
    of = sizes(q, k, v)
    mask = native(mask, q.device)
    if mask is not None:
        mask.check(of, read)
    factor = ScaledDot(scale).factor(of.D)
    return Request(
        q,
        k,
        v,
        of,
        dtype,
        factor,
        mask,
        bias,
        softcap,
        score_mod,
        sinks,
        dropout_rate,
        dropout_seed,
        precision,
        intermediates,
        q.device.type,
    )


def check_tensors(**arrays: Any) -> None:
    """Raise DTypeError unless each argument is a tensor; those of `OPTIONAL` may be None."""
    for name, array in arrays.items():
        if not isinstance(array, Tensor) and not (array is None and name in OPTIONAL):
            raise DTypeError(f"{name} {type(array).__module__}.{type(array).__name__} must be a torch.Tensor")
        if array is not None and array.layout is not torch.strided:
            raise DTypeError(f"{name} {array.layout} must be a dense torch.Tensor")
    check_devices(**arrays)


def check_devices(**arrays: Tensor | None) -> None:
    """Raise DTypeError unless all tensors are on one device."""
    first = ""
    for name, array in arrays.items():
        if array is None:
            continue
        first = first or name
        wanted = arrays[first]
        if wanted is not None and array.device != wanted.device:
            raise DTypeError(f"{name} on {array.device} must be on {wanted.device} as {first} is")


def autocasts(device: torch.device) -> bool:
    """Return whether autocast is at work on a device."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)
