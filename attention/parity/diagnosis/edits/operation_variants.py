"""Edits that replace an operation by a variant: other parameters, another comparison or reduction, a sign, a start index.

padding, dilation, stride        axes        comparison        start, step, order        exponent        direction
"""

# What an edit makes of arrays are small functions whose types strict mode cannot know.
# pyright: standard

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np

from attention.parity.diagnosis.edits import convolutions
from attention.parity.diagnosis.edits.edit import Change, Changing, Edit, Make
from attention.parity.diagnosis.edits.edit_builders import made, with_setting
from attention.parity.diagnosis.edits.trial import Trials
from attention.parity.diagnosis.edits.words import called

COMPARED = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}


COMPARE: dict[str, Make] = {
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal,
}  # fmt: skip


TWINS: dict[str, tuple[tuple[str, Make], ...]] = {
    "max": (("the minimum", np.minimum), ("the sum", np.add)),
    "min": (("the maximum", np.maximum), ("the sum", np.add)),
    "add": (("the difference", np.subtract), ("the product", np.multiply), ("the maximum", np.maximum)),
    "sub": (("the sum", np.add), ("the product", np.multiply)),
    "mul": (("the sum", np.add), ("the quotient", np.divide)),
    "div": (("the product", np.multiply),),
    "and": (("or", np.logical_or),),
    "or": (("and", np.logical_and),),
}
"""Operations of two arrays that are taken for one another."""


BINARY_NAMES = {"max": "the maximum", "min": "the minimum", "add": "the sum", "sub": "the difference", "mul": "the product"}


REDUCED: dict[str, Callable[..., np.ndarray]] = {
    "reduce_sum": np.sum, "reduce_max": np.max, "reduce_min": np.min, "reduce_prod": np.prod, "mean": np.mean,
}  # fmt: skip


NAMES = {"reduce_sum": "sum", "reduce_max": "maximum", "reduce_min": "minimum", "reduce_prod": "product", "mean": "mean"}


MOST_STEPS = 3


def binary_variants(trials: Trials, e: int) -> Iterator[Edit]:
    """Yield a comparison or binary operation replaced by one it is often confused with."""
    op = trials.events[e].op
    for other, make in COMPARE.items() if op in COMPARE else ():
        made_otherwise = make(*(trials.value(i) for i in trials.events[e].inputs[:2]))
        # A comparison that tells nothing apart is a mask that is missing.
        if other != op and made_otherwise.any() and not made_otherwise.all():
            told = f"compared by {COMPARED[other]} on torch, by {COMPARED[op]} on jax"
            yield Edit(told, e, _pair(trials, make), jax=f"{COMPARED[other]}")
    for name, make in TWINS.get(op, ()):
        a, b = (called(trials, i) for i in trials.events[e].inputs[:2])
        yield Edit(f"{name} on torch, {BINARY_NAMES.get(op, op)} on jax", e, _pair(trials, make), evidence=f"of {a} and {b}")


def _pair(trials: Trials, make: Make) -> Changing:
    return lambda e: {e: (trials.events[e].inputs, make)} if len(trials.events[e].inputs) == 2 else None


def flipped_signs(trials: Trials, e: int) -> Iterator[Edit]:
    """Yield distances and other integers of both signs, negated."""
    value = trials.value(e)
    if value.dtype.kind == "i" and value.size > 2 and value.min() < 0 < value.max():
        yield Edit(f"the other sign: {called(trials, e)}", e, lambda e: {e: ((e,), np.negative)}, jax="-x")


