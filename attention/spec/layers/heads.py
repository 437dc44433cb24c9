"""Head-level steps of multi-head attention: appended keys, output gates, input masking, checks of a cached call.

    q, k = norm(q), norm(k)                               qk-norm, before any rotation
    k, v = [k; bias_k; 0], [v; bias_v; 0]                 add_bias_kv, add_zero_attn: keys that every query may attend to
    context[t, h] = context[t, h] * sigmoid(query[t] W_g)[h]        output gate

Each piece runs on NumPy as the oracle, and on tensors and JAX arrays inside the backends' layers.

References:
    Dehghani et al., arXiv:2302.05442 (qk-norm); torch.nn.MultiheadAttention (the appended keys); Qiu et al.,
    arXiv:2505.06708 (output gate).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attention.spec.attend import reachable
from attention.spec.axes import Array, Sizes
from attention.spec.cache import Cache
from attention.spec.errors import DTypeError, OptionError, PositionError, ShapeError, shown
from attention.spec.kernels.nan_safety import finite
from attention.spec.masks import Prefix
from attention.spec.masks.algebra import And, Mask, Or
from attention.spec.positions import Alibi, AxialRotary, RelativeBias, RelativeKeys

BIASES = (Alibi, RelativeBias, RelativeKeys)
"""Positions that add to the scores; the others turn queries and keys."""

if TYPE_CHECKING:
    from attention.spec.layers.multi_head import MultiHeadAttention


def is_plain(contract: MultiHeadAttention) -> bool:
    """Return whether attention proper gets nothing but heads and a mask: no sinks, no further keys, nothing on the scores."""
    adds = contract.sinks or contract.extra_keys or contract.precision or isinstance(contract.positions, BIASES)
    return not adds and contract.softmax == "standard"


def append(contract: MultiHeadAttention, xp: Any, weights: Mapping[str, Array], k: Array, v: Array) -> tuple[Array, Array]:
    """Return keys and values with those that the contract appends: the learned one, then the zeros."""
    extra_k, extra_v = [], []
    if contract.add_bias_kv:
        extra_k, extra_v = [weights["bias_k"]], [weights["bias_v"]]
    if contract.add_zero_attn:
        extra_k, extra_v = [*extra_k, xp.zeros_like(k[..., :1, :, :])], [*extra_v, xp.zeros_like(v[..., :1, :, :])]
    rows = [[xp.broadcast_to(x, (*of.shape[:-3], 1, *of.shape[-2:])) for x in xs] for of, xs in ((k, extra_k), (v, extra_v))]
    return xp.concat([k, *rows[0]], axis=-3), xp.concat([v, *rows[1]], axis=-3)


def append_columns(xp: Any, x: Array, keys: int, count: int, fill: float) -> Array:
    """Return what broadcasts to `(*batch, H, T, keys)` with `count` keys more, for which `fill` stands; None stays None."""
    if x is None or not count:
        return x
    # A single column stands for all keys, but not for those that are appended.
    x = xp.broadcast_to(x, (*x.shape[:-1], keys))
    return xp.concat([x, *[xp.full_like(x[..., :1], fill)] * count], axis=-1)


def gated(xp: Any, gate: Array, context: Array) -> Array:
    """Return the context `(*batch, T, H, E)` times the sigmoid of its gate, `(*batch, T, H, E)` or `(*batch, T, H)`."""
    # Not 1 / (1 + exp(-x)), whose gradient is inf * 0 where the gate is shut.
    opened = 0.5 * (1.0 + xp.tanh(0.5 * gate))
    return context * (opened[..., None] if opened.ndim < context.ndim else opened)


def zero_masked_inputs(
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


def check_continues(contract: Any, cache: Any, key_positions: Array, sizes: Sizes) -> None:
    """Check that a call may go on from a cache: that decoding chunk by chunk is the layer on the whole sequence.

    Raises:
        DTypeError: no cache.
        PositionError: key positions beside a cache, whose keys have positions of their own.
        OptionError: queries see keys that have not come yet, or that the cache forgets; or a turned key would have to be
            turned anew as the sequence grows; or the chunk ends inside a prefix.
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

    Where a compiler hides how many tokens the cache holds, it is the caller's to know.
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
