"""Masks in JAX: dense masks from the spec's predicates, zeroing of masked tokens, masks as pytrees with static structure.

allowed         = mask.allowed(grid), a bool array that broadcasts to (*batch, H, T, S)
zero_masked(...) = q, k, v                              if all values are known to be safe, the usual case
                   q, k, v with zeros for masked tokens     otherwise; a traced program decides at run time
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

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


def native(mask: Mask | None) -> Mask | None:
    """Return the mask with every array it holds as a JAX array.

    Raises:
        MaskError: not a Mask.
    """
    return None if mask is None else check_mask(mask).map(lambda x: _wide(_array(x)))


def _array(x: Array) -> jax.Array:
    if not isinstance(x, (jax.Array, np.ndarray, np.generic)):
        raise MaskError(f"mask array {type(x).__module__}.{type(x).__name__} must be a jax.Array or numpy.ndarray")
    return jnp.asarray(x)


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
    return mask.allowed(_grid(sizes))


def _grid(sizes: Sizes) -> Grid:
    return Grid(jnp.arange(sizes.T)[:, None], jnp.arange(sizes.S), sizes.T, sizes.S, xp=jnp)


def reach(mask: Mask, sizes: Sizes, nonfinite: Nonfinite = ALL_FINITE) -> Reach:
    """Return which queries and keys the mask connects, a stripe of queries at a time; see `spec.kernels.nan_safety`."""
    # No scan for a single stripe: outside jit it would compile at every call.
    return nan_safety.reach_of(jnp, mask, _grid(sizes), nonfinite) if sizes.T <= STRIPE else _striped(mask, sizes, nonfinite)


@partial(jax.jit, static_argnames="sizes")
def _striped(mask: Mask, sizes: Sizes, nonfinite: Nonfinite) -> Reach:
    def stripe(i: Array) -> Reach:
        # The last stripe repeats the last query, which changes nothing.
        queries = jnp.minimum(i * STRIPE + jnp.arange(STRIPE), sizes.T - 1)
        return nan_safety.reach_of(jnp, mask, Stripe.of(jnp, sizes, queries, jnp.arange(sizes.S)), nonfinite)

    def step(seen: jax.Array, i: Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        rows, keys, bad = stripe(i)
        return seen | keys, (rows, bad)

    shape = jax.eval_shape(stripe, 0)
    if shape.rows.shape[-1] == shape.nonfinite.shape[-1] == 1:
        return stripe(0)  # all queries are alike
    none = jnp.zeros(shape.keys.shape, bool)
    seen, found = jax.lax.scan(step, none, jnp.arange(-(-sizes.T // STRIPE)))
    rows, bad = (_joined(x, sizes.T) for x in found)
    return Reach(rows, seen, bad)


def _joined(parts: jax.Array, size: int) -> jax.Array:
    """Return `(..., size)` of stripes `(stripes, ..., STRIPE or 1)`."""
    if parts.shape[-1] == 1:
        return parts[0]
    joined = jnp.moveaxis(parts, 0, -2)
    return joined.reshape(*joined.shape[:-2], -1)[..., :size]


def all_safe(*arrays: jax.Array) -> jax.Array:
    """Return whether all values are safe (`nan_safety.safe_norm`), as a bool scalar."""
    return jnp.all(jnp.stack([_squares(x) < nan_safety.safe_norm(dtype_name(x)) ** 2 for x in arrays]))


def _squares(x: jax.Array) -> jax.Array:
    x = jax.lax.stop_gradient(x)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return jnp.sum(x * x)


def _asker(mask: Mask, sizes: Sizes, safe: jax.Array) -> nan_safety.ReachOf:
    """Return the function that evaluates the mask; if all values are safe, every token counts as read and finite."""
    return partial(reach, mask, sizes) if read(safe) is not None else partial(_decided, mask, sizes, safe)


@partial(jax.jit, static_argnames="sizes")
def _decided(mask: Mask, sizes: Sizes, safe: jax.Array, nonfinite: Nonfinite) -> Reach:
    shape = jax.eval_shape(lambda: reach(mask, sizes, nonfinite))
    whole = Reach(*(jnp.full(x.shape, fill) for x, fill in zip(shape, (True, True, False), strict=True)))
    return jax.lax.cond(safe, lambda: whole, lambda: reach(mask, sizes, nonfinite))


def zero_masked(request: Request) -> Tokens:
    """Return q, k and v of a request with zeros for masked tokens, or as they are if all values are safe."""
    given = (request.q, request.k, request.v)
    if request.mask is None or not request.needs_zero_masking or isinstance(request, NanSafeRequest):
        return given
    safe = all_safe(*given)
    return given if read(safe) else nan_safety.zero_masked(jnp, _asker(request.mask, request.sizes, safe), request)


def confine_nan(request: Request, run: Callable[[Request], Intermediates]) -> Intermediates:
    """Return the intermediates of a request whose mask confines NaN; see `spec.kernels.nan_safety.confine_nan`."""
    mask, bias = request.mask, request.bias
    safe = all_safe(request.q, request.k, request.v)
    if bias is not None:
        safe = safe & ~jnp.any(jnp.isnan(bias))
    if mask is None or read(safe):
        return run(NanSafeRequest.of(request))
    return nan_safety.confine_nan(jnp, _asker(mask, request.sizes, safe), request, run)


def zero_masked_inputs(
    mask: Mask | None, sizes: Sizes, query: jax.Array, key: jax.Array, value: jax.Array, *, appended: bool = False
) -> tuple[Tokens, jax.Array | None]:
    """Return a layer's inputs with zeros for masked tokens, and the output rows that are NaN, or None for none.

    See `spec.kernels.nan_safety.zero_masked_inputs`.
    """
    given = (query, key, value)
    if mask is None or (sizes.T == sizes.S and mask.keeps_self and not mask.confines_nan):
        return given, None
    safe = all_safe(*{id(x): x for x in given}.values())
    if read(safe):
        # One copy each, so that gradients are added in the same order as after zeroing.
        return (jnp.copy(query), jnp.copy(key), jnp.copy(value)), None
    return nan_safety.zero_masked_inputs(jnp, _asker(mask, sizes, safe), mask, *given, appended=appended)


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
