"""Masks in JAX: the spec's predicates on arrays, and every mask a pytree: data are leaves, structure is static.

allowed = mask.allowed(grid), a bool array that broadcasts to (*batch, H, T, S)
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from attention.spec.algebra import Grid, Mask, check_mask
from attention.spec.axes import Array, Sizes
from attention.spec.masks import KINDS


def native(mask: Mask | None) -> Mask | None:
    """Return the mask with every array it holds as a JAX array.

    Raises:
        MaskError: not a Mask.
    """
    return None if mask is None else check_mask(mask).map(lambda x: _wide(jnp.asarray(x)))


def _wide(x: jax.Array) -> jax.Array:
    """Return integers in JAX's own width, for a narrow type of lengths or ids would overflow in the predicates' sums."""
    return x if x.dtype == bool else x.astype(int)


def read(x: Array) -> np.ndarray | None:
    """Return the values on the host, or None where they are traced or where looking would wait for an accelerator."""
    if isinstance(x, Tracer) or any(device.platform != "cpu" for device in x.devices()):
        return None
    return np.asarray(x)


def allowed(mask: Mask | None, sizes: Sizes) -> jax.Array | None:
    """Return a bool array that broadcasts to `(*batch, H, T, S)`, or None where all is allowed.

    Args:
        mask: a checked mask whose arrays are JAX's.
        sizes: of the call.
    """
    if mask is None:
        return None
    return mask.allowed(Grid(jnp.arange(sizes.T)[:, None], jnp.arange(sizes.S), sizes.T, sizes.S, xp=jnp))


def _register(kind: type[Mask]) -> None:
    def flatten(mask: Mask) -> tuple[list[Any], Any]:
        return list(mask.leaves().values()), mask.structure()

    def flatten_with_keys(mask: Mask) -> tuple[list[tuple[Any, Any]], Any]:
        return [(jax.tree_util.GetAttrKey(name), value) for name, value in mask.leaves().items()], mask.structure()

    def unflatten(structure: Any, leaves: Any) -> Mask:
        return kind.rebuild(structure, leaves)

    jax.tree_util.register_pytree_with_keys(kind, flatten_with_keys, unflatten, flatten)


for _kind in KINDS:
    _register(_kind)
