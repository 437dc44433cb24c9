"""Pooling of one array that differs in its padding or in its reduction, such as maximum and mean.

torch = max of windows of pad(x, lo, hi)        jax = mean of windows of pad(x, lo', hi'), with the padding counted or not

Both are made again from torch's own array.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import product

import numpy as np

from attention.parity.diagnosis.rules.arrays import near
from attention.parity.diagnosis.rules.operand_pair import Finding, OperandPair
from attention.parity.tracing import Event

POOLS = ("max_pool", "avg_pool")
MOST_WINDOWS, MOST_PADDED = 3_000_000, 8
FORMS = ("maximum", "mean with the padding", "mean without the padding")


def other_pooling(pair: OperandPair) -> Finding | None:
    """Name how two poolings of one array differ: in their padding, or in what is taken of each window."""
    pools = [e for e in pair.region[0] if e.op.startswith(POOLS)]
    values = {e.index: e.value for e in pair.region[0]}
    if len(pools) != 1 or not pools[0].inputs or pools[0].inputs[0] not in values:
        return None
    torch = jax = ""
    # The first that fits is told: torch's own way is made first.
    for told, made in _ways(pools[0], values[pools[0].inputs[0]]):
        torch = torch or (told if near(pair.torch, made) else "")
        jax = jax or (told if near(pair.jax, made) else "")
    if not torch or not jax or torch == jax:
        return None
    return Finding(f"pooling: {torch} on torch, {jax} on jax", "both made again from torch's array", jax, torch)


def _ways(event: Event, x: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    told = _options(event)
    if told is None or x.ndim != 2 + len(told[0]) or x.dtype.kind != "f":
        return
    size, steps, padding = told
    total = [2 * p for p in padding]
    own = FORMS[0] if event.op.startswith("max") else FORMS[1]
    forms = (own, *(form for form in FORMS if form != own))
    lows = dict.fromkeys((padding[0], *range(min(max(total), MOST_PADDED) + 1)))
    # The end of a strided pooling may need less than the beginning.
    pads = [([min(low, t) for t in total], [t - min(low, t) for t in total]) for low in lows]
    pads += [([max(p - 1, 0) for p in padding], padding), (padding, [max(p - 1, 0) for p in padding])]
    for (low, high), form in product(pads, forms):
        made = _pooled(x, size, steps, (low, high), form)
        if made is not None:
            yield f"the {form}, padded by {low[0]} before and {high[0]} after", made


Sizes = list[int]


def _pooled(x: np.ndarray, size: Sizes, steps: Sizes, pads: tuple[Sizes, Sizes], form: str) -> np.ndarray | None:
    widths = ((0, 0), (0, 0), *zip(*pads, strict=True))
    fill = -np.inf if form == FORMS[0] else 0.0
    axes = tuple(range(2, x.ndim))
    inside = np.pad(np.ones_like(x), widths)
    whole = np.pad(x, widths, constant_values=fill)
    if any(n < k for n, k in zip(whole.shape[2:], size, strict=True)):
        return None
    seen, counted = (
        np.lib.stride_tricks.sliding_window_view(a, tuple(size), axes)[
            (..., *(slice(None, None, s) for s in steps), *_all(axes))
        ]
        for a in (whole, inside)
    )
    if seen.size > MOST_WINDOWS:
        return None
    last = tuple(range(-len(size), 0))
    if form == FORMS[0]:
        return seen.max(last)
    return seen.mean(last) if form == FORMS[1] else seen.sum(last) / counted.sum(last)


def _all(axes: tuple[int, ...]) -> tuple[slice, ...]:
    return (slice(None),) * len(axes)


def _options(event: Event) -> tuple[Sizes, Sizes, Sizes] | None:
    """Return the windows' size, their steps and the padding, as torch is told them."""
    try:
        told = ast.literal_eval(f"[{event.options}]")
    except (ValueError, SyntaxError):
        return None
    size = told[0] if told and isinstance(told[0], list) else None
    if not size or any(isinstance(v, bool) and v for v in told[3:]):
        return None
    steps = told[1] if len(told) > 1 and told[1] else size
    padding = told[2] if len(told) > 2 and isinstance(told[2], list) else [0] * len(size)
    return size, steps, padding


RULES = (other_pooling,)
