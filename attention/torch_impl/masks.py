"""Masks in torch: dense masks from the spec's predicates, zeroing of masked tokens, masks as pytrees for `torch.export`.

allowed         = mask.allowed(grid), a bool tensor that broadcasts to (*batch, H, T, S)
zero_masked(...) = q, k, v                              if all values are known to be safe, the usual case
                   q, k, v with zeros for masked tokens     otherwise, or if a look would wait for the device
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import array_api_compat.torch as xp
import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree  # torch.export names this module as the way to pass one's own containers

from attention.spec.axes import Array, Sizes, dtype_name
from attention.spec.errors import MaskError
from attention.spec.kernels import Request, nan_safety
from attention.spec.kernels.nan_safety import (
    ALL_FINITE,
    STRIPE,
    Intermediates,
    NanSafeRequest,
    Nonfinite,
    Reach,
    Stripe,
    Tokens,
)
from attention.spec.masks import KINDS
from attention.spec.masks.algebra import Grid, Mask, check_mask


def native(mask: Mask | None, device: torch.device) -> Mask | None:
    """Return the mask with every array it holds as a tensor on `device`.

    Raises:
        MaskError: not a Mask.
    """
    return None if mask is None else check_mask(mask).map(lambda x: _wide(_tensor(x, device)))


def _tensor(x: Array, device: torch.device) -> Tensor:
    if not isinstance(x, (Tensor, np.ndarray, np.generic)) or (isinstance(x, Tensor) and x.layout is not torch.strided):
        raise MaskError(f"mask array {type(x).__module__}.{type(x).__name__} must be a dense torch.Tensor or numpy.ndarray")
    # A copy: torch warns of read-only memory and does not support negative strides.
    return torch.as_tensor(x if isinstance(x, Tensor) else np.array(x), device=device)


def _wide(x: Tensor) -> Tensor:
    """Return integers in 64 bits: narrow lengths or ids would overflow in the sums of predicates."""
    return x if x.dtype == torch.bool else x.to(torch.int64)


def read(x: Array) -> np.ndarray | None:
    """Return the values on the host, or None if they are unknown or reading them would wait for an accelerator."""
    return x.detach().numpy() if _open(x) else None


def _open(x: Array) -> bool:
    """Return whether the values can be read without waiting."""
    if torch.compiler.is_compiling() or type(x) not in (Tensor, torch.nn.Parameter) or x.device.type != "cpu":
        return False
    # Torch has no public test for a tensor under vmap.
    return not torch._C._functorch.is_functorch_wrapped_tensor(x)  # noqa: SLF001  # pyright: ignore[reportAttributeAccessIssue]


def allowed(mask: Mask | None, sizes: Sizes, device: torch.device) -> Tensor | None:
    """Return a bool tensor that broadcasts to `(*batch, H, T, S)`, or None where all is allowed.

    Args:
        mask: a checked mask whose arrays are tensors on `device`.
        sizes: of the call.
        device: of the tensor.
    """
    if mask is None:
        return None
    return mask.allowed(_grid(sizes, device))


def _grid(sizes: Sizes, device: torch.device) -> Grid:
    t, s = torch.arange(sizes.T, device=device)[:, None], torch.arange(sizes.S, device=device)
    return Grid(t, s, sizes.T, sizes.S, xp=xp)


def reach(mask: Mask, sizes: Sizes, device: torch.device, nonfinite: Nonfinite = ALL_FINITE) -> Reach:
    """Return which queries and keys the mask connects, a stripe of queries at a time; see `spec.kernels.nan_safety`."""
    # A compiler fuses the mask into its reductions, and the number of queries may be symbolic.
    if torch.compiler.is_compiling() or sizes.T <= STRIPE:
        return nan_safety.reach_of(xp, mask, _grid(sizes, device), nonfinite)
    queries, keys = torch.arange(sizes.T, device=device), torch.arange(sizes.S, device=device)
    parts: list[Reach] = []
    for stripe in queries.split(STRIPE):
        parts.append(nan_safety.reach_of(xp, mask, Stripe.of(xp, sizes, stripe, keys), nonfinite))
        if parts[0].rows.shape[-1] == parts[0].nonfinite.shape[-1] == 1:
            return parts[0]  # all queries are alike
    seen = parts[0].keys
    for part in parts[1:]:
        seen = seen | part.keys
    rows, bad = (torch.cat([part[i] for part in parts], dim=-1) for i in (0, 2))
    return Reach(rows, seen, bad)


def all_safe(*tensors: Tensor) -> bool:
    """Return whether all values are known to be safe (`nan_safety.safe_norm`): False if a look would wait for the device."""
    return all(_open(x) for x in tensors) and all(_norm(x) < nan_safety.safe_norm(dtype_name(x)) for x in tensors)


def _norm(x: Tensor) -> float:
    x = x.detach()
    wide = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
    return torch.linalg.vector_norm(x, dtype=wide).item()


def zero_masked(request: Request) -> Tokens:
    """Return q, k and v of a request with zeros for masked tokens, or as they are if all values are safe."""
    given = (request.q, request.k, request.v)
    if request.mask is None or not request.needs_zero_masking or isinstance(request, NanSafeRequest) or all_safe(*given):
        return given
    return nan_safety.zero_masked(xp, partial(reach, request.mask, request.sizes, request.q.device), request)


def confine_nan(request: Request, run: Callable[[Request], Intermediates]) -> Intermediates:
    """Return the intermediates of a request whose mask confines NaN; see `spec.kernels.nan_safety.confine_nan`."""
    mask, bias = request.mask, request.bias
    known = bias is None or (_open(bias) and not bias.isnan().any())
    if mask is None or (known and all_safe(request.q, request.k, request.v)):
        return run(NanSafeRequest.of(request))
    return nan_safety.confine_nan(xp, partial(reach, mask, request.sizes, request.q.device), request, run)


def zero_masked_inputs(
    mask: Mask | None, sizes: Sizes, query: Tensor, key: Tensor, value: Tensor, *, appended: bool = False
) -> tuple[Tokens, Tensor | None]:
    """Return a layer's inputs with zeros for masked tokens, and the output rows that are NaN, or None for none.

    See `spec.kernels.nan_safety.zero_masked_inputs`.
    """
    given = (query, key, value)
    if mask is None or (sizes.T == sizes.S and mask.keeps_self and not mask.confines_nan):
        return given, None
    if all_safe(*{id(x): x for x in given}.values()):
        # One alias each, so that gradients are added in the same order as after zeroing.
        return (query.view_as(query), key.view_as(key), value.view_as(value)), None
    return nan_safety.zero_masked_inputs(xp, partial(reach, mask, sizes, query.device), mask, *given, appended=appended)


def _register(kind: type[Mask]) -> None:
    def flatten(mask: Mask) -> tuple[list[Any], Any]:
        return list(mask.leaves().values()), mask.structure()

    def flatten_with_keys(mask: Mask) -> tuple[list[tuple[Any, Any]], Any]:
        return [(pytree.GetAttrKey(name), value) for name, value in mask.leaves().items()], mask.structure()

    def unflatten(leaves: Any, structure: Any) -> Mask:
        return kind.rebuild(structure, leaves)

    pytree.register_pytree_node(
        kind,
        flatten,
        unflatten,
        flatten_with_keys_fn=flatten_with_keys,
        serialized_type_name=f"attention.spec.{kind.__name__}",
        to_dumpable_context=list,
        from_dumpable_context=lambda pairs: tuple((name, value, traced) for name, value, traced in pairs),
    )


for _kind in KINDS:
    _register(_kind)

# An exported program is saved with its example inputs, and torch.load builds registered classes only.
torch.serialization.add_safe_globals(list(KINDS))
