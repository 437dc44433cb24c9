"""Masks in torch: the spec's predicates on tensors, what they hide, and masks as arguments of `torch.export`.

allowed         = mask.allowed(grid), a bool tensor that broadcasts to (*batch, H, T, S)
shielded(q,k,v) = q, k, v                              where all numbers are calm, as they nearly always are
                  q, k, v with zeros where unread      where not, or where to look would wait: see spec/kernels/nan_safety.py
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
from attention.spec.kernels import Request
from attention.spec.kernels import nan_safety as isolation
from attention.spec.kernels.nan_safety import STRIPE, UNMARKED, Intermediates, Marks, Reach, Sound, Stripe, Tokens
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
    # A copy: torch warns of memory that must not be written to, and cannot count backwards through it.
    return torch.as_tensor(x if isinstance(x, Tensor) else np.array(x), device=device)


def _wide(x: Tensor) -> Tensor:
    """Return integers in 64 bits, for a narrow type of lengths or ids would overflow in the predicates' sums."""
    return x if x.dtype == torch.bool else x.to(torch.int64)


def read(x: Array) -> np.ndarray | None:
    """Return the values on the host, or None where they are unknown or looking would wait for an accelerator."""
    return x.detach().numpy() if _open(x) else None


def _open(x: Array) -> bool:
    """Return whether the values can be looked at now, without waiting."""
    if torch.compiler.is_compiling() or type(x) not in (Tensor, torch.nn.Parameter) or x.device.type != "cpu":
        return False
    # Torch has no public way to ask whether vmap hides the values.
    return not torch._C._functorch.is_functorch_wrapped_tensor(x)  # noqa: SLF001  # pyright: ignore[reportAttributeAccessIssue]


def allowed(mask: Mask | None, sizes: Sizes, device: torch.device) -> Tensor | None:
    """Return a bool tensor that broadcasts to `(*batch, H, T, S)`, or None where all is allowed.

    Args:
        mask: a checked mask whose arrays are tensors on `device`.
        sizes: of the call.
        device: where the tensor shall be.
    """
    if mask is None:
        return None
    return mask.allowed(_grid(sizes, device))


def _grid(sizes: Sizes, device: torch.device) -> Grid:
    t, s = torch.arange(sizes.T, device=device)[:, None], torch.arange(sizes.S, device=device)
    return Grid(t, s, sizes.T, sizes.S, xp=xp)


def reach(mask: Mask, sizes: Sizes, device: torch.device, marks: Marks = UNMARKED) -> Reach:
    """Return who reads whom, the mask being asked of a stripe of queries at a time; see `spec.isolation`."""
    # A compiler fuses the mask into what is asked of it, and need not know how many queries there are.
    if torch.compiler.is_compiling() or sizes.T <= STRIPE:
        return isolation.look(xp, mask, _grid(sizes, device), marks)
    queries, keys = torch.arange(sizes.T, device=device), torch.arange(sizes.S, device=device)
    parts: list[Reach] = []
    for stripe in queries.split(STRIPE):
        parts.append(isolation.look(xp, mask, Stripe.of(xp, sizes, stripe, keys), marks))
        if parts[0].rows.shape[-1] == parts[0].lost.shape[-1] == 1:
            return parts[0]  # all queries are alike
    seen = parts[0].keys
    for part in parts[1:]:
        seen = seen | part.keys
    rows, lost = (torch.cat([part[i] for part in parts], dim=-1) for i in (0, 2))
    return Reach(rows, seen, lost)


def calm(*tensors: Tensor) -> bool:
    """Return whether all numbers are known to be calm, as `spec.isolation` calls it: False where to look would wait."""
    return all(_open(x) for x in tensors) and all(_norm(x) < isolation.calm_norm(dtype_name(x)) for x in tensors)


def _norm(x: Tensor) -> float:
    x = x.detach()
    wide = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
    return torch.linalg.vector_norm(x, dtype=wide).item()


def shielded(request: Request) -> Tokens:
    """Return q, k and v of a request with zeros, or calm numbers, where nothing may be read."""
    given = (request.q, request.k, request.v)
    if request.mask is None or not request.needs_shield or isinstance(request, Sound) or calm(*given):
        return given
    return isolation.shielded(xp, partial(reach, request.mask, request.sizes, request.q.device), request)


def isolated(request: Request, run: Callable[[Request], Intermediates]) -> Intermediates:
    """Return the intermediates of a request whose mask isolates documents; arguments as `spec.isolation.isolated`."""
    mask, bias = request.mask, request.bias
    known = bias is None or (_open(bias) and not bias.isnan().any())
    if mask is None or (known and calm(request.q, request.k, request.v)):
        return run(Sound.of(request))
    return isolation.isolated(xp, partial(reach, mask, request.sizes, request.q.device), request, run)


def sheltered(
    mask: Mask | None, sizes: Sizes, query: Tensor, key: Tensor, value: Tensor, *, appended: bool = False
) -> tuple[Tokens, Tensor | None]:
    """Return a layer's inputs with zeros where nothing may be read, and the rows that have to say they are lost.

    As `spec.isolation.sheltered`, of whose rows None names none.
    """
    given = (query, key, value)
    if mask is None or (sizes.T == sizes.S and mask.keeps_self and not mask.isolates):
        return given, None
    if calm(*{id(x): x for x in given}.values()):
        # One alias each, so that gradients are added up in the same order whether there was anything to shelter or not.
        return (query.view_as(query), key.view_as(key), value.view_as(value)), None
    return isolation.sheltered(xp, partial(reach, mask, sizes, query.device), mask, *given, appended=appended)


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

# An exported program is saved with the inputs it was traced on, and its loader makes only what it was told is harmless.
torch.serialization.add_safe_globals(list(KINDS))
