"""The attention formula over the array API: every intermediate, from scores to context.

    scaled    = q k^T * scale                                   (*batch, H, T, S)
    capped    = c tanh(scaled / c)                              soft cap
    scores    = score_mod(capped + bias, b, h, t, s)
    masked    = scores where allowed, else -inf
    logsumexp = log(sum_s exp masked + exp sink)                -inf where nothing is allowed
    weights   = exp(masked - logsumexp)                         rows sum to 1, or are 0 where nothing is allowed
    context   = (weights * keep / (1 - rate)) v                 (*batch, T, H, E)

The same text is the float64 oracle (NumPy), its gradient (JAX in float64) and each backend's reference kernel.

References:
    Vaswani et al., arXiv:1706.03762, equation 1; Milakov and Gimelshein, arXiv:1805.02867 (stable softmax); Xiao et al.,
    arXiv:2309.17453 (sinks). What an empty row and a padded key do is this project's choice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attention.spec.axes import Array
from attention.spec.scores import mix, products, soft_cap

INTERMEDIATES = ("scaled", "capped", "scores", "masked", "weights", "mean_weights", "logsumexp", "context")
"""The intermediates that a call can return, in order of computation. "mean_weights" is the mean over the heads."""


class Observer:
    """Called with each intermediate as it is computed; a subclass may record or replace it. This one returns it unchanged."""

    def __call__(self, intermediate: str, value: Array) -> Array:
        """Return the value that the rest of the formula uses in place of `value`."""
        del intermediate
        return value

    def attending(self, allowed: Array, scores: Callable[[], Array], sinks: Array, dropped: Callable[[Array], Array]) -> None:
        """Called before each attention.

        Args:
            allowed: its mask, or None.
            scores: computes its scores.
            sinks: its sinks, or None.
            dropped: what dropout leaves of the weights.
        """


UNOBSERVED = Observer()


def unchanged(value: Array) -> Array:
    """Return the value: stop-gradient where nothing is differentiated."""
    return value


def attend(
    xp: Any,
    q: Array,
    k: Array,
    v: Array,
    *,
    scale: float,
    allowed: Array = None,
    bias: Array = None,
    softcap: float | None = None,
    score_mod: Callable[[Array], Array] | None = None,
    sinks: Array = None,
    keep: Array = None,
    dropout_rate: float = 0.0,
    constant: Callable[[Array], Array] = unchanged,
    observe: Observer = UNOBSERVED,
) -> dict[str, Array]:
    """Return every intermediate by name.

    Args:
        xp: the array namespace of the arrays.
        q: `(*batch, T, H, D)`, already in the compute dtype; so are all floating arrays here.
        k: `(*batch, S, K, D)`.
        v: `(*batch, S, K, E)`.
        scale: factor of `q . k`.
        allowed: bool, broadcastable to `(*batch, H, T, S)`; None allows everything.
        bias: added to the scores, broadcastable to them.
        softcap: bound of the scores before the bias, or None.
        score_mod: what `scores.bind` made of a user's function, or None.
        sinks: `(H,)`, one logit per head that takes weight and gives no value, or None.
        keep: bool `(*batch, H, T, S)`, the weights that dropout keeps, or None.
        dropout_rate: the probability of dropping that made `keep`.
        constant: the framework's stop-gradient, for terms that cancel in exact arithmetic.
        observe: called with each intermediate; see `Observer`.
    """
    q, k, v = zero_masked(xp, q, k, v, allowed)
    q, k, v = observe("query", q), observe("key", k), observe("value", v)

    def scored() -> tuple[Array, Array, Array]:
        scaled = products(xp, q, k) * scale
        capped = soft_cap(xp, scaled, softcap)
        scores = capped if bias is None else capped + bias
        return scaled, capped, scores if score_mod is None else score_mod(scores)

    def dropped(weights: Array) -> Array:
        return weights if keep is None else xp.where(keep, weights / (1.0 - dropout_rate), xp.zeros_like(weights))

    observe.attending(allowed, lambda: scored()[2], sinks, dropped)
    scaled, capped, scores = scored()
    scores = observe("scores", scores)
    masked = scores if allowed is None else xp.where(allowed, scores, -xp.inf)
    weights, logsumexp = softmax(xp, masked, None, sinks, constant)
    logsumexp = observe("logsumexp", logsumexp)
    weights = observe("weights", weights)
    context = observe("context", mix(xp, dropped(weights), v))
    made = (scaled, capped, scores, masked, weights, xp.mean(weights, axis=-3), logsumexp, context)
    return dict(zip(INTERMEDIATES, made, strict=True))


def softmax(
    xp: Any, scores: Array, allowed: Array = None, sinks: Array = None, constant: Callable[[Array], Array] = unchanged
) -> tuple[Array, Array]:
    """Return weights and logsumexp over the keys.

    Args:
        xp: the array namespace.
        scores: `(*batch, H, T, S)`, unitless logits.
        allowed: bool, broadcastable to `scores`, or None.
        sinks: `(H,)` logits that join the denominator, or None.
        constant: the framework's stop-gradient.

    Returns:
        weights `(*batch, H, T, S)`: a row sums to 1 (less with sinks), or is exactly 0 where no key is allowed.
        logsumexp `(*batch, H, T)`: natural log of the denominator, sinks included; -inf for an empty row.
    """
    if scores.shape[-1] == 0:
        # Without keys every row is empty and has no maximum.
        nothing = xp.sum(scores, axis=-1)
        return scores, nothing - xp.inf if sinks is None else nothing + sinks[:, None]
    masked = scores if allowed is None else xp.where(allowed, scores, -xp.inf)
    top = xp.max(masked, axis=-1, keepdims=True)
    if sinks is not None:
        sinks = sinks[:, None, None]
        top = xp.maximum(top, sinks)
    # -inf - -inf is NaN, so an empty row is shifted by 0 instead of its maximum. The shift cancels: no gradient.
    top = constant(xp.where(top == -xp.inf, xp.zeros_like(top), top))
    raised = xp.exp(masked - top)
    total = xp.sum(raised, axis=-1, keepdims=True)
    if sinks is not None:
        total = total + xp.exp(sinks - top)
    # The gradients of log 0 and x / 0 are NaN even where the result is not used.
    empty = total == 0
    safe = xp.where(empty, xp.ones_like(total), total)
    logsumexp = xp.where(empty, -xp.inf, top + xp.log(safe))
    return raised / safe, xp.squeeze(logsumexp, axis=-1)


def zero_masked(xp: Any, q: Array, k: Array, v: Array, allowed: Array = None) -> tuple[Array, Array, Array]:
    """Return q, k and v with zeros for masked tokens, so that NaN there reaches no value and no gradient.

    Masked are the keys of a head that no query of their batch row may attend to, and the queries that may attend to no key.
    A weight of 0 alone is not enough: 0 * NaN is NaN.
    """
    if allowed is None:
        return q, k, v
    rows, keys = reachable(xp, allowed, q.shape[-2] // k.shape[-2])
    return tuple(xp.where(seen, x, xp.zeros_like(x)) for seen, x in ((rows, q), (keys, k), (keys, v)))  # type: ignore[return-value]


def reachable(xp: Any, allowed: Array, group: int) -> tuple[Array, Array]:
    """Return which queries may attend to a key, and which keys a query may attend to.

    Args:
        xp: the array namespace.
        allowed: bool, broadcastable to `(*batch, H, T, S)`.
        group: query heads per key/value head.

    Returns:
        bool `(*batch, T, H, 1)` and `(*batch, S, K, 1)`; any axis may be 1 or, before the last three, absent.
    """
    while allowed.ndim < 3:
        allowed = allowed[None]
    rows, keys = xp.any(allowed, axis=-1), xp.any(allowed, axis=-2)  # (*, H, T), (*, H, S)
    if keys.shape[-2] > 1 and group > 1:
        keys = xp.any(xp.reshape(keys, (*keys.shape[:-2], -1, group, keys.shape[-1])), axis=-2)
    return xp.matrix_transpose(rows)[..., None], xp.matrix_transpose(keys)[..., None]
