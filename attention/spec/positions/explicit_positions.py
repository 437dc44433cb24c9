"""Check the query and key positions that are passed with a call.

query_positions (*batch, T), key_positions (*batch, S): both given, or neither and T = S, both counting from 0
"""

from __future__ import annotations

from typing import Any

from attention.spec.axes import Array, Sizes, check_broadcast, dtype_name
from attention.spec.errors import PositionError, ShapeError
from attention.spec.options import is_array
from attention.spec.positions.axial_rotary import AxialRotary
from attention.spec.positions.rotary import Rotary
from attention.spec.positions.score_bias import Alibi, RelativeBias, RelativeKeys

Rotation = Rotary | AxialRotary
ScoreBias = Alibi | RelativeBias | RelativeKeys
Positions = Rotation | ScoreBias


def check_positions(query_positions: Array, key_positions: Array, sizes: Sizes, positions: Positions | None = None) -> None:
    """Check explicit positions, or their absence, against a call.

    Args:
        query_positions: integers that broadcast to `(*batch, T)`, or None: 0 .. T-1.
        key_positions: integers that broadcast to `(*batch, S)`, or None: 0 .. S-1.
        sizes: of the call.
        positions: the contract's; with `AxialRotary`, both must be given, as `(*batch, N, 2)`.

    Raises:
        PositionError: not integers; one of them absent; both absent while T != S, or on a grid. Counting from 0 would
            be a guess.
        ShapeError: the wrong shape.
    """
    axial = isinstance(positions, AxialRotary)
    named = (("query_positions", query_positions, sizes.T, "T"), ("key_positions", key_positions, sizes.S, "S"))
    for name, given, _, letter in named:
        if given is None and sizes.T != sizes.S:
            raise PositionError(f"{name} None must be given: T = {sizes.T} queries and S = {sizes.S} keys differ")
        if given is None and axial:
            raise PositionError(f"{name} None must be given: (*batch, {letter}, 2) rows and columns, as AxialRotary.grid lists")
    check_both(query_positions, key_positions)
    for name, given, size, letter in named:
        if given is None:
            continue
        check_integral(name, given)
        if not axial:
            check_broadcast(name, given, (*sizes.batch, size), f"(*batch, {letter})")
            continue
        wanted = (*sizes.batch, size, 2)
        # A last axis of 1 would broadcast, the row serving as the column.
        if tuple(given.shape[-1:]) != (2,):
            raise ShapeError(f"{name} {tuple(given.shape)} must broadcast to (*batch, {letter}, 2) = {wanted}, its last axis 2")
        check_broadcast(name, given, wanted, f"(*batch, {letter}, 2)")


def check_integral(name: str, given: Any) -> None:
    """Raise PositionError unless positions are an array of integers."""
    if not is_array(given) or "int" not in dtype_name(given):
        got = dtype_name(given) if is_array(given) else type(given).__name__
        raise PositionError(f"{name} {got} must be an array of integers")


def check_both(query_positions: Array, key_positions: Array) -> None:
    """Raise PositionError where one is given and the other is not, who would silently count from 0."""
    if (query_positions is None) != (key_positions is None):
        absent, given = "key_positions", "query_positions"
        if query_positions is None:
            absent, given = given, absent
        raise PositionError(f"{absent} None must be given as {given} are: both or neither")


def shared_length(xp: Any, positions: Positions | None, query_positions: Array, key_positions: Array) -> Array:
    """Return the length of a call, by which a scaling that `grows` turns queries and keys alike.

    Args:
        xp: the array namespace of the positions.
        positions: the contract's.
        query_positions: integers `(..., T)`, or None.
        key_positions: integers `(..., S)`, or None.

    Returns:
        The largest position of both + 1, without axes; None if no scaling needs it, or if both count from 0
        and so have one length anyway.
    """
    if not (isinstance(positions, Rotary) and positions.grows) or query_positions is None or key_positions is None:
        return None
    q, k = (xp.astype(x, int) for x in (query_positions, key_positions))
    # Without positions there is no length and no maximum.
    q, k = (xp.max(x) + 1 if 0 not in x.shape else xp.sum(x) for x in (q, k))
    return xp.maximum(q, k)
