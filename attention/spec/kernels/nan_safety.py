"""NaN safety: masked tokens are set to zero before a kernel runs, because a weight of 0 times NaN is NaN.

    q[t], k[s], v[s] := 0                              if t may attend to no key, or no query may attend to s
    nonfinite[h, t] = q[t], or a key, value or bias that t may attend to, is not finite         packed documents
    context[t] = NaN if nonfinite, else attend(q, k, v with zeros for every token that is not finite)[t]

The same holds for gradients. If the mask separates documents, tokens that are not finite are zeroed too, and NaN is written
to the rows that attend to them.

The mask is evaluated for a stripe of queries at a time, never for all scores at once, and only if the norm of an array is so
large that a value, or a product of two values, may not be finite.
"""

# array_api_compat leaves the types of arrays unsaid.
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Self

from attention.spec.attend import INTERMEDIATES, reachable
from attention.spec.axes import COMPUTE, Array, Sizes
from attention.spec.kernels.request import Request
from attention.spec.masks.algebra import Mask
from attention.spec.masks.grid import Grid
from attention.spec.scores import heads_first

Intermediates = dict[str, Array]
Tokens = tuple[Array, Array, Array]

SAFE_NORM = {"float32": 2.0**48, "float64": 2.0**400}
"""By compute dtype, the norm below which all values of an array and all products of two of them are finite. A kernel may
compute products before it masks them."""

STRIPE = 256
"""Queries for which a mask is evaluated at a time."""


class Reach(NamedTuple):
    """Which queries and keys a mask connects, bool; any axis may be 1, and batch axes absent.

    Attributes:
        rows: `(*batch, H, T)`, queries that may attend to a key.
        keys: `(*batch, H, S)`, keys that a query may attend to.
        nonfinite: `(*batch, H, T)`, queries that may attend to a key or bias listed in `Nonfinite`.
    """

    rows: Array
    keys: Array
    nonfinite: Array


class Nonfinite(NamedTuple):
    """The tokens and biases that are not finite; None for none.

    Attributes:
        keys: bool `(*batch, H or 1, S)`.
        bias: added to the scores; its NaN count.
    """

    keys: Array = None
    bias: Array = None


ALL_FINITE = Nonfinite()


ReachOf = Callable[[Nonfinite], Reach]
"""Evaluates the mask of a call, in the way of a framework; it may skip this if all values are safe."""


@dataclass(frozen=True)
class Stripe(Grid):
    """The grid of some queries, by index, and all keys.

    Attributes:
        queries: integers `(n,)`, in any order; they may be traced.
    """

    queries: Array

    @classmethod
    def of(cls, xp: Any, sizes: Sizes, queries: Array, keys: Array) -> Self:
        """Return the stripe of these queries and of all keys, integers `(S,)`."""
        return cls(queries[:, None], keys, sizes.T, sizes.S, xp=xp, queries=queries)

    def per_query(self, x: Array) -> Array:
        return self._rows(x, -1)[..., None, :, None]

    def per_score(self, x: Array) -> Array:
        return self._rows(x, -2) if x.ndim > 1 else x

    def _rows(self, x: Array, axis: int) -> Array:
        return x if x.shape[axis] == 1 else self.xp.take(x, self.queries, axis=axis)


def reach_of(xp: Any, mask: Mask, at: Grid, nonfinite: Nonfinite) -> Reach:
    """Return the reach of the queries of a grid that holds all keys."""
    seen = mask.allowed(at)
    seen = seen[(None,) * (3 - seen.ndim) + (...,)] if seen.ndim < 3 else seen
    rows, bad = xp.any(seen, axis=-1), None
    if nonfinite.keys is not None:
        bad = xp.any(seen & nonfinite.keys[..., None, :], axis=-1)
    if nonfinite.bias is not None:
        unknown = xp.any(seen & xp.isnan(at.per_score(nonfinite.bias)), axis=-1)
        bad = unknown if bad is None else bad | unknown
    return Reach(rows, xp.any(seen, axis=-2), xp.zeros_like(rows) if bad is None else bad)


def zero_masked(xp: Any, reach_of: ReachOf, request: Request) -> Tokens:
    """Return q, k and v of a request with zeros for masked tokens: `attend.zero_masked` without a dense mask."""
    rows, keys = _places(xp, reach_of(ALL_FINITE), request.sizes.group)
    return _only(xp, (rows, keys, keys), _tokens(request))


def confine_nan(xp: Any, reach_of: ReachOf, request: Request, run: Callable[[Request], Intermediates]) -> Intermediates:
    """Return the intermediates of a request, so that NaN in a token reaches only the rows that may attend to it.

    Args:
        xp: the array namespace.
        reach_of: evaluates the request's mask.
        request: the call.
        run: returns the intermediates of a request in which q, k and v are finite.
    """
    sound = [finite(xp, x) for x in _tokens(request)]  # (*batch, N, heads, 1)
    bad_rows, *bad = (~heads_first(xp, good)[..., 0] for good in sound)  # (*batch, heads, N)
    found = reach_of(Nonfinite(xp.repeat(bad[0] | bad[1], request.sizes.group, axis=-2), request.bias))
    # An empty row is 0 even if its query is NaN.
    rows = (bad_rows & found.rows) | found.nonfinite  # (*batch, H, T)
    read, keys = _places(xp, found, request.sizes.group)
    clean = _only(xp, (good & of for good, of in zip(sound, (read, keys, keys), strict=True)), _tokens(request))
    bias = request.bias
    if bias is not None:
        bias = xp.where(xp.isnan(bias), xp.zeros_like(bias), bias)
    intermediates = run(NanSafeRequest.of(request, q=clean[0], k=clean[1], v=clean[2], bias=bias))
    return {name: _with_nan(xp, name, value, rows) for name, value in intermediates.items()}


