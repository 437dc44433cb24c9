"""The numbers that `compare_logits` keeps of each position: error, KL divergence, margin of the argmax.

    error = |actual - expected|     KL = sum p_expected (log p_expected - log p_actual)     margin = e[argmax e] - e[argmax a]

Everything is computed in float64 on a chunk of positions, (n, V), so that memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

Array = np.ndarray


def differences(actual: Array, expected: Array) -> Array:
    """Return |actual - expected|: 0 where both are equal or both NaN, inf where one alone is not finite."""
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        error = np.abs(actual - expected)
    return np.where(same, 0.0, np.where(np.isnan(error), np.inf, error))


def root_mean_square(x: Array) -> Array:
    """Return the RMS along the last axis; elements of the vocabulary that are masked with an infinity do not count."""
    finite = np.where(np.isfinite(x), x, 0.0)
    return np.sqrt(np.mean(finite**2, axis=-1))


def log_softmax(x: Array) -> Array:
    """Return log softmax along the last axis."""
    top = np.max(x, axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        shifted = x - np.where(np.isfinite(top), top, 0.0)
        return shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True))


def divergence(log_expected: Array, log_actual: Array) -> Array:
    """Return KL(expected || actual) in nats along the last axis; a token of probability 0 contributes nothing."""
    p = np.exp(log_expected)
    with np.errstate(invalid="ignore"):
        terms = np.where(p == 0, 0.0, p * (log_expected - log_actual))
    # Of nearly equal distributions the sum is a rounding error, which may fall below 0.
    return np.maximum(np.sum(terms, axis=-1), 0.0)


def agreement(actual: Array, expected: Array, k: int) -> Array:
    """Return the share of the top k tokens of `actual` that are also in the top k of `expected`, ties included."""
    k = min(k, actual.shape[-1])
    chosen = np.argpartition(-actual, k - 1, axis=-1)[..., :k]
    least = -np.partition(-expected, k - 1, axis=-1)[..., k - 1 : k]
    return np.mean(np.take_along_axis(expected, chosen, axis=-1) >= least, axis=-1)


def compared(actual: Array, expected: Array, top_k: Sequence[int], labels: Array | None = None) -> dict[str, Array]:
    """Return the numbers of n positions, each of shape (n,).

    Args:
        actual: logits, float64, (n, V).
        expected: the same.
        top_k: the numbers of tokens of which the agreement is computed.
        labels: of the tokens that follow, (n,); -100 where there is none.

    Returns:
        "max error", "mean error", "rms error", "kl", "margin" (0 where the first tokens are the same), "flip",
        "top K" of each K, and "loss actual", "loss expected" (NaN where there is no label).
    """
    error = differences(actual, expected)
    logs = log_softmax(actual), log_softmax(expected)
    best = np.argmax(actual, axis=-1)[:, None]
    margin = np.max(expected, axis=-1) - np.take_along_axis(expected, best, axis=-1)[:, 0]
    found: dict[str, Array] = {
        "max error": np.max(error, axis=-1),
        "mean error": np.mean(error, axis=-1),
        "rms error": np.sqrt(np.mean(error**2, axis=-1)),
        "kl": divergence(logs[1], logs[0]),
        "margin": margin,
        # A token that `expected` holds for as good is no flip, wherever a tie is broken.
        "flip": (margin > 0) | np.isnan(margin),
        **{f"top {k}": agreement(actual, expected, k) for k in top_k},
    }
    return found if labels is None else {**found, **losses(logs, labels)}


def losses(logs: tuple[Array, Array], labels: Array) -> Mapping[str, Array]:
    """Return the negative log-likelihood of the labels in nats; NaN where there is no label."""
    known = labels >= 0
    chosen = np.where(known, labels, 0)[:, None]
    taken = (-np.take_along_axis(log, chosen, axis=-1)[:, 0] for log in logs)
    return {f"loss {name}": np.where(known, loss, np.nan) for name, loss in zip(("actual", "expected"), taken, strict=True)}
