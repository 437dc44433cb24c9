"""Isolation: NaN or inf in one packed document reaches no other, though the kernel multiplies them together.

    lost[h, t] = q[t] is not finite, or some key or value that t may attend to is not
    context[t] = NaN where lost, else attend(q, k, v with zeros for every token that is not finite)[t]

A weight of 0 keeps a neighbour's numbers out and not its NaN, for 0 * NaN is NaN, and its gradient likewise. So tokens that
are not finite are set aside before the kernel, whichever it is, and their mark is put back on the rows that see them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from attention.spec.attend import STAGES
from attention.spec.axes import Array
from attention.spec.kernels import Request
from attention.spec.scores import heads_first

Stages = dict[str, Array]
Tokens = tuple[Array, Array, Array]


def quarantined(xp: Any, allowed: Array, query: Array, key: Array, value: Array) -> tuple[Tokens, Array]:
    """Return a layer's inputs with zeros for every token that is not finite, and which outputs have to say so.

    Args:
        xp: the array namespace.
        allowed: bool, broadcastable to `(*batch, H, T, S)`, of a mask that isolates.
        query: `(*batch, T, M)`.
        key: `(*batch, S, M')`.
        value: `(*batch, S, M'')`.

    Returns:
        The inputs, and bool `(*batch, T, 1)`: True where the query itself, or a key or value that it may attend to, is lost.
    """
    finite = [xp.all(xp.isfinite(x), axis=-1, keepdims=True) for x in (query, key, value)]
    clean = tuple(xp.where(good, x, xp.zeros_like(x)) for good, x in zip(finite, (query, key, value), strict=True))
    while allowed.ndim < 3:
        allowed = allowed[None]
    pairs = xp.any(allowed, axis=-3)  # (*batch, T, S), of any head
    bad = ~(finite[1] & finite[2])
    seen = xp.any(pairs & xp.matrix_transpose(bad), axis=-1, keepdims=True)
    return clean, (~finite[0] & xp.any(pairs, axis=-1, keepdims=True)) | seen  # type: ignore[return-value]


def lost(xp: Any, rows: Array, x: Array) -> Array:
    """Return `x` `(*batch, T, N)` with NaN in the rows that `quarantined` named; None names none."""
    return x if rows is None else xp.where(rows, xp.nan, x)


def isolated(xp: Any, request: Request, allowed: Array, run: Callable[[Request], Stages]) -> Stages:
    """Return the stages of a request whose mask isolates documents from one another.

    Args:
        xp: the array namespace.
        request: the call.
        allowed: its mask, bool, broadcastable to `(*batch, H, T, S)`.
        run: makes the stages of a request in which every number is finite.
    """
    arrays = (request.q, request.k, request.v)
    finite = [xp.all(xp.isfinite(x), axis=-1, keepdims=True) for x in arrays]  # (*batch, N, heads, 1)
    clean = [xp.where(good, x, xp.zeros_like(x)) for good, x in zip(finite, arrays, strict=True)]
    bad_rows, *bad_keys = (~heads_first(xp, good)[..., 0] for good in finite)  # (*batch, heads, N)
    keys = xp.repeat(bad_keys[0] | bad_keys[1], request.sizes.group, axis=-2)
    # A row that attends to nothing is 0, whatever it holds.
    rows = (bad_rows & xp.any(allowed, axis=-1)) | xp.any(allowed & keys[..., None, :], axis=-1)  # (*batch, H, T)
    bias = request.bias
    if bias is not None:
        bias = xp.where(xp.isnan(bias), xp.zeros_like(bias), bias)
    stages = run(replace(request, q=clean[0], k=clean[1], v=clean[2], bias=bias))
    return {name: _marked(xp, name, value, rows) for name, value in stages.items()}


def _marked(xp: Any, name: str, value: Array, rows: Array) -> Array:
    if name == "context":
        rows = xp.matrix_transpose(rows)[..., None]  # (*batch, T, H, 1)
    elif name == "mean_weights":
        rows = xp.any(rows, axis=-2)[..., None]
    elif name in STAGES and name != "logsumexp":
        rows = rows[..., None]
    return xp.where(rows, xp.nan, value)