def zero_masked_inputs(
    xp: Any, reach_of: ReachOf, mask: Mask, query: Array, key: Array, value: Array, *, appended: bool = False
) -> tuple[Tokens, Array]:
    """Return a layer's inputs with zeros for masked tokens, so that NaN there reaches no gradient of a weight.

    If the mask confines NaN, tokens that are not finite are zeros too.

    Args:
        xp: the array namespace.
        reach_of: evaluates the mask.
        mask: of the call.
        query: `(*batch, T, M)`.
        key: `(*batch, S, M')`.
        value: `(*batch, S, M'')`.
        appended: whether the layer appends keys, as in `zero_masked_inputs_dense`.

    Returns:
        The inputs, and bool `(*batch, T, 1)`: the output rows that are NaN, because their query, or a key or value that it
        may attend to, is not finite. None if the mask does not confine NaN.
    """
    given = (query, key, value)
    if not mask.confines_nan:
        rows, keys = (xp.any(seen, axis=-2)[..., None] for seen in reach_of(ALL_FINITE)[:2])
        if appended:
            rows = rows | finite(xp, query)
        return _only(xp, (rows, keys, keys), given), None
    good = [finite(xp, x) for x in given]
    bad = ~(good[1] & good[2])[..., None, :, 0]  # (*batch, 1, S)
    rows, keys, nonfinite = (xp.any(seen, axis=-2)[..., None] for seen in reach_of(Nonfinite(bad)))
    read = good[0] if appended else good[0] & rows
    clean = _only(xp, (read, good[1] & keys, good[2] & keys), given)
    return clean, (~good[0] & rows) | nonfinite


def zero_masked_inputs_dense(
    xp: Any, allowed: Array, query: Array, key: Array, value: Array, *, appended: bool = False
) -> tuple[Array, Array, Array]:
    """Return the inputs with zeros for masked tokens, so that NaN there reaches no gradient of a projection.

    Args:
        xp: the array namespace.
        allowed: bool, broadcastable to `(*batch, H, T, S)`, or None; of the call's own keys.
        query: `(*batch, T, M)`.
        key: `(*batch, S, M)`.
        value: `(*batch, S, M)`.
        appended: whether the contract appends keys, to which every query may attend: a query without other keys is kept
            too, unless it is not finite, which marks padding.
    """
    if allowed is None:
        return query, key, value
    rows, keys = (xp.any(seen, axis=-2) for seen in reachable(xp, allowed, 1))  # (*batch, T, 1), (*batch, S, 1)
    if appended:
        rows = rows | finite(xp, query)
    return tuple(xp.where(seen, x, xp.zeros_like(x)) for seen, x in ((rows, query), (keys, key), (keys, value)))  # type: ignore[return-value]


def finite(xp: Any, x: Array) -> Array:
    """Return which rows of `x` are finite: bool, the last axis 1."""
    return xp.all(xp.isfinite(x), axis=-1, keepdims=True)


def set_nan(xp: Any, rows: Array, x: Array) -> Array:
    """Return `x` `(*batch, T, N)` with NaN in the rows that `zero_masked_inputs` returned; None for none."""
    return x if rows is None else xp.where(rows, xp.nan, x)


class NanSafeRequest(Request):
    """A request whose masked tokens are already zero or safe."""

    @classmethod
    def of(cls, request: Request, **arrays: Array) -> Self:
        """Return the request with these arrays replaced."""
        return cls(**{field.name: getattr(request, field.name) for field in fields(request)} | arrays)


def safe_norm(dtype: str) -> float:
    """Return the norm below which all values of an array of this dtype, and their products, are finite.

    >>> safe_norm("bfloat16") == 2.0**48
    True
    """
    return SAFE_NORM[COMPUTE[dtype]]


def _tokens(request: Request) -> Tokens:
    return request.q, request.k, request.v


def _only(xp: Any, read: Iterable[Array], given: Tokens) -> Tokens:
    return tuple(xp.where(where, x, xp.zeros_like(x)) for where, x in zip(read, given, strict=True))  # type: ignore[return-value]


def _places(xp: Any, found: Reach, group: int) -> tuple[Array, Array]:
    """Return rows `(*batch, T, H, 1)` and keys `(*batch, S, K, 1)` of a reach, in the layout of q, k and v."""
    keys = found.keys
    if keys.shape[-2] > 1 and group > 1:
        keys = xp.any(xp.reshape(keys, (*keys.shape[:-2], -1, group, keys.shape[-1])), axis=-2)
    return xp.matrix_transpose(found.rows)[..., None], xp.matrix_transpose(keys)[..., None]


def _with_nan(xp: Any, name: str, value: Array, rows: Array) -> Array:
    if name == "context":
        rows = xp.matrix_transpose(rows)[..., None]  # (*batch, T, H, 1)
    elif name == "mean_weights":
        rows = xp.any(rows, axis=-2)[..., None]
    elif name in INTERMEDIATES and name != "logsumexp":
        rows = rows[..., None]
    return xp.where(rows, xp.nan, value)
