"""The two forms of linear attention, a scan or the quadratic sum: the choice between them, and their common functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from attention.spec.axes import Array, Sizes
from attention.spec.errors import KernelRefused, UnknownName
from attention.spec.masks import Lengths
from attention.spec.masks.algebra import Mask
from attention.spec.options import one_of
from attention.spec.scores import mix, products

FORMS = ("auto", "scan", "quadratic")
FORM = one_of(*FORMS).raising(UnknownName)
CHUNK = 64
"""Tokens per step of the scan; within a chunk the products are computed directly."""


def choose(implementation: str, mask: Mask | None, *, carries: bool) -> str:
    """Return the form of a call, "auto" being the scan wherever it can do it.

    Args:
        implementation: "auto", "scan" or "quadratic".
        mask: of the call, beside the contract's `causal`.
        carries: whether the call takes or returns a state.

    Raises:
        UnknownName: no such form.
        KernelRefused: the chosen form does not support the call, or neither does.
    """
    FORM.check("implementation", implementation)
    reason = None if mask is None or isinstance(mask, Lengths) else f"sums over keys that are there or not, not over {mask!r}"
    if implementation == "quadratic" or (implementation == "auto" and reason and not carries):
        if carries:
            raise KernelRefused("kernel 'quadratic' refuses: carries no state")
        return "quadratic"
    if reason:
        raise KernelRefused(f"kernel 'scan' refuses: {reason}")
    return "scan"


def present(
    xp: Any, mask: Lengths, allowed: Callable[[Mask, Sizes], Array], sizes: Sizes, *, causal: bool, carried: bool, leaves: bool
) -> tuple[Array, Array]:
    """Return which queries see anything and which keys are read, without T * S booleans.

    Args:
        xp: the array namespace.
        mask: padding.
        allowed: the backend's own, of a mask that depends on the key alone.
        sizes: of the call.
        causal: whether a query sees only the keys up to its own.
        carried: whether there were keys before this call's.
        leaves: whether the keys are read by later calls too.

    Returns:
        bool `(*batch, T)` and `(*batch, S)`; batch axes may be 1.
    """
    keys = allowed(Lengths(mask.kv, padding=mask.padding), sizes)[..., 0, 0, :]
    any_key = xp.cumsum(xp.astype(keys, xp.int32), axis=-1) > 0 if causal else xp.any(keys, axis=-1)[..., None]
    rows = xp.ones_like(any_key) if carried else any_key
    if mask.q is not None:
        rows = rows & allowed(Lengths(mask.q, padding=mask.padding), replace(sizes, S=sizes.T))[..., 0, 0, :]
    if mask.q is not None and not leaves:
        # A key after the last query of its row, or without any query, is read by none.
        later = xp.flip(xp.cumsum(xp.astype(xp.flip(rows, axis=-1), xp.int32), axis=-1), axis=-1) > 0
        keys = keys & (later if causal else xp.any(rows, axis=-1)[..., None])
    return rows, keys


def features(xp: Any, feature_map: str, x: Array) -> Array:
    """Return f(x), in the dtype of `x`."""
    zeros = xp.zeros_like(x)
    if feature_map == "relu":
        return xp.where(x > 0, x, zeros)
    # Not exp(x) - 1 + 1, which loses all digits of a large negative x; nor exp of a large x, whose slope is inf * 0.
    return xp.where(x > 0, x + 1.0, xp.exp(xp.where(x > 0, zeros, x)))


def with_ones(xp: Any, v: Array) -> Array:
    """Return values `(*batch, S, K, E + 1)` with a column of ones, so that one sum makes numerator and denominator."""
    return xp.concat([v, xp.ones_like(v[..., :1])], axis=-1)


def ratio(xp: Any, sums: Array, eps: float) -> Array:
    """Return all columns but the last, divided by the last and `eps`; 0 where that is 0."""
    below = sums[..., -1:] + eps
    empty = below == 0
    # The gradient of x / 0 is NaN even where the result is not used.
    return xp.where(empty, xp.zeros_like(sums[..., :-1]), sums[..., :-1] / xp.where(empty, xp.ones_like(below), below))


def quadratic(xp: Any, q: Array, k: Array, v: Array, allowed: Array = None) -> Array:
    """Return `sum_s q[t] . k[s] v[s]` over the keys that are allowed.

    Args:
        xp: the array namespace.
        q: features `(*batch, T, H, D)`.
        k: features `(*batch, S, K, D)`.
        v: `(*batch, S, K, E + 1)`.
        allowed: bool, broadcastable to `(*batch, H, T, S)`; None allows all.

    Returns:
        `(*batch, T, H, E + 1)`.
    """
    weights = products(xp, q, k)
    return mix(xp, weights if allowed is None else xp.where(allowed, weights, xp.zeros_like(weights)), v)
