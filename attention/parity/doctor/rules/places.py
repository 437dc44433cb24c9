"""Places: the right elements in other places, masks of other places, and elements that are rounded.

    jax = torch, its axes in another order, rolled, reversed, tiled where repeated        mask on jax = mask on torch, moved
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attention.parity.doctor.rules.scene import Finding, Scene
from attention.parity.tracing.fingerprint import masked


def other_mask(scene: Scene) -> Finding | None:
    """Name how two masks differ: the complement, a diagonal moved, a prefix one shorter, none at all."""
    pair = _masks(scene)
    if pair is None or pair[0].shape != pair[1].shape or (pair[0] == pair[1]).all():
        return None
    torch, jax = pair
    share = f"masked: {torch.mean():.0%} on torch, {jax.mean():.0%} on jax; they differ in {(torch != jax).mean():.0%}"
    if (torch != jax).all():
        return Finding("mask of the other polarity", f"one is the complement of the other; {share}", "~mask", "~mask")
    for side, x in (("torch", torch), ("jax", jax)):
        if not x.any():
            return Finding(f"mask missing on {side}", share)
    first, second = _band(torch), _band(jax)
    if first is None or second is None:
        return None
    t, s = torch.shape[-2:]
    return _bands(first, second, t, s, share)


def _masks(scene: Scene) -> tuple[np.ndarray, np.ndarray] | None:
    """Return where each side masks; None if they say so in different ways."""
    if scene.torch.dtype == bool and scene.jax.dtype == bool:
        # The sides may not mean the same by True: what is seen is what the larger part of a causal mask is not.
        return ~scene.torch, ~scene.jax
    if scene.torch.dtype.kind != "f" or scene.jax.dtype.kind != "f" or scene.torch.shape != scene.jax.shape:
        return None
    torch, jax = masked(scene.torch), masked(scene.jax)
    if not (torch.any() and jax.any()):
        return None
    # Elsewhere the arrays must be equal: otherwise the mask is not all that differs.
    both = ~torch & ~jax
    a, b = scene.torch[both], scene.jax[both]
    scale = float(np.abs(a).max(initial=0.0))
    return (torch, jax) if (np.abs(a - b) <= 4 * scene.limit * scale).all() else None


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
    t, s = seen.shape
    if (flat != flat[0]).any() or not seen.any() or t * s < 2:
        return None
    apart = np.arange(s) - np.arange(t)[:, None]
    low, high = int(apart[seen].min()), int(apart[seen].max())
    if (seen != ((apart >= low) & (apart <= high))).any():
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
            return Finding(f"{'torch' if np.isinf(torch.high) else 'jax'} sees later keys", told)
        return Finding(f"causal mask off by {abs(int(torch.high - jax.high))}", told)
    if torch.low != jax.low and torch.high == jax.high:
        if np.isinf(torch.low) or np.isinf(jax.low):
            return Finding(f"window missing on {'torch' if np.isinf(torch.low) else 'jax'}", told)
        return Finding(f"window off by {abs(int(torch.low - jax.low))}", told)
    return None


def _span(band: _Band) -> str:
    return f"[{band.low:g}, {band.high:g}] from the query"


def off_by_one_prefix(scene: Scene) -> Finding | None:
    """Name rows of which one side sees the first n keys and the other n + 1."""
    pair = _masks(scene)
    if pair is None or pair[0].shape != pair[1].shape:
        return None
    counts = []
    for hidden in pair:
        seen = ~hidden.reshape(-1, hidden.shape[-1])
        n = seen.sum(-1)
        if (seen != (np.arange(seen.shape[-1]) < n[:, None])).any():
            return None
        counts.append(n)
    apart = np.unique(counts[0] - counts[1])
    if apart.size != 1 or not apart[0]:
        return None
    n = int(apart[0])
    name = f"{'jax' if n > 0 else 'torch'} sees {abs(n)} key{'s' if abs(n) > 1 else ''} too few, or the other side too many"
    evidence = f"first keys seen by row: {counts[0][:4].tolist()} on torch, {counts[1][:4].tolist()} on jax"
    return Finding(name, evidence, *(("< position", "<= position") if n > 0 else ("<= position", "< position")), sure=True)


def tiled(scene: Scene) -> Finding | None:
    """Name repetition of each element on one side and of the whole on the other."""
    a, b = scene.torch, scene.jax
    if a.shape != b.shape or a.dtype.kind != "f":
        return None
    for axis in range(a.ndim):
        n = a.shape[axis]
        for groups in (g for g in range(2, n // 2 + 1) if n % g == 0):
            for side, other, x, y in (("torch", "jax", a, b), ("jax", "torch", b, a)):
                once = np.take(x, np.arange(0, n, n // groups), axis)
                if (np.repeat(once, n // groups, axis) == x).all() and scene.equal(y, np.concatenate([once] * (n // groups), axis)):
                    name = f"heads repeated on {side}, tiled on {other}"
                    mend = {"torch": "repeat_interleave(n, dim) as torch.repeat tiles", "jax": "jnp.repeat(x, n, axis), not jnp.tile"}
                    evidence = f"axis {axis} of {a.shape}: {groups} heads {n // groups} times"
                    return Finding(name, evidence, **{other: mend[other]})
    return None


def split_otherwise(scene: Scene) -> Finding | None:
    """Name two axes that one side splits or merges as (h d) and the other as (d h)."""
    a, b = scene.torch, scene.jax
    if a.size != b.size or a.dtype.kind != "f" or a.size < 6:
        return None
    for first in range(b.ndim):
        for last in range(first + 1, b.ndim + 1):
            n = int(np.prod(b.shape[first:last]))
            for p in (p for p in range(2, n // 2 + 1) if n % p == 0):
                shape = (*b.shape[:first], p, n // p, *b.shape[last:])
                turned = b.reshape(shape).swapaxes(first, first + 1)
                if scene.equal(a, turned.reshape(a.shape)) and not scene.equal(a, b.reshape(a.shape)):
                    evidence = f"torch {a.shape} = jax {b.shape} with {n} = ({p}, {n // p}) transposed"
                    return Finding("axes split or merged in another order", evidence, f"({n // p} {p}) for ({p} {n // p})")
    return None


def moved(scene: Scene) -> Finding | None:
    """Name a roll or a flip."""
    relation = scene.relation
    if relation is None or relation.kind not in {"rolled", "reversed"}:
        return None
    axis, shift = relation.numbers["axis"], relation.numbers.get("shift", 0)
    if relation.kind == "reversed":
        return Finding(f"reversed along axis {axis}", relation.text, f"flip([{axis}])", f"jnp.flip(axis={axis})")
    n = scene.torch.squeeze().shape[axis]
    return Finding(f"rolled by {min(shift, n - shift)} along axis {axis}", relation.text)


def coarser(scene: Scene) -> Finding | None:
    """Name an array that one side rounds to a coarser dtype."""
    relation = scene.relation
    if relation is not None and relation.kind == "rounded":
        side, dtype = relation.numbers["side"], relation.numbers["dtype"]
        return Finding(f"{side} computes in {dtype}", relation.text, **{side: "float32 here"})
    return None


RULES = (other_mask, off_by_one_prefix, tiled, split_otherwise, moved, coarser)
