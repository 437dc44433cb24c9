"""Random masks: every kind, composed with `&`, `|` and `~`.

structural(pick, frame)        masks of a contract: no arrays
given(pick, frame, batch)      masks of a call: arrays too, empty rows and padding on either side among them
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from attention.spec.masks import Causal, Chunked, DenseMask, Lengths, PerHead, PerRow, Placed, Prefix, Segments, Window
from attention.spec.masks.algebra import Mask
from tools.evaluation.random_contracts import Frame, Pick

Batch = tuple[int, ...]
Maker = Callable[[], Mask]
DEPTH = 2
"""Operators above each other."""


def structural(pick: Pick, frame: Frame) -> Mask:
    """Return a mask without arrays for T queries and S keys of a frame."""
    heads = lambda: PerHead(tuple(_composed(pick, _structures(pick, frame), 1) for _ in range(frame.H)))  # noqa: E731
    return _composed(pick, (*_structures(pick, frame) * 2, heads), DEPTH)


def given(pick: Pick, frame: Frame, batch: Batch, heads: int) -> Mask:
    """Return any mask of a call.

    Args:
        pick: chances.
        frame: the sizes of the call.
        batch: its batch axes.
        heads: query heads of the attention that is masked.
    """
    simple = (*_structures(pick, frame), *_arrays(pick, frame, batch, heads) * 3)

    def several(count: int) -> tuple[Mask, ...]:
        return tuple(_composed(pick, simple, 1) for _ in range(count))

    selected: list[Maker] = [lambda: PerHead(several(heads))]
    if batch:
        selected.append(lambda: PerRow(several(batch[-1])))
    return _composed(pick, (*simple, *selected), DEPTH)


def _composed(pick: Pick, simple: Sequence[Maker], depth: int) -> Mask:
    """Return one of the simple masks, or several under operators."""
    if depth == 0 or pick.chance(0.5):
        return pick.one(simple)()
    first = _composed(pick, simple, depth - 1)
    operator = pick.one("&&|~")
    if operator == "~":
        return ~first
    second = _composed(pick, simple, depth - 1)
    return first & second if operator == "&" else first | second


def _structures(pick: Pick, f: Frame) -> tuple[Maker, ...]:
    """Return makers of masks of structure alone."""

    def align() -> Any:
        return pick.one(("start", "end") if f.T != f.S else ("start", "end", None))

    def bound() -> int | None:
        return pick.one((None, 0, 1, 2))

    return (
        lambda: Causal(align=align()),
        lambda: Window(before=bound(), after=bound(), align=align()),
        lambda: Chunked(pick.one((1, 2, 3)), align=align()),
        lambda: Prefix(int(pick.rng.integers(0, f.S + 1))),
    )


def _arrays(pick: Pick, f: Frame, batch: Batch, heads: int) -> tuple[Maker, ...]:
    """Return makers of masks that hold arrays."""

    def integers(low: int, high: int, *axes: int) -> np.ndarray:
        return np.asarray(pick.rng.integers(low, high, (*batch, *axes)))

    def lengths() -> Mask:
        kv, side = integers(0, f.S + 1), pick.one(("right", "left"))
        q = (kv if f.T == f.S and pick.chance(0.5) else integers(0, f.T + 1)) if pick.chance(0.6) else None
        return Lengths(kv, q, padding=side)

    def segments() -> Mask:
        kv = integers(-1, 2, f.S)
        return Segments(kv, None if f.T == f.S and pick.chance(0.5) else integers(-1, 2, f.T))

    def dense() -> Mask:
        shape = pick.one(((f.T, f.S), (heads, f.T, f.S), (*batch, 1, f.T, f.S), (*batch, heads, f.T, f.S), (*batch, 1, 1, f.S)))
        return DenseMask(pick.rng.random(shape) < pick.one((0.2, 0.6, 0.9)))

    def placed() -> Mask:
        return Placed(pick.one((None, Causal(), Window(2, 0))), integers(-1, f.S, f.T), integers(-1, f.S, f.S))

    return (
        lengths,
        lengths,
        segments,
        dense,
        dense,
        placed,
        lambda: Prefix(integers(0, f.S + 1)),
        lambda: Causal(query_positions=integers(-1, f.S + 1, f.T)),
        lambda: Window(pick.one((None, 1)), pick.one((0, 2)), query_positions=integers(-1, f.S + 1, f.T)),
        lambda: Chunked(pick.one((1, 2)), query_positions=integers(-1, f.S + 1, f.T)),
    )
