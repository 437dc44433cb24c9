"""Record loops and branches of a jaxpr: events for each iteration, and for the branch taken.

each turn of a scan or a while leaves its own events, a branch those of the one taken
"""

# JAX leaves the types of its equations unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from attention.parity.tracing.source_location import Place
from attention.parity.tracing.trace import Recording

Where = tuple[Place, ...]


class Recorder(Protocol):
    """What evaluates jaxprs and records what they make."""

    recording: Recording
    turns: tuple[int, ...]

    def leaf(self, x: Any, name: str = "") -> int:
        """Record what the program was given: an argument, or a constant."""
        ...

    def read(self, jaxpr: Any, operands: Sequence[int], where: Where) -> list[int]:
        """Record the equations of a jaxpr, open or closed, that is called at a place."""
        ...

    def made(self, op: str, inputs: list[int], where: Where, run: Any, units: list[float], **more: Any) -> list[int]:
        """Evaluate a step, and record what it makes."""
        ...


def _scan(recorder: Recorder, eqn: Any, inputs: list[int], where: Where) -> list[int]:
    p = eqn.params
    # JAX 0.11 groups the operands where 0.10 counts them.
    n, m = map(len, p["ft_in"].unpack()[:2]) if "ft_in" in p else (p["num_consts"], p["num_carry"])
    constants, carry, xs = inputs[:n], inputs[n : n + m], inputs[n + m :]
    rows: list[list[int]] = []
    order, around = range(p["length"]), recorder.turns
    for i in reversed(order) if p["reverse"] else order:
        recorder.turns = (*around, i)
        turn = [recorder.made("scan_slice", [x], where, lambda v, i=i: [v[0][i]], [], options=f"[{i}]")[0] for x in xs]
        results = recorder.read(p["jaxpr"], [*constants, *carry, *turn], where)
        carry = results[:m]
        rows.append(results[m:])
    recorder.turns = around
    if p["reverse"]:
        rows.reverse()
    stacked = [
        recorder.made("scan_stack", list(made), where, lambda v: [np.stack(v)], [])[0] for made in zip(*rows, strict=True)
    ]
    if not rows:
        # Nothing ran, so that only the jaxpr knows the shapes.
        stacked = [recorder.leaf(np.zeros(v.aval.shape, v.aval.dtype)) for v in eqn.outvars[m:]]
    return [*carry, *stacked]


def _while(recorder: Recorder, eqn: Any, inputs: list[int], where: Where) -> list[int]:
    p = eqn.params
    n, m = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
    state, around, turn = inputs[m:], recorder.turns, 0
    while recorder.recording.events[recorder.read(p["cond_jaxpr"], [*inputs[:n], *state], where)[0]].value:
        recorder.turns = (*around, turn)
        state = recorder.read(p["body_jaxpr"], [*inputs[n:m], *state], where)
        recorder.turns, turn = around, turn + 1
    return state


def _cond(recorder: Recorder, eqn: Any, inputs: list[int], where: Where) -> list[int]:
    branches = eqn.params["branches"]
    chosen = int(recorder.recording.events[inputs[0]].value)
    # As XLA does, an index out of range takes the nearest branch.
    return recorder.read(branches[min(max(chosen, 0), len(branches) - 1)], inputs[1:], where)


LOOPS: dict[str, Callable[[Recorder, Any, list[int], Where], list[int]]] = {"scan": _scan, "while": _while, "cond": _cond}
