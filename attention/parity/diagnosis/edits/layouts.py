"""Edits of layouts: equal axes exchanged, an axis reversed or rolled, axes split and merged in another order."""

# What an edit makes of arrays are small functions whose types strict mode cannot know.
# pyright: standard

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from attention.parity.diagnosis.edits.edit import Edit
from attention.parity.diagnosis.edits.edit_builders import made
from attention.parity.diagnosis.edits.trial import Trials
from attention.parity.tracing.trace import Step


def other_layouts(trials: Trials, e: int) -> Iterator[Edit]:
    """Yield an array with axes of one size exchanged, or split and merged in another order."""
    event, step = trials.events[e], trials.step(e)
    shape = event.shape
    for i, j in combinations(range(len(shape)), 2):
        if shape[i] == shape[j] > 1 and len(shape) <= 5:
            told = f"axes {i} and {j}, both of {shape[i]}, are exchanged on one side"
            yield Edit(told, e, lambda e, i=i, j=j: {e: ((e,), lambda x: x.swapaxes(i, j))}, jax=f"jnp.swapaxes(x, {i}, {j})")
    for axis, n in enumerate(shape):
        if n > 2 and event.is_float:
            yield Edit(
                f"reversed along axis {axis} of {shape} on one side", e, lambda e, a=axis: {e: ((e,), lambda x: np.flip(x, a))}
            )
            for by in (1, -1):
                told = f"shifted by one along axis {axis} of {shape} on one side"
                yield Edit(told, e, lambda e, a=axis, by=by: {e: ((e,), lambda x: np.roll(x, by, a))})
    if event.op == "reshape" and step is not None:
        yield from _reshaped(trials, e, step)


def _reshaped(trials: Trials, e: int, step: Step) -> Iterator[Edit]:
    before, after = trials.value(step.inputs[0]).shape, trials.events[e].shape
    for i in range(len(after) - 1):
        # Two axes that were one: the other may be the first of them.
        a, b = after[i], after[i + 1]
        told = f"an axis is split in another order: as ({b}, {a}) and then exchanged on torch, as ({a}, {b}) on jax"
        yield Edit(told, e, lambda e, i=i: {e: ((e,), lambda x: _split(x, i))})
    for i in range(len(before) - 1):
        told = f"two axes of {before[i]} and {before[i + 1]} are merged in another order"
        yield Edit(told, e, made(trials, lambda x, i=i: x.swapaxes(i, i + 1).reshape(after)))


def _split(x: np.ndarray, i: int) -> np.ndarray:
    shape = list(x.shape)
    shape[i], shape[i + 1] = shape[i + 1], shape[i]
    return x.reshape(shape).swapaxes(i, i + 1)
