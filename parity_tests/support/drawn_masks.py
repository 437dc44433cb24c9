"""Random masks: every kind and every composition, each with its formula in plain Python.

drawn = (T, S), (mask, says)        says(b, t, s) = whether the mask allows it, over integers and lists
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from attention.spec import masks
from attention.spec.axes import Sizes
from attention.spec.masks.algebra import Mask, evaluate

Says = Callable[[int, int, int], bool]
Drawn = tuple[tuple[int, int], tuple[Mask, Says]]
B, T, S = 2, 3, 5


def of(t: int, s: int, batch: tuple[int, ...] = (B,), heads: int = 1) -> Sizes:
    return Sizes(batch, t, s, heads, 1, 1, 1)


def table(mask: Mask, sizes: Sizes) -> np.ndarray:
    """The mask at every element of (*batch, H, T, S)."""
    return np.broadcast_to(np.asarray(evaluate(mask, sizes)), sizes.scores)


def integers(shape: tuple[int, ...], low: int, high: int) -> st.SearchStrategy[np.ndarray]:
    size = int(np.prod(shape))
    flat = st.lists(st.integers(low, high), min_size=size, max_size=size)
    return flat.map(lambda values: np.reshape(np.asarray(values, np.int64), shape))


@st.composite
def aligned(draw: st.DrawFn, t: int, s: int, given: bool = True) -> tuple[dict[str, Any], Callable[[int, int], int]]:
    """How a query stands among the keys: the options of a mask, and p(b, t)."""
    how = draw(st.sampled_from(["start", "end"] + ["given"] * given + ["unsaid"] * (t == s)))
    if how == "given":
        where = draw(integers((B, t), -2, s + 2))
        return {"query_positions": where}, lambda b, i: int(where[b, i])
    return ({} if how == "unsaid" else {"align": how}), lambda _, i: i + (s - t if how == "end" else 0)


@st.composite
def positional(draw: st.DrawFn, t: int, s: int, given: bool = True) -> tuple[Mask, Says]:
    """A mask by position; without `given`, of structure alone."""
    options, p = draw(aligned(t, s, given))
    kind = draw(st.sampled_from(["causal", "chunked", "window"]))
    if kind == "causal":
        return masks.Causal(**options), lambda b, i, j: j <= p(b, i)
    if kind == "chunked":
        size = draw(st.integers(1, 4))
        return masks.Chunked(size=size, **options), lambda b, i, j: j // size == p(b, i) // size
    before, after = (draw(st.none() | st.integers(0, 4)) for _ in range(2))
    lowest, highest = (10**6 if bound is None else bound for bound in (before, after))
    return masks.Window(before=before, after=after, **options), lambda b, i, j: p(b, i) - lowest <= j <= p(b, i) + highest


@st.composite
def by_data(draw: st.DrawFn, t: int, s: int) -> tuple[Mask, Says]:
    kind = draw(st.sampled_from(["prefix", "prefixes", "segments", "lengths", "dense"]))
    if kind == "prefix":
        length = draw(st.integers(0, s))
        return masks.Prefix(length), lambda _b, _i, j: j < length
    if kind == "segments":
        kv, q = draw(integers((B, s), -1, 2)), draw(integers((B, t), -1, 2))
        q = kv if t == s and draw(st.booleans()) else q
        return masks.Segments(kv, None if q is kv else q), lambda b, i, j: q[b, i] == kv[b, j] and kv[b, j] >= 0
    if kind == "dense":
        array = draw(integers((B, 1, t, s), 0, 1)) > 0
        return masks.DenseMask(array), lambda b, i, j: bool(array[b, 0, i, j])
    keys, queries = draw(integers((B,), 0, s)), draw(integers((B,), 0, t))
    if kind == "prefixes":
        return masks.Prefix(keys), lambda b, _, j: j < keys[b]
    if draw(st.booleans()):
        return masks.Lengths(keys, queries), lambda b, i, j: j < keys[b] and i < queries[b]
    left = masks.Lengths(keys, queries, padding="left")
    return left, lambda b, i, j: j + keys[b] >= s and i + queries[b] >= t


@st.composite
def placed(draw: st.DrawFn, t: int, s: int) -> tuple[Mask, Says]:
    """A mask of a sequence of 8, and where in it t queries and s keys stand, in any order, some of them absent."""
    q, k = draw(integers((B, t), -1, 7)), draw(integers((B, s), -1, 7))
    if draw(st.booleans()):
        return masks.Placed(None, q, k), lambda b, i, j: q[b, i] >= 0 and k[b, j] >= 0
    whole, says = draw(structural(8))
    return masks.Placed(whole, q, k), lambda b, i, j: q[b, i] >= 0 and k[b, j] >= 0 and says(b, int(q[b, i]), int(k[b, j]))


@st.composite
def structural(draw: st.DrawFn, n: int) -> tuple[Mask, Says]:
    """A mask of n queries and n keys that holds no array."""
    return draw(composed(positional(n, n, given=False), 2))


def any_mask(t: int, s: int, depth: int = 2) -> st.SearchStrategy[tuple[Mask, Says]]:
    return composed(positional(t, s) | by_data(t, s) | placed(t, s), depth)


@st.composite
def composed(draw: st.DrawFn, simple: st.SearchStrategy[tuple[Mask, Says]], depth: int) -> tuple[Mask, Says]:
    if depth == 0 or draw(st.booleans()):
        return draw(simple)
    (first, one), (second, two) = draw(composed(simple, depth - 1)), draw(composed(simple, depth - 1))
    return draw(
        st.sampled_from(
            [
                (first & second, lambda b, i, j: one(b, i, j) and two(b, i, j)),
                (first | second, lambda b, i, j: one(b, i, j) or two(b, i, j)),
                (~first, lambda b, i, j: not one(b, i, j)),
                (masks.PerRow((first, second)), lambda b, i, j: (one, two)[b](b, i, j)),
            ]
        )
    )


sides = st.integers(1, 6)
sized = st.tuples(sides, sides).flatmap(lambda n: st.tuples(st.just(n), any_mask(*n)))
