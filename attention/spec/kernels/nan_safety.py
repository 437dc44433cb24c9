"""Isolation: what may not be read influences nothing, though a kernel multiplies it by 0.

    0 x = 0                                            for every x that is finite: calm numbers need no care
    q[t], k[s], v[s] := 0                              where no key may be read by t, or no query may read s
    lost[h, t] = q[t] is not finite, or some key, value or bias that t may read is not          packed documents
    context[t] = NaN where lost, else attend(q, k, v with zeros for every token that is not finite)[t]

A weight of 0 keeps a token's numbers out and not its NaN, for 0 * NaN is NaN, and its gradient likewise. So what nobody may
read is set to zero before the kernel, whichever it is; and where documents must not learn of one another, tokens that are not
finite are set aside as well, and their mark is put back on the rows that see them.

Which queries and keys are read is asked of the mask a stripe of queries at a time, never of all scores at once, and only where
some number is not calm.
"""

# array_api_compat leaves the types of arrays unsaid.
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Self

from attention.spec.attend import INTERMEDIATES
from attention.spec.axes import COMPUTE, Array, Sizes
from attention.spec.kernels.kernel import Request
from attention.spec.masks.algebra import Mask
from attention.spec.masks.grid import Grid
from attention.spec.scores import heads_first

Intermediates = dict[str, Array]
Tokens = tuple[Array, Array, Array]

CALM = {"float32": 2.0**48, "float64": 2.0**400}
"""By compute dtype, how long the vector of all numbers of an array may be for it to be called calm: they are finite then, and
so is every product of two of them, though a kernel may form it before it masks."""

STRIPE = 256
"""How many queries a mask is asked of at a time."""


class Reach(NamedTuple):
    """Who reads whom, bool; any axis may be 1, and batch axes absent.

    Attributes:
        rows: `(*batch, H, T)`, queries that may read something.
        keys: `(*batch, H, S)`, keys that something may read.
        lost: `(*batch, H, T)`, queries that may read what is marked.
    """

    rows: Array
    keys: Array
    lost: Array


class Marks(NamedTuple):
    """What a reach shall look out for; None is nothing.

    Attributes:
        keys: bool `(*batch, H or 1, S)`.
        bias: what is added to the scores, of which NaN is looked out for.
    """

    keys: Array = None
    bias: Array = None


UNMARKED = Marks()


Ask = Callable[[Marks], Reach]
"""Asks the mask of a call who reads whom: how is each framework's own affair, and whether, where all numbers are calm."""


