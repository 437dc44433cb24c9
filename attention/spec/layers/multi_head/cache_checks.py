"""Checks of a call with a key/value cache: decoding chunk by chunk must equal the layer on the whole sequence."""

from __future__ import annotations

from typing import Any

from attention.spec.axes import Array, Sizes
from attention.spec.cache import Cache
from attention.spec.errors import DTypeError, OptionError, PositionError, ShapeError, shown
from attention.spec.masks import Prefix
from attention.spec.masks.algebra import And, Mask, Or
from attention.spec.positions import AxialRotary


def check_continues(contract: Any, cache: Any, key_positions: Array, sizes: Sizes) -> None:
    """Check that a call may go on from a cache: that decoding chunk by chunk is the layer on the whole sequence.

    Raises:
        DTypeError: no cache.
        PositionError: key positions beside a cache, whose keys have positions of their own.
        OptionError: queries attend to later keys, or to keys that the cache drops; or a rotated key would change as the
            sequence grows; or the chunk ends inside a prefix.
        ShapeError: another batch than the cache's, or keys of other tokens.
    """
    if not isinstance(cache, Cache):
        raise DTypeError(f"cache {type(cache).__name__} must be a StaticCache, RollingCache or PagedCache")
    if key_positions is not None:
        raise PositionError("key_positions must be None with a cache: its keys have the positions at which they were appended")
    if contract.mask is None or looks_ahead(contract.mask):
        raise OptionError(f"mask {shown(contract.mask)} must hide later keys to be used with a cache, as Causal() does")
    if isinstance(contract.positions, AxialRotary) or getattr(contract.positions, "grows", False):
        raise OptionError(
            f"positions {shown(contract.positions)} must not depend on the length, or be rows and columns, with a cache"
        )
    if tuple(cache.batch) != sizes.batch or sizes.S != sizes.T:
        got = f"batch {sizes.batch} with {sizes.T} queries and {sizes.S} keys"
        raise ShapeError(f"query of {got} must have the cache's batch {tuple(cache.batch)}, and a key for each query")
    cache.check(contract.mask)
    check_prefix(contract.mask, cache, sizes.T)


def check_prefix(mask: Mask, cache: Cache, tokens: int) -> None:
    """Raise OptionError if a chunk ends inside a prefix, whose later keys its queries should have seen.

    Under a compiler the number of tokens in the cache is unknown, and the caller must check it.
    """
    if isinstance(mask, (And, Or)):
        for part in (mask.left, mask.right):
            check_prefix(part, cache, tokens)
    length = mask.length if isinstance(mask, Prefix) and not mask.by_row else 0
    first = cache.memory.known(cache.upcoming(1)) if length else None
    if first is not None and bool((first + tokens < length).any()):
        raise OptionError(f"query of {tokens} tokens from {int(first.min())} on must cover the prefix of {length}, whole")


def looks_ahead(mask: Mask) -> bool:
    """Return whether queries see later keys, other than those of a prefix, which the first chunk has to cover."""
    if isinstance(mask, Or):
        return any(looks_ahead(part) for part in (mask.left, mask.right) if not isinstance(part, Prefix))
    return mask.looks_ahead
