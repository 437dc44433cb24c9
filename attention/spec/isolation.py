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
    lost = (bad_rows & xp.any(allowed, axis=-1)) | xp.any(allowed & keys[..., None, :], axis=-1)  # (*batch, H, T)
    stages = run(replace(request, q=clean[0], k=clean[1], v=clean[2]))
    return {name: _marked(xp, name, value, lost) for name, value in stages.items()}


def _marked(xp: Any, name: str, value: Array, lost: Array) -> Array:
    if name == "context":
        lost = xp.matrix_transpose(lost)[..., None]  # (*batch, T, H, 1)
    elif name == "mean_weights":
        lost = xp.any(lost, axis=-2)[..., None]
    elif name in STAGES and name != "logsumexp":
        lost = lost[..., None]
    return xp.where(lost, xp.nan, value)
