"""Masking: another or a missing mask, another fill value, or a mask before a soft cap instead of after it.

torch = where(mask, x, -inf)        jax = where(another mask, x, -inf), or x, or where(mask, x, another value)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attention.parity.diagnosis.rules.arrays import arranged
from attention.parity.diagnosis.rules.operand_pair import Finding, OperandPair
from attention.parity.tracing.fingerprint import masked


def other_mask(pair: OperandPair) -> Finding | None:
    """Name how two masks differ: the complement, a diagonal moved, a prefix one shorter, none at all."""
    both = _masks(pair)
    if both is None or both[0].shape != both[1].shape or (both[0] == both[1]).all():
        return None
    torch, jax = both
    share = f"masked: {torch.mean():.0%} on torch, {jax.mean():.0%} on jax; they differ in {(torch != jax).mean():.0%}"
    if (torch != jax).all():
        return Finding("mask of the other polarity", f"one is the complement of the other; {share}", "~mask", "~mask")
    first, second = _band(torch), _band(jax)
    if first is None or second is None:
        return None
    t, s = torch.shape[-2:]
    return _bands(first, second, t, s, share)


def _masks(pair: OperandPair) -> tuple[np.ndarray, np.ndarray] | None:
    """Return where each side masks; None if they say so in different ways."""
    if pair.torch.dtype == bool and pair.jax.dtype == bool:
        # The sides may not mean the same by True: what is seen is what the larger part of a causal mask is not.
        return ~pair.torch, ~pair.jax
    if pair.torch.dtype.kind != "f" or pair.jax.dtype.kind != "f" or pair.torch.shape != pair.jax.shape:
        return None
    torch, jax = masked(pair.torch), masked(pair.jax)
    if not (torch.any() and jax.any()):
        return None
    # Elsewhere the arrays must be equal: otherwise the mask is not all that differs.
    both = ~torch & ~jax
    a, b = pair.torch[both], pair.jax[both]
    scale = float(np.abs(a).max(initial=0.0))
    return (torch, jax) if (np.abs(a - b) <= 4 * pair.limit * scale).all() else None


@dataclass(frozen=True)
class _Band:
    """Masks nothing where low <= key - query <= high."""

    low: float
    high: float


def _band(hidden: np.ndarray) -> _Band | None:
    """Return the band that a mask over (queries, keys) leaves; None if it leaves something else."""
    if hidden.ndim < 2:
        return None
    flat = hidden.reshape(-1, *hidden.shape[-2:])
    seen = ~flat[0]
    t, s = (int(n) for n in seen.shape)
    # Of one query every prefix is a band.
    if t < 2:
        return None
    if (flat != flat[0]).any() or not seen.any():
        return None
    query, key = np.indices((t, s))
    apart = key - query
    # A first query that would see no key is often left one.
    begin = 1 if t > 2 and seen[1:].any() and seen[0].sum() == 1 else 0
    for rows in dict.fromkeys((0, begin)):
        low, high = (int(f(apart[rows:][seen[rows:]])) for f in (np.min, np.max))
        band = (apart >= low) & (apart <= high)
        if (seen[rows:] == band[rows:]).all() and not (rows and band[:rows].any()):
            break
    else:
        return None
    return _Band(-np.inf if low == apart.min() else low, np.inf if high == apart.max() else high)


def _bands(torch: _Band, jax: _Band, t: int, s: int, share: str) -> Finding | None:
    told = f"keys seen: {_span(torch)} on torch, {_span(jax)} on jax, of {t} queries and {s} keys; {share}"
    if torch.high != jax.high and torch.low == jax.low:
        ends = {"start": 0, "end": s - t}
        names = [[name for name, high in ends.items() if high == band.high] for band in (torch, jax)]
        if t != s and all(names):
            mend = f"tril(diagonal={int(jax.high)})", f"jnp.tril(k={int(torch.high)})"
            return Finding(f"causal corner {names[0][0]} on torch, {names[1][0]} on jax", told, *mend)
        if np.isinf(torch.high) or np.isinf(jax.high):
            return Finding(f"causal mask missing on {'torch' if np.isinf(torch.high) else 'jax'}", told)
        return Finding(f"causal mask off by {abs(int(torch.high - jax.high))}", told)
    if torch.low != jax.low and torch.high == jax.high:
        if np.isinf(torch.low) or np.isinf(jax.low):
            return Finding(f"window missing on {'torch' if np.isinf(torch.low) else 'jax'}", told)
        return Finding(f"window off by {abs(int(torch.low - jax.low))}", told)
    return None


def _span(band: _Band) -> str:
    return f"[{band.low:g}, {band.high:g}] from the query"


def off_by_one_prefix(pair: OperandPair) -> Finding | None:
    """Name rows of which one side sees the first n keys and the other n + 1."""
    both = _masks(pair)
    if both is None or both[0].shape != both[1].shape:
        return None
    counts: list[np.ndarray] = []
    for hidden in both:
        seen = ~hidden.reshape(-1, hidden.shape[-1])
        n = seen.sum(-1)
        if (seen != (np.arange(seen.shape[-1]) < n[:, None])).any():
            return None
        counts.append(n)
    apart = np.unique(counts[0] - counts[1])
    if apart.size != 1 or abs(apart[0]) != 1:
        return None
    n = int(apart[0])
    name = f"prefix off by one: {'jax' if n > 0 else 'torch'} sees one key less"
    evidence = f"first keys seen by row: {counts[0][:4].tolist()} on torch, {counts[1][:4].tolist()} on jax"
    return Finding(name, evidence, *(("< position", "<= position") if n > 0 else ("<= position", "< position")))


def masked_otherwise(pair: OperandPair) -> Finding | None:
    """Name what one side makes of elements that the other masks: nothing, or another value."""
    if pair.torch.dtype.kind != "f" or pair.jax.dtype.kind != "f" or pair.torch.size != pair.jax.size:
        return None
    torch, jax = pair.torch, pair.jax.reshape(pair.torch.shape)
    for which, side, other, x, y in ((0, "torch", "jax", torch, jax), (1, "jax", "torch", jax, torch)):
        hidden = masked(x) & ~masked(y)
        seen = ~masked(x) & ~masked(y)
        if not hidden.any() or not seen.any() or (masked(y) & ~masked(x)).any():
            continue
        if np.abs(x[seen] - y[seen]).max() > 4 * pair.limit * np.abs(x[seen]).max():
            continue
        told = f"{side} masks {hidden.mean():.0%} of the elements, the others are equal"
        value = y[hidden]
        if value.size > 1 and np.ptp(value) <= 1e-9 * abs(value[0]):
            return _of_value(pair, which, float(value[0]), np.abs(y[seen]).max(), told)
        if _is_known(pair, other, y):
            what = "causal mask" if _is_causal(x) else "a mask is"
            return Finding(f"{what} missing on {other}", f"{told}; {other} leaves them as they are")
    return None


def _of_value(pair: OperandPair, which: int, value: float, largest: float, told: str) -> Finding:
    side, other = ("torch", "jax") if not which else ("jax", "torch")
    if value < 0 and pair.runs(1 - which, "tanh") and largest < -value:
        name = f"mask applied before the soft cap on {other}, after it on {side}"
        return Finding(name, f"{told}; on {other} they are {value:.6g}, what the cap makes of -inf")
    return Finding(f"masked elements are {value:.6g} on {other}, not masked out as on {side}", told)


def _is_known(pair: OperandPair, side: str, value: np.ndarray) -> bool:
    """Return whether an array is one that both programs have, as it is where nothing is masked."""
    return pair.absent == side or any(
        pair.equal(value, k.reshape(value.shape))
        for k in (getattr(known, side) for known in pair.known)
        if k.size == value.size
    )


def _is_causal(x: np.ndarray) -> bool:
    band = _band(masked(x))
    return band is not None and band.high in (0, x.shape[-1] - x.shape[-2]) and band.low == -np.inf


def _hides(pair: OperandPair, side: str, size: int, count: int) -> bool:
    """Return whether a side hides as many elements of an array of this size somewhere, perhaps only later."""
    arrays = pair.made[side == "jax"]
    return any(x.size == size and x.dtype.kind == "f" and int((x < HIDDEN).sum()) == count for x in arrays)


HIDDEN = -1e4
"""What lies below has been hidden."""
LOW = -50.0
"""What is added to hide an element is at most this."""


def added_mask(pair: OperandPair) -> Finding | None:
    """Name what one side adds to hide elements, and the other does not: 0 or one large negative number."""
    if pair.torch.dtype.kind != "f" or pair.jax.dtype.kind != "f":
        return None
    for jax in arranged(pair.torch, pair.jax):
        apart = pair.torch - jax
        if not np.isfinite(apart).all():
            continue
        for side, other, m in (("torch", "jax", apart), ("jax", "torch", -apart)):
            low, near = float(m.min()), 1e-9 * max(1.0, float(np.abs(pair.torch).max(initial=0.0)))
            hidden = np.abs(m - low) <= near
            if low > LOW or not (hidden | (np.abs(m) <= near)).all() or hidden.all():
                continue
            if _hides(pair, other, m.size, int(hidden.sum())):
                continue
            told = f"{side} adds {low:.6g} to {hidden.mean():.0%} of the elements, {other} adds nothing"
            return Finding(f"a mask is missing on {other}, or too much on {side}", told)
    return None


RULES = (other_mask, off_by_one_prefix, masked_otherwise, added_mask)
