"""Events of a trace: every array of a program in order, with its source line and the arrays it was computed from.

    event 12    mul    float64 (2, 7, 12)    model.py:31    from events 10 and 4

The events of one program are a graph without cycles: the inputs of an event stand before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from attention.parity.tracing.source_location import NOWHERE, Place

# Operations whose result is made of the elements of one operand, each in as many places as it likes.
MOVES = frozenset(
    """
    _reshape_alias _to_copy _unsafe_view alias broadcast_in_dim broadcast_to clone contiguous convert_element_type copy
    detach expand expand_dims lift_fresh optimization_barrier name permute pvary repeat repeat_interleave reshape rev roll
    scan_slice scan_stack squeeze stop_gradient t tile transpose unsqueeze view
    """.split()  # noqa: SIM905 a table of names is read at a glance, a column of thirty quoted lines is not
)

# What a loop made one after another, stacked: no program made it.
LOOP = "loop"
# What an array depends on, the least telling first.
ROLES = ("", "param", "input", "cotangent")


@dataclass(eq=False)
class Event:
    """One array that a program made or was given.

    Attributes:
        side: "torch" or "jax".
        index: its place in the recording.
        op: the operation's name, such as "mul"; "leaf" for what the program was given, "output" for what it returned.
        value: what was made: floats as float64, the rest as it is.
        inputs: the indices of the events it was made from.
        places: the user's stack, innermost first.
        dtype: the name of the dtype that the program gave the array.
        unit: the unit roundoff of the coarsest dtype that took part in it.
        slack: how far, relative to the largest element, a kernel that took part in it is from its own definition.
        role: of a leaf: "input", "param" or "cotangent"; "" for a constant. Of others: the last of `ROLES` among what it was
            made of.
        name: of a leaf or an output; what a fused operation is called of which this is a part.
        options: the parameters of the operation, beside its operands, for reading.
        backward: whether it belongs to the backward pass.
        turns: which turns of the scans around it made it, from 0, outermost first: of scanned layers, the layer.
        alternatives: what the operation would have made with another option, by the text of its own and of the other.
    """

    side: str
    index: int
    op: str
    value: np.ndarray
    inputs: tuple[int, ...] = ()
    places: tuple[Place, ...] = ()
    dtype: str = "float64"
    unit: float = 2.0**-53
    slack: float = 0.0
    role: str = ""
    name: str = ""
    options: str = ""
    backward: bool = False
    turns: tuple[int, ...] = ()
    alternatives: dict[tuple[str, str], np.ndarray] = field(default_factory=dict[tuple[str, str], np.ndarray])

    @property
    def place(self) -> Place:
        """The innermost line of the user."""
        return self.places[0] if self.places else NOWHERE

    @property
    def file(self) -> str:
        return self.place.file

    @property
    def line(self) -> int:
        return self.place.line

    @property
    def text(self) -> str:
        return self.place.text

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def is_given(self) -> bool:
        """Whether the program was given it, rather than made it."""
        return self.op == "leaf"

    @property
    def is_move(self) -> bool:
        """Whether it only lays out anew what it was made from."""
        return self.op in MOVES or self.op == LOOP

    @property
    def is_float(self) -> bool:
        """Whether it holds numbers that are computed with, real or complex."""
        return self.value.dtype.kind in "fc"

    @property
    def is_operation(self) -> bool:
        """Whether it was computed: neither given, nor returned, nor only laid out anew."""
        return not self.is_given and self.op != "output" and not self.is_move

    @property
    def label(self) -> str:
        """The operation and its shape: "softmax: exp (2, 3, 7, 7)"."""
        if self.op in {"leaf", "output"}:
            return f"{self.op} {self.name or 'constant'} {self.shape}"
        turn = f" in turn {', '.join(map(str, self.turns))} of a scan" if self.turns else ""
        return f"{self.name + ': ' if self.name else ''}{self.op} {self.shape}{turn}"


def is_number(event: Event) -> bool:
    """Return whether an event is one number that depends on neither inputs nor parameters."""
    return not event.role and event.value.size == 1


@dataclass(frozen=True)
class Step:
    """How events were made, so that they can be made again from other values.

    Attributes:
        inputs: indices of events.
        outputs: indices of events, all of one operation.
        run: from the values of the inputs to those of the outputs.
        params: the parameters of the operation, beside its operands.
        with_params: from other such parameters to the `run` with these; None where the recorder does not know.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    run: Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    with_params: Callable[[Mapping[str, Any]], Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]] | None = None


