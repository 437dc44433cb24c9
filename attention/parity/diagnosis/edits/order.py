"""Edits of order: two consecutive operations exchanged.

torch = f(g(x))        jax = g(f(x))        f and g are operations of the JAX side, each with its other operands as they are
"""

# What an edit makes of arrays are small functions whose types strict mode cannot know.
# pyright: standard

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from attention.parity.diagnosis.edits.edit import Change, Changing, Edit
from attention.parity.diagnosis.edits.trial import Trials
from attention.parity.diagnosis.edits.words import op


def exchanged_order(trials: Trials, e: int) -> Iterator[Edit]:
    """Yield an operation and one that it follows, in the other order."""
    step = trials.step(e)
    if step is None:
        return
    shape = trials.value(e).shape
    for k, x in enumerate(step.inputs):
        before = trials.step(x)
        if before is None or trials.value(x).shape != shape or len(before.outputs) != 1 or trials.value(x).dtype.kind != "f":
            continue
        for m, y in enumerate(before.inputs):
            if trials.value(y).shape == shape and trials.value(y).dtype.kind == "f":
                told = (
                    f"{op(trials.events[x])} and {op(trials.events[e])} in another order: on torch {op(trials.events[e])} first"
                )
                yield Edit(told, e, _turned(trials, k, m), evidence=f"{trials.events[x].place} and {trials.events[e].place}")


def _turned(trials: Trials, k: int, m: int) -> Changing:
    def change(e: int) -> Change | None:
        last = trials.step(e)
        first = trials.step(last.inputs[k]) if last is not None and k < len(last.inputs) else None
        if last is None or first is None or m >= len(first.inputs):
            return None
        x = first.inputs[m]
        a, b = first.inputs, last.inputs

        def make(*values: np.ndarray) -> np.ndarray:
            given = dict(zip((*a, *b), values, strict=True))
            made = last.run([given[x] if i == k else given[n] for i, n in enumerate(b)])[0]
            return first.run([made if i == m else given[n] for i, n in enumerate(a)])[0]

        return {e: ((*a, *b), make)}

    return change
