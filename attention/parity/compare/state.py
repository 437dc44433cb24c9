"""State: the buffers that a call writes are compared as outputs of both programs, under one name."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from attention.parity.adapters import Program
from attention.parity.param_mapping.state_pairing import State

UPDATED = "{} after the call"
"""What a report calls the state that a call wrote."""


def watched(state: State) -> tuple[Program, Program]:
    """Return both programs with every state that corresponds among their outputs, called alike."""
    labels = {pair: UPDATED.format(pair[1]) for pair in state.pairs}
    first, second = (
        program.watching({pair[side]: label for pair, label in labels.items()}) for side, program in enumerate(state.programs)
    )
    return first, second


def unchanged(program: Program, outputs: Mapping[str, np.ndarray]) -> set[str]:
    """Return the labels of the state that a call has not written."""
    before = program.state
    return {
        label
        for name, label in program.watched.items()
        if label not in outputs or np.array_equal(before[name].astype(outputs[label].dtype), outputs[label], equal_nan=True)
    }