@dataclass(eq=False)
class Recording:
    """All events of one run of one program.

    Attributes:
        side: "torch" or "jax".
        events: in order.
        outputs: event by the path of the output, or of "d " and the name of a gradient.
        steps: how each event was made, in order, where the recorder knows (the JAX side).
        stops: the arrays whose gradient the program stops, where it calls for that.
        around: what a step must be run inside of.
    """

    side: str
    events: list[Event] = field(default_factory=list[Event])
    outputs: dict[str, int] = field(default_factory=dict[str, int])
    steps: list[Step] = field(default_factory=list[Step])
    stops: list[Event] = field(default_factory=list[Event])
    around: Callable[[], AbstractContextManager[Any]] = nullcontext

    def add(self, op: str, value: Any, inputs: Sequence[int] = (), unit: float = 2.0**-53, **more: Any) -> int:
        """Append an event, as coarse as the coarsest of its inputs, and return its index."""
        made_of = [self.events[i] for i in inputs]
        more["unit"] = max([unit, *(event.unit for event in made_of)])
        more["slack"] = max([more.get("slack", 0.0), *(event.slack for event in made_of)])
        more.setdefault("role", max((event.role for event in made_of), key=ROLES.index, default=""))
        event = Event(self.side, len(self.events), op, value, tuple(inputs), **more)
        self.events.append(event)
        return event.index

    def close(self, outputs: dict[str, int]) -> None:
        """Append an event for each output, which stands for the caller who reads it."""
        for name, i in outputs.items():
            made = self.events[i]
            places, dtype, backward = made.places, made.dtype, made.backward
            self.outputs[name] = self.add("output", made.value, (i,), places=places, dtype=dtype, backward=backward, name=name)

    @cached_property
    def readers(self) -> dict[int, list[int]]:
        """The steps that read each event, in order; of a recording that is complete."""
        found: dict[int, list[int]] = {}
        for n, step in enumerate(self.steps):
            for i in dict.fromkeys(step.inputs):
                found.setdefault(i, []).append(n)
        return found

    @cached_property
    def made_by(self) -> dict[int, int]:
        """The step that made each event; of a recording that is complete."""
        return {i: n for n, step in enumerate(self.steps) for i in step.outputs}

    @cached_property
    def lines(self) -> list[int]:
        """A number for each event's line, the same for the same line; of a recording that is complete."""
        numbers: dict[Place, int] = {}
        return [numbers.setdefault(event.place, len(numbers)) for event in self.events]

    @cached_property
    def runs(self) -> list[int]:
        """How often the line and operation of each event run, making an array of its shape; of a recording that is complete."""
        keys = [(event.place, event.op, event.shape) for event in self.events]
        counts = Counter(keys)
        return [counts[key] for key in keys]

    @cached_property
    def rounds(self) -> list[int]:
        """How many turns the innermost scan takes in which each event was made, 0 outside of scans; of a complete recording."""
        turns: dict[tuple[object, ...], set[int]] = {}
        keys = [(event.place, event.op, event.shape) for event in self.events]
        for event, key in zip(self.events, keys, strict=True):
            turns.setdefault(key, set()).update(event.turns[-1:])
        return [len(turns[key]) if event.turns else 0 for event, key in zip(self.events, keys, strict=True)]

    @cached_property
    def consumers(self) -> dict[int, list[int]]:
        """The events that were made from each event; of a recording that is complete."""
        found: dict[int, list[int]] = {event.index: [] for event in self.events}
        for event in self.events:
            for i in dict.fromkeys(event.inputs if event.op != LOOP else ()):
                found[i].append(event.index)
        return found


def members(recording: Recording, i: int) -> tuple[int, ...]:
    """Return the events that an event stands for: the turns of a loop, or itself."""
    event = recording.events[i]
    return event.inputs if event.op == LOOP else (i,)


def cotangent(output: np.ndarray) -> np.ndarray:
    """Return the weights that gradients of an output are taken with: the same for two layouts of the same output."""
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(output), 1 + np.sin(3 * output), 0.0).astype(np.float64)