def shifted_starts(trials: Trials, e: int) -> Iterator[Edit]:
    """Yield positions, indices and masks with another start or in reverse order."""
    event = trials.events[e]
    kind = event.value.dtype.kind
    if kind == "b" and event.value.any() and not event.value.all():
        for all_of in (True, False):
            told = f"a mask is missing on torch, or too much on jax: {called(trials, e)} is {all_of} everywhere on torch"
            yield Edit(told, e, lambda e, all_of=all_of: {e: ((e,), lambda x: np.full_like(x, all_of))}, jax="leave it out")
        yield Edit("a mask is inverted: True on torch is False on jax", e, lambda e: {e: ((e,), np.logical_not)}, jax="~mask")
        for axis in range(event.value.ndim):
            for by in (1, -1):
                told = f"a mask is off by one along axis {axis} of {event.shape}"
                yield Edit(told, e, lambda e, axis=axis, by=by: {e: ((e,), lambda x: _moved(x, by, axis))})
    evenly = kind == "f" and not event.role and event.value.size > 2 and bool((np.mod(event.value, 0.5) == 0).all())
    if (kind in "iu" and event.op != "convert_element_type") or evenly:
        for by in (1, -1, 0.5, -0.5) if kind == "f" else (1, -1):
            told = f"positions or indices are off by {abs(by):g}: {'greater' if by > 0 else 'less'} by it on torch"
            yield Edit(told, e, lambda e, by=by: {e: ((e,), lambda x: x + by)}, jax=f"x + {by:g}")
        for axis in range(event.value.ndim):
            told = "positions or indices run in the other order"
            yield Edit(told, e, lambda e, axis=axis: {e: ((e,), lambda x: np.flip(x, axis))})


def _moved(x: np.ndarray, by: int, axis: int) -> np.ndarray:
    """Return a mask moved along an axis, its edge repeated."""
    at = np.clip(np.arange(x.shape[axis]) + by, 0, x.shape[axis] - 1)
    return np.take(x, at, axis)


def other_reductions(trials: Trials, e: int) -> Iterator[Edit]:
    """Yield a reduction as another one, or over another axis that has as many elements."""
    event, step = trials.events[e], trials.step(e)
    if event.op not in REDUCED or step is None or len(step.inputs) != 1 or "axes" not in step.params:
        return
    axes, shape = tuple(step.params["axes"]), trials.value(step.inputs[0]).shape
    for name, reduce in REDUCED.items():
        if name != event.op:
            told = f"the {NAMES[name]} on torch, the {NAMES[event.op]} on jax, over an axis of {[shape[a] for a in axes]}"
            yield Edit(told, e, made(trials, lambda x, f=reduce: f(x, axis=axes)))
    for other in combinations(range(len(shape)), len(axes)):
        if other != axes and _left(shape, other) == _left(shape, axes):
            told = f"the {NAMES[event.op]} over axis {_axes(other)} on torch, over axis {_axes(axes)} on jax, of {shape}"
            yield Edit(told, e, made(trials, lambda x, f=REDUCED[event.op], a=other: f(x, axis=a)))


def keepdims_reductions(trials: Trials, e: int) -> Iterator[Edit]:
    """Yield a reduction that keeps its axes with size 1, over other axes."""
    event, step = trials.events[e], trials.step(e)
    before = trials.step(event.inputs[0]) if event.inputs else None
    if step is None or before is None or event.op not in ("broadcast_in_dim", "reshape") or "axes" not in before.params:
        return
    op, x, axes = trials.events[event.inputs[0]].op, before.inputs[0], tuple(before.params["axes"])
    shape = trials.value(x).shape
    if op not in REDUCED or len(shape) != len(event.shape) or any(event.shape[a] != 1 for a in axes):
        return
    f = REDUCED[op]
    for count in range(1, len(shape) + 1):
        for other in combinations(range(len(shape)), count):
            if other != axes and all(shape[a] > 1 for a in other):
                told = f"the {NAMES[op]} over axis {_axes(other)} on torch, over axis {_axes(axes)} on jax, of {shape}"
                yield Edit(told, e, _kept(trials, f, other))


def _kept(trials: Trials, f: Callable[..., np.ndarray], axes: tuple[int, ...]) -> Changing:
    def change(i: int) -> Change | None:
        before = trials.step(trials.events[i].inputs[0]) if trials.events[i].inputs else None
        return None if before is None else {i: (before.inputs, lambda x: f(x, axis=axes, keepdims=True))}

    return change


def _axes(axes: tuple[int, ...]) -> str:
    return " and ".join(map(str, axes))


def _left(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for i, n in enumerate(shape) if i not in axes)


