"""Masks in JAX: the spec's predicates on arrays, what they hide, and every mask a pytree: data leaves, structure static.

allowed         = mask.allowed(grid), a bool array that broadcasts to (*batch, H, T, S)
shielded(q,k,v) = q, k, v                              where all numbers are calm, as they nearly always are
                  q, k, v with zeros where unread      where not, which a traced program decides as it runs
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
from attention.spec.kernels import Request
from attention.spec.kernels import nan_safety as isolation
from attention.spec.kernels.nan_safety import STRIPE, UNMARKED, Intermediates, Marks, Reach, Sound, Stripe, Tokens
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


def reach(mask: Mask, sizes: Sizes, marks: Marks = UNMARKED) -> Reach:
    """Return who reads whom, the mask being asked of a stripe of queries at a time; see `spec.isolation`."""
    # Not a loop of one round: outside a compiled program it would be compiled for every call.
    return isolation.look(jnp, mask, _grid(sizes), marks) if sizes.T <= STRIPE else _striped(mask, sizes, marks)


@partial(jax.jit, static_argnames="sizes")
def _striped(mask: Mask, sizes: Sizes, marks: Marks) -> Reach:
    def stripe(i: Array) -> Reach:
        # The last stripe asks the last query more than once, which changes nothing.
        queries = jnp.minimum(i * STRIPE + jnp.arange(STRIPE), sizes.T - 1)
        return isolation.look(jnp, mask, Stripe.of(jnp, sizes, queries, jnp.arange(sizes.S)), marks)

    def step(seen: jax.Array, i: Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        rows, keys, lost = stripe(i)
        return seen | keys, (rows, lost)

    shape = jax.eval_shape(stripe, 0)
    if shape.rows.shape[-1] == shape.lost.shape[-1] == 1:
        return stripe(0)  # all queries are alike
    none = jnp.zeros(shape.keys.shape, bool)
    seen, found = jax.lax.scan(step, none, jnp.arange(-(-sizes.T // STRIPE)))
    rows, lost = (_joined(x, sizes.T) for x in found)
    return Reach(rows, seen, lost)


def _joined(parts: jax.Array, size: int) -> jax.Array:
    """Return `(..., size)` of stripes `(stripes, ..., STRIPE or 1)`."""
    if parts.shape[-1] == 1:
        return parts[0]
    joined = jnp.moveaxis(parts, 0, -2)
    return joined.reshape(*joined.shape[:-2], -1)[..., :size]


def calm(*arrays: jax.Array) -> jax.Array:
    """Return whether all numbers are calm, as `spec.isolation` calls it: a bool scalar."""
    return jnp.all(jnp.stack([_squares(x) < isolation.calm_norm(dtype_name(x)) ** 2 for x in arrays]))


def _squares(x: jax.Array) -> jax.Array:
    x = jax.lax.stop_gradient(x)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return jnp.sum(x * x)


def _asker(mask: Mask, sizes: Sizes, well: jax.Array) -> isolation.Ask:
    """Return what asks the mask, unless all is well: then every token is read, and none is lost."""
    return partial(reach, mask, sizes) if read(well) is not None else partial(_decided, mask, sizes, well)


@partial(jax.jit, static_argnames="sizes")
def _decided(mask: Mask, sizes: Sizes, well: jax.Array, marks: Marks) -> Reach:
    shape = jax.eval_shape(lambda: reach(mask, sizes, marks))
    whole = Reach(*(jnp.full(x.shape, fill) for x, fill in zip(shape, (True, True, False), strict=True)))
    return jax.lax.cond(well, lambda: whole, lambda: reach(mask, sizes, marks))


def shielded(request: Request) -> Tokens:
    """Return q, k and v of a request with zeros, or calm numbers, where nothing may be read."""
    given = (request.q, request.k, request.v)
    if request.mask is None or not request.needs_shield or isinstance(request, Sound):
        return given
    well = calm(*given)
    return given if read(well) else isolation.shielded(jnp, _asker(request.mask, request.sizes, well), request)


def isolated(request: Request, run: Callable[[Request], Intermediates]) -> Intermediates:
    """Return the intermediates of a request whose mask isolates documents; arguments as `spec.isolation.isolated`."""
    mask, bias = request.mask, request.bias
    well = calm(request.q, request.k, request.v)
    if bias is not None:
        well = well & ~jnp.any(jnp.isnan(bias))
    if mask is None or read(well):
        return run(Sound.of(request))
    return isolation.isolated(jnp, _asker(mask, request.sizes, well), request, run)


def sheltered(
    mask: Mask | None, sizes: Sizes, query: jax.Array, key: jax.Array, value: jax.Array, *, appended: bool = False
) -> tuple[Tokens, jax.Array | None]:
    """Return a layer's inputs with zeros where nothing may be read, and the rows that have to say they are lost.

    As `spec.isolation.sheltered`, of whose rows None names none.
    """
    given = (query, key, value)
    if mask is None or (sizes.T == sizes.S and mask.keeps_self and not mask.isolates):
        return given, None
    well = calm(*{id(x): x for x in given}.values())
    if read(well):
        # One copy each, so that gradients are added up in the same order whether there was anything to shelter or not.
        return (jnp.copy(query), jnp.copy(key), jnp.copy(value)), None
    return isolation.sheltered(jnp, _asker(mask, sizes, well), mask, *given, appended=appended)


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