@dataclass(frozen=True)
class Stripe(Grid):
    """Some queries, by their numbers, beside all keys.

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


def look(xp: Any, mask: Mask, at: Grid, marks: Marks) -> Reach:
    """Return the reach of the queries of a grid, which holds all keys."""
    seen = mask.allowed(at)
    seen = seen[(None,) * (3 - seen.ndim) + (...,)] if seen.ndim < 3 else seen
    rows, lost = xp.any(seen, axis=-1), None
    if marks.keys is not None:
        lost = xp.any(seen & marks.keys[..., None, :], axis=-1)
    if marks.bias is not None:
        unknown = xp.any(seen & xp.isnan(at.per_score(marks.bias)), axis=-1)
        lost = unknown if lost is None else lost | unknown
    return Reach(rows, xp.any(seen, axis=-2), xp.zeros_like(rows) if lost is None else lost)


def shielded(xp: Any, ask: Ask, request: Request) -> Tokens:
    """Return q, k and v of a request with zeros where nothing may be read: `attend.shield`, without a dense mask."""
    rows, keys = _places(xp, ask(UNMARKED), request.sizes.group)
    return _only(xp, (rows, keys, keys), _tokens(request))


def isolated(xp: Any, ask: Ask, request: Request, run: Callable[[Request], Intermediates]) -> Intermediates:
    """Return the intermediates of a request whose mask isolates documents from one another.

    Args:
        xp: the array namespace.
        ask: of the request's mask.
        request: the call.
        run: makes the intermediates of a request in which every number of q, k and v is finite.
    """
    sound = [finite(xp, x) for x in _tokens(request)]  # (*batch, N, heads, 1)
    bad_rows, *bad = (~heads_first(xp, good)[..., 0] for good in sound)  # (*batch, heads, N)
    found = ask(Marks(xp.repeat(bad[0] | bad[1], request.sizes.group, axis=-2), request.bias))
    # A row that attends to nothing is 0, whatever it holds.
    rows = (bad_rows & found.rows) | found.lost  # (*batch, H, T)
    read, keys = _places(xp, found, request.sizes.group)
    clean = _only(xp, (good & of for good, of in zip(sound, (read, keys, keys), strict=True)), _tokens(request))
    bias = request.bias
    if bias is not None:
        bias = xp.where(xp.isnan(bias), xp.zeros_like(bias), bias)
    intermediates = run(Sound.of(request, q=clean[0], k=clean[1], v=clean[2], bias=bias))
    return {name: _marked(xp, name, value, rows) for name, value in intermediates.items()}


def sheltered(
    xp: Any, ask: Ask, mask: Mask, query: Array, key: Array, value: Array, *, appended: bool = False
) -> tuple[Tokens, Array]:
    """Return a layer's inputs with zeros for tokens that are not read, so that NaN there reaches no weight's gradient.

    Where the mask isolates, tokens that are not finite are zeros too.

    Args:
        xp: the array namespace.
        ask: of the mask.
        mask: of the call.
        query: `(*batch, T, M)`.
        key: `(*batch, S, M')`.
        value: `(*batch, S, M'')`.
        appended: whether the layer appends keys, as in `heads.shield_inputs`.

    Returns:
        The inputs, and bool `(*batch, T, 1)`, which outputs have to say that they are lost: those of queries that are not
        finite themselves, or may attend to a key or value that is not. None where the mask does not isolate.
    """
    given = (query, key, value)
    if not mask.isolates:
        rows, keys = (xp.any(seen, axis=-2)[..., None] for seen in ask(UNMARKED)[:2])
        if appended:
            rows = rows | finite(xp, query)
        return _only(xp, (rows, keys, keys), given), None
    good = [finite(xp, x) for x in given]
    bad = ~(good[1] & good[2])[..., None, :, 0]  # (*batch, 1, S)
    rows, keys, lost = (xp.any(seen, axis=-2)[..., None] for seen in ask(Marks(bad)))
    read = good[0] if appended else good[0] & rows
    clean = _only(xp, (read, good[1] & keys, good[2] & keys), given)
    return clean, (~good[0] & rows) | lost


def finite(xp: Any, x: Array) -> Array:
    """Return which rows of `x` hold finite numbers alone: bool, the last axis 1."""
    return xp.all(xp.isfinite(x), axis=-1, keepdims=True)


def lost(xp: Any, rows: Array, x: Array) -> Array:
    """Return `x` `(*batch, T, N)` with NaN in the rows that `sheltered` named; None names none."""
    return x if rows is None else xp.where(rows, xp.nan, x)


class Sound(Request):
    """A request in which nothing is left to shield: what may not be read is 0 or calm."""

    @classmethod
    def of(cls, request: Request, **arrays: Array) -> Self:
        """Return the request with `arrays` in the place of its own of the same names."""
        return cls(**{field.name: getattr(request, field.name) for field in fields(request)} | arrays)


def calm_norm(dtype: str) -> float:
    """Return the norm below which an array of this dtype is calm.

    >>> calm_norm("bfloat16") == 2.0**48
    True
    """
    return CALM[COMPUTE[dtype]]


def _tokens(request: Request) -> Tokens:
    return request.q, request.k, request.v


def _only(xp: Any, read: Iterable[Array], given: Tokens) -> Tokens:
    return tuple(xp.where(where, x, xp.zeros_like(x)) for where, x in zip(read, given, strict=True))  # type: ignore[return-value]


def _places(xp: Any, found: Reach, group: int) -> tuple[Array, Array]:
    """Return rows `(*batch, T, H, 1)` and keys `(*batch, S, K, 1)` of a reach, as q, k and v are laid out."""
    keys = found.keys
    if keys.shape[-2] > 1 and group > 1:
        keys = xp.any(xp.reshape(keys, (*keys.shape[:-2], -1, group, keys.shape[-1])), axis=-2)
    return xp.matrix_transpose(found.rows)[..., None], xp.matrix_transpose(keys)[..., None]


def _marked(xp: Any, name: str, value: Array, rows: Array) -> Array:
    if name == "context":
        rows = xp.matrix_transpose(rows)[..., None]  # (*batch, T, H, 1)
    elif name == "mean_weights":
        rows = xp.any(rows, axis=-2)[..., None]
    elif name in INTERMEDIATES and name != "logsumexp":
        rows = rows[..., None]
    return xp.where(rows, xp.nan, value)
