"""Variations of an input on which ports often differ: padding only, length 1, repeated tokens, largest values.

variations(call, draws, limits) -> ("mask: all False", call), ("length 1", call), ("ids: one token repeated", call), ...
"""

# Inputs come from users, with types that strict mode cannot know.
# pyright: standard

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from attention.parity.adapters.program import Call
from attention.parity.numerics.array_kinds import is_float

Array = np.ndarray
Variation = tuple[str, Call]


def variations(call: Call, draws: np.random.Generator, limits: Mapping[str, int]) -> Iterator[Variation]:
    """Yield variations of a call, each with its name; the shapes are those of the call, except for "length 1".

    Args:
        call: an ordinary one.
        draws: the generator of what is drawn.
        limits: by path, below what integers stay; without one, they stay between those that the call holds.
    """
    yield from shortened(call)
    for path, x in call.leaves.items():
        for name, other in _varied(x, draws, limits.get(path)):
            if not np.array_equal(other, x):
                yield f"{path}: {name}", replaced(call, {path: other})


def replaced(call: Call, values: Mapping[str, Array]) -> Call:
    """Return a call with other arrays at some paths."""
    return call.map(values.get)


def shortened(call: Call) -> Iterator[Variation]:
    """Yield the call of length 1: every axis of the length of the sequence, which is axis 1 of the first array, is cut."""
    arrays = call.leaves
    length = next((x.shape[1] for x in arrays.values() if x.ndim > 1), 0)
    if length < 2:
        return

    def cut(x: Array) -> Array:
        axes = [axis for axis in range(1, x.ndim) if x.shape[axis] == length]
        # The last axis of floats of three axes and more holds features, however long it is.
        axes = [axis for axis in axes if not (is_float(x) and x.ndim > 2 and axis == x.ndim - 1)]
        return x[tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(x.ndim))]

    yield "length 1", replaced(call, {path: cut(x) for path, x in arrays.items()})


def _varied(x: Array, draws: np.random.Generator, limit: int | None) -> Iterator[tuple[str, Array]]:
    if not x.size:
        return
    if x.dtype == bool or (x.dtype.kind in "iu" and limit is None and set(np.unique(x).tolist()) <= {0, 1}):
        yield from _masks(x, draws)
    elif x.dtype.kind in "iu":
        yield from _integers(x, draws, limit)
    elif is_float(x):
        yield from _floats(x, draws)


def _masks(x: Array, draws: np.random.Generator) -> Iterator[tuple[str, Array]]:
    if not x.ndim:
        yield "inverted", (x == 0).astype(x.dtype)
        return
    places = np.broadcast_to(np.arange(x.shape[-1]), x.shape)
    half = x.shape[-1] // 2
    shapes: dict[str, Callable[[], Array]] = {
        "all False": lambda: np.zeros(x.shape, bool),
        "all True": lambda: np.ones(x.shape, bool),
        "first alone": lambda: places == 0,
        "last alone": lambda: places == places.max(),
        "padding on the left": lambda: places >= half,
        "padding on the right": lambda: places < max(half, 1),
        "drawn": lambda: draws.random(x.shape) < 0.5,
    }
    for name, make in shapes.items():
        yield name, make().astype(x.dtype)
    if x.ndim > 1:
        first = np.array(x)
        first[0] = 0
        yield "first row all False", first


def _integers(x: Array, draws: np.random.Generator, limit: int | None) -> Iterator[tuple[str, Array]]:
    low, high = (0, limit - 1) if limit is not None else (int(x.min()), int(x.max()))
    yield "smallest value alone", np.full_like(x, low)
    yield "largest value alone", np.full_like(x, high)
    yield "one value repeated", np.full_like(x, x.reshape(-1)[int(draws.integers(x.size))])
    yield "drawn", draws.integers(low, high + 1, x.shape).astype(x.dtype)
    if not x.ndim:
        return
    pattern = np.array([low, high])[np.arange(x.shape[-1]) % 2]
    yield "smallest and largest in turn", np.broadcast_to(pattern, x.shape).astype(x.dtype)
    # Positions are what ascends along the last axis: they are moved as far as they may go.
    if x.shape[-1] > 1 and (np.diff(x.astype(np.int64), axis=-1) == 1).all() and high > int(x.max()):
        yield "shifted to the largest", (x + (high - int(x.max()))).astype(x.dtype)
    yield "reversed", x[..., ::-1]


def _floats(x: Array, draws: np.random.Generator) -> Iterator[tuple[str, Array]]:
    yield "zeros", np.zeros_like(x)
    yield "all equal", np.full_like(x, x.reshape(-1)[0])
    for factor in (1e-3, 30.0):
        yield f"times {factor:g}", (x * factor).astype(x.dtype)
    yield "negated", (-x).astype(x.dtype)
    outlier = np.array(x)
    outlier.reshape(-1)[int(draws.integers(x.size))] = 1e3
    yield "one element of 1000", outlier
    if x.ndim > 1:
        yield "one row repeated", np.broadcast_to(x[..., :1, :], x.shape).astype(x.dtype)
    yield "drawn", (draws.standard_normal(x.shape) * (np.std(x.astype(np.float64)) or 1.0)).astype(x.dtype)