def other_parameters(trials: Trials, e: int) -> Iterator[Edit]:
    """Yield an operation with another value of one of its parameters."""
    step = trials.step(e)
    if step is None or step.with_params is None:
        return
    p, shape = step.params, trials.value(step.inputs[0]).shape if step.inputs else ()
    op = trials.events[e].op
    if op == "integer_pow" or op.startswith("cum"):
        yield from _accumulated(trials, e, p, shape)
    if op == "slice":
        yield from _slices(trials, e, p, shape)
    if op in ("argmax", "argmin"):
        other = {"argmax": np.argmin, "argmin": np.argmax}[op]
        axis = p["axes"][0]
        yield Edit(
            f"{'argmin' if op == 'argmax' else 'argmax'} on torch, {op} on jax", e, made(trials, lambda x: other(x, axis))
        )
    yield from convolutions.other_parameters(trials, e, p)


def _accumulated(trials: Trials, e: int, p: Mapping[str, Any], shape: tuple[int, ...]) -> Iterator[Edit]:
    """Yield another power, and a cumulative sum from the other end, along another axis or without the element itself."""
    op = trials.events[e].op
    if op == "integer_pow":
        for y in (1, 2, 3, -1, 4):
            if y != p["y"]:
                yield with_setting(trials, e, {"y": y}, f"the power {y} on torch, {p['y']} on jax")
    if op.startswith("cum"):
        yield with_setting(trials, e, {"reverse": not p["reverse"]}, "a cumulative sum runs from the other end")
        for axis in (i for i, n in enumerate(shape) if i != p["axis"] and n == shape[p["axis"]]):
            yield with_setting(trials, e, {"axis": axis}, f"accumulated along axis {axis} on torch, along {p['axis']} on jax")
        zero = 0.0 if op == "cumsum" else 1.0
        yield Edit("a cumulative sum is taken without the element itself on torch, with it on jax", e, _exclusive(p, zero))


def _exclusive(p: Mapping[str, Any], zero: float) -> Changing:
    axis, reverse = p["axis"], p["reverse"]

    def make(x: np.ndarray) -> np.ndarray:
        x = np.flip(x, axis) if reverse else x
        made = np.roll(x, 1, axis)
        made[(slice(None),) * axis + (0,)] = zero
        return np.flip(made, axis) if reverse else made

    return lambda e: {e: ((e,), make)}


def _slices(trials: Trials, e: int, p: Mapping[str, Any], shape: tuple[int, ...]) -> Iterator[Edit]:
    """Yield a part that begins elsewhere, or is every other element instead of one half."""
    start, stop, steps = p["start_indices"], p["limit_indices"], p["strides"] or (1,) * len(shape)
    for axis, n in enumerate(shape):
        count = stop[axis] - start[axis]
        if count == n:
            continue
        width = len(range(start[axis], stop[axis], steps[axis]))
        places = {start[axis] + by for by in (*range(-MOST_STEPS, MOST_STEPS + 1), width, -width)} | {0, n - count}
        for first in sorted(places, key=lambda first: abs(first - start[axis])):
            if first != start[axis] and first >= 0 and first + count <= n:
                told = f"elements from {first} on torch, from {start[axis]} on jax, along an axis of {n}"
                yield with_setting(trials, e, _cut(p, axis, (first, first + count, steps[axis])), told)
        ways = [(0, n, n // width), (n // width - 1, n, n // width), (0, width, 1), (n - width, n, 1)]
        for first, last, step in ways if n % width == 0 else ():
            if step != steps[axis]:
                told = f"elements {first}, {first + step}, ... on torch, {start[axis]}, {start[axis] + steps[axis]}, ... on jax"
                yield with_setting(trials, e, _cut(p, axis, (first, last, step)), told)


def _cut(p: Mapping[str, Any], axis: int, part: tuple[int, int, int]) -> dict[str, Any]:
    start, stop = list(p["start_indices"]), list(p["limit_indices"])
    steps: list[int] = list(p["strides"] or (1,) * len(start))
    start[axis], stop[axis], steps[axis] = part
    return {"start_indices": tuple(start), "limit_indices": tuple(stop), "strides": tuple(steps)}
