"""Trial of an edit: run the JAX program again with one change, and compare its outputs with those of torch.

    edit: event e := f(events r)        run all that depends on e        do the outputs agree now?

An edit that repairs the outputs is the mistake, written for one of the two programs: whichever of them is wrong, they differ by
that edit, and by nothing else that these inputs show.
"""

# What an edit makes of arrays are small functions whose types strict mode cannot know.
# pyright: standard

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from attention.parity.diagnosis.edits.edit import Change, Edit, Make
from attention.parity.diagnosis.rules.arrays import magnitudes
from attention.parity.tracing.activation_patching import possible_layouts, repaired_share
from attention.parity.tracing.axis_permutations import close
from attention.parity.tracing.fingerprint import fingerprint
from attention.parity.tracing.trace import Event, Recording, Step
from attention.parity.tracing.trace_alignment import Alignment

NEAR = 12
"""Operations after an edit in which an agreement is looked for before everything is run again."""
FAILURES = (ArithmeticError, AssertionError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What NumPy and JAX raise of an operation that was told what it cannot do."""
NARROW = 1e-6
"""How far the means of two arrays that may be equal are apart."""
MOST_TIMES = (1, 2, 3, 4)
"""How often a line may do the same in one run."""
LEAST = 3
"""Magnitudes of an array that is evidence."""
MOST_SIZE = 2_000_000
"""Elements of an array that is made again."""


@dataclass(eq=False)
class Trials:
    """The JAX side of two programs, to be edited.

    Args:
        alignment: the two programs.
        ends: the pair of which the torch array in the place of the other repairs what follows; None where nothing is proven.
    """

    alignment: Alignment
    ends: tuple[int, int] | None
    kept: dict[int, list[int]] = field(default_factory=dict[int, list[int]])

    @property
    def jax(self) -> Recording:
        """The side that is edited."""
        return self.alignment.jax

    @property
    def events(self) -> list[Event]:
        return self.alignment.jax.events

    def step(self, e: int) -> Step | None:
        """Return how an event was made, where that is known."""
        n = self.jax.made_by.get(e)
        return None if n is None else self.jax.steps[n]

    def value(self, e: int) -> np.ndarray:
        return self.events[e].value

    @cached_property
    def alone(self) -> frozenset[int]:
        """The arrays of torch that the JAX side does not make."""
        return frozenset(t for t, there in enumerate(self.alignment.alike[0]) if not there)

    def gained(self, value: np.ndarray, e: int) -> bool:
        """Return whether an array is one that torch makes, and that the JAX side does not make as it is."""
        event = self.events[e]
        if value.dtype.kind == "f" and self._far(value):
            return False
        found = self.alignment.index.equal(fingerprint(value, event.unit, 0.0, event.slack))
        return not self.alone.isdisjoint(found)

    @cached_property
    def sizes(self) -> np.ndarray:
        """The RMS and the mean of the absolute values of each array of torch that the JAX side does not make, in order."""
        arrays = (self.alignment.torch.events[t].value for t in self.alone)
        found = sorted(_sizes(x) for x in arrays if x.dtype.kind == "f" and x.size and np.isfinite(x).all())
        return np.asarray(found).reshape(-1, 2)

    def _far(self, value: np.ndarray) -> bool:
        """Return whether two means, which broadcasting leaves as they are, tell that an array is none of torch's."""
        size, mean = _sizes(value) if value.size else (math.nan, math.nan)
        if not math.isfinite(size):
            return False
        first, last = np.searchsorted(self.sizes[:, 0], (size * (1 - NARROW), size * (1 + NARROW)))
        return not (np.abs(self.sizes[first:last, 1] - mean) <= NARROW * mean).any()

    def makes(self, change: Change) -> bool:
        """Return whether an edit makes at once an array that only torch has had."""
        made = self.run(change, len(change))
        return any(self.gained(made[e], e) for e in change if e in made)

    def makes_soon(self, change: Change) -> bool:
        """Return whether an edit makes an array that only torch has had, at once or a few operations later."""
        made = self.run(change, NEAR)
        outputs = {j for _, j in self.alignment.unequal}
        return any(i in outputs or self.gained(x, i) for i, x in made.items() if x.dtype.kind in "fc" or i in change)

    def repairs(self, change: Change) -> bool:
        """Return whether an edit repairs all outputs, or makes the proven array equal to that of torch."""
        made = self.run(change)
        share = repaired_share(self.alignment, made) if made else 0.0
        return share == 1 or (bool(made) and self._proven(made, exact=not share))

    @cached_property
    def weak(self) -> bool:
        """Whether what is to be repaired is one number or two, which many edits make."""
        ends = [t for t, _ in self.alignment.unequal] + ([self.ends[0]] if self.ends is not None else [])
        values = [self.alignment.torch.events[t].value for t in ends]
        return max((magnitudes(x) for x in values if x.dtype.kind in "fc"), default=0) < LEAST

    def _proven(self, made: Mapping[int, np.ndarray], *, exact: bool) -> bool:
        if self.ends is None or self.ends[1] not in made or magnitudes(made[self.ends[1]]) < LEAST:
            return False
        t, j = self.ends
        limit = 10 * self.alignment.prints[0][t].limit(self.alignment.prints[1][j])
        value = self.alignment.torch.events[t].value
        if exact and value.squeeze().shape == made[j].squeeze().shape:
            # Exchanged axes are a difference, as long as no output says otherwise.
            return close(value.reshape(made[j].shape), made[j], limit)
        return any(close(x, made[j], limit) for x in possible_layouts(value, made[j]))

    def likes(self, e: int) -> list[int]:
        """Return the events of the same operation and line, each time that it runs; the event itself first."""
        if e not in self.kept:
            key = _key(self.events, e)
            same = [i for i in range(len(self.events)) if _key(self.events, i) == key]
            if not self.events[e].line:
                # A number that is written in the program has no line: it stands where it is read.
                same = [i for i in same if i == e or _where(self.jax, i) == _where(self.jax, e)]
            self.kept[e] = [e, *(i for i in same if i != e)]
        return self.kept[e]

    def line(self, e: int) -> tuple[object, ...]:
        """Return what events have in common that are the same operation of the same line."""
        event = self.events[e]
        return event.op, event.place, event.shape, tuple(self.events[i].op for i in event.inputs), event.is_given and e

    def everywhere(self, edit: Edit) -> Iterator[Change]:
        """Yield an edit each time that its line runs: for arrays of this shape, then of any; nothing where it runs once."""
        shape, tried = self.value(edit.at).shape, set[tuple[int, ...]]({(edit.at,)})
        every = sorted(self.likes(edit.at))
        for likes in ([i for i in every if self.value(i).shape == shape], every):
            # A line may do the same several times, such as for queries, keys and values: the same time of each run.
            for times in (n for n in MOST_TIMES if len(likes) % n == 0):
                chosen = tuple(likes[likes.index(edit.at) % times :: times])
                made = [edit.change(e) for e in chosen] if chosen not in tried else [None]
                tried.add(chosen)
                if all(more is not None for more in made):
                    yield {e: how for more in made if more is not None for e, how in more.items()}

    def holds(self, edit: Edit) -> bool:
        """Return whether an edit repairs the outputs, made wherever its line runs, or there alone."""
        try:
            first = edit.change(edit.at)
            if first is None or not (self.makes(first) if edit.near else self.makes_soon(first)):
                return False
            return any(map(self.repairs, self.everywhere(edit))) or self.repairs(first)
        except FAILURES:
            return False

    def run(self, change: Change, most: int | None = None) -> dict[int, np.ndarray]:
        """Return the values of all events that an edit changes; nothing where it cannot be run.

        Args:
            change: the events that are made otherwise.
            most: how many operations are run at most; None for all that depend on them.
        """
        changed: dict[int, np.ndarray] = {}
        queue: list[int] = []
        queued: set[int] = set()

        def later(steps: Sequence[int]) -> None:
            for n in steps:
                if n not in queued:
                    queued.add(n)
                    heapq.heappush(queue, n)

        try:
            with np.errstate(all="ignore"), self.jax.around():
                for e in change:
                    if e in self.jax.made_by:
                        later([self.jax.made_by[e]])
                    else:
                        self._make(e, change[e], changed, self.value(e))
                        later(self.jax.readers.get(e, ()))
                count = 0
                while queue and (most is None or count < most):
                    later(self._step(self.jax.steps[heapq.heappop(queue)], change, changed))
                    count += 1
        except FAILURES:
            return {}
        changed |= {i: changed[e] for i in self.jax.outputs.values() for e in self.events[i].inputs if e in changed}
        return changed

    def _step(self, step: Step, change: Change, changed: dict[int, np.ndarray]) -> list[int]:
        """Run one step, with what is changed, and return the steps that read what it made."""
        own = [change.get(i) for i in step.outputs]
        needed = any(made is None or i in made[0] for i, made in zip(step.outputs, own, strict=True))
        plain = step.run([changed.get(i, self.value(i)) for i in step.inputs]) if needed else [None] * len(own)
        for i, made, x in zip(step.outputs, own, plain, strict=True):
            if made is None:
                assert x is not None  # noqa: S101 - for the type checker
                changed[i] = x
            else:
                self._make(i, made, changed, x)
        return [n for i in step.outputs for n in self.jax.readers.get(i, ())]

    def _make(
        self, e: int, made: tuple[tuple[int, ...], Make], changed: dict[int, np.ndarray], plain: np.ndarray | None
    ) -> None:
        reads, make = made
        x = np.asarray(make(*[plain if r == e else changed.get(r, self.value(r)) for r in reads]))
        # Where an axis is kept with size 1, what reads it takes other sizes too; the outputs tell whether it fits.
        if x.ndim != self.value(e).ndim or x.size > MOST_SIZE:
            raise ValueError(f"event {e} has the shape {self.value(e).shape}, and {x.shape} was made")
        kind = self.value(e).dtype
        changed[e] = x if x.dtype == kind else x.astype(kind)


def _sizes(x: np.ndarray) -> tuple[float, float]:
    flat = x.ravel()
    return math.sqrt(float(flat @ flat) / flat.size), float(np.abs(flat).sum()) / flat.size


def _key(events: list[Event], e: int) -> tuple[object, ...]:
    event = events[e]
    # A number is the same number only with the same value.
    written = float(event.value) if event.is_given and event.value.ndim == 0 and event.value.dtype.kind in "fiu" else None
    return (
        event.op, event.name, event.place, event.backward, event.value.ndim, event.value.dtype.kind, written,
        tuple(events[i].op for i in event.inputs),
    )  # fmt: skip


def _where(recording: Recording, e: int) -> tuple[object, ...]:
    return tuple((recording.events[n].op, recording.events[n].place) for n in recording.consumers[e][:1])
