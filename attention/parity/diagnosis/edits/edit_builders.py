"""Helpers that build an edit: other parameters, a transformed kernel, or another function of the operands."""

# What an edit makes of arrays are small functions whose types strict mode cannot know.
# pyright: standard

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attention.parity.diagnosis.edits.edit import Change, Changing, Edit, Make
from attention.parity.diagnosis.edits.trial import Trials


def with_setting(trials: Trials, e: int, params: Mapping[str, Any], told: str) -> Edit:
    """Return an operation with settings of its own as others."""

    def change(i: int) -> Change | None:
        step = trials.step(i)
        if step is None or step.with_params is None:
            return None
        run, at = step.with_params(params), step.outputs.index(i)
        return {i: (step.inputs, lambda *x: run(x)[at])}

    return Edit(told, e, change)


def made(trials: Trials, make: Make) -> Changing:
    """Return an array as another function of its operands."""
    return lambda e: {e: (trials.events[e].inputs, make)}


def with_kernel(trials: Trials, e: int, make: Make, told: str) -> Edit:
    """Return an operation with its second operand as a function of itself."""

    def change(i: int) -> Change | None:
        step = trials.step(i)
        return None if step is None else {i: (step.inputs, lambda x, w, *more: step.run([x, make(w), *more])[0])}

    return Edit(told, e, change)
