"""Masks in torch: the spec's predicates on tensors, and masks as arguments of `torch.export`.

allowed = mask.allowed(grid), a bool tensor that broadcasts to (*batch, H, T, S)
"""

from __future__ import annotations

from typing import Any

import array_api_compat.torch as xp
import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree  # torch.export names this module as the way to pass one's own containers

from attention.spec.algebra import Grid, Mask, check_mask
from attention.spec.axes import Array, Sizes
from attention.spec.masks import KINDS


def native(mask: Mask | None, device: torch.device) -> Mask | None:
    """Return the mask with every array it holds as a tensor on `device`.

    Raises:
        MaskError: not a Mask.
    """
    return None if mask is None else check_mask(mask).map(lambda x: _wide(_tensor(x, device)))


def _tensor(x: Array, device: torch.device) -> Tensor:
    # A copy: torch warns of memory that must not be written to, and cannot count backwards through it.
    return torch.as_tensor(x.copy() if isinstance(x, np.ndarray) else x, device=device)


def _wide(x: Tensor) -> Tensor:
    """Return integers in 64 bits, for a narrow type of lengths or ids would overflow in the predicates' sums."""
    return x if x.dtype == torch.bool else x.to(torch.int64)


def read(x: Array) -> np.ndarray | None:
    """Return the values on the host, or None where they are unknown or looking would wait for an accelerator."""
    if torch.compiler.is_compiling() or type(x) is not Tensor or x.device.type != "cpu":
        return None
    # Torch has no public way to ask whether vmap hides the values.
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(x)  # noqa: SLF001  # pyright: ignore[reportAttributeAccessIssue]
    return None if wrapped else x.numpy()


def allowed(mask: Mask | None, sizes: Sizes, device: torch.device) -> Tensor | None:
    """Return a bool tensor that broadcasts to `(*batch, H, T, S)`, or None where all is allowed.

    Args:
        mask: a checked mask whose arrays are tensors on `device`.
        sizes: of the call.
        device: where the tensor shall be.
    """
    if mask is None:
        return None
    t, s = torch.arange(sizes.T, device=device)[:, None], torch.arange(sizes.S, device=device)
    return mask.allowed(Grid(t, s, sizes.T, sizes.S, xp=xp))


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
