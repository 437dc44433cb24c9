"""Compare one part of two models that have run.

compare(torch part, jax part, what the torch part received)        everything else as each of them received it
"""

# Calls come from users, with types that strict mode cannot know.
# pyright: standard

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from attention.parity.adapters.program import Call
from attention.parity.blocks.instrumented_model import InstrumentedModel, Run
from attention.parity.blocks.received import Shared, shared
from attention.parity.blocks.units import Unit
from attention.parity.compare.compare import compare
from attention.parity.results.report import Report

NEAR = 1e-3
"""The relative difference of two parts' inputs above which it is reported."""
OF_ANY = ("torch is ", "jax is ", "torch (", "jax (", "parameters: ", "the oracle is ")
"""The beginnings of the notes that every comparison of two programs has; they are not about one part."""


@dataclass(frozen=True, eq=False)
class Pair:
    """Two models that have run.

    Attributes:
        sides: the first and the second.
        labels: what the report calls them.
        call: the inputs.
        runs: what they made, and what their parts received.
        gradients: whether those of each part are compared.
    """

    sides: tuple[InstrumentedModel, InstrumentedModel]
    labels: tuple[str, str]
    call: Call
    runs: tuple[Run, Run]
    gradients: bool

    @property
    def dtype(self) -> str:
        """The dtypes of the outputs."""
        return "/".join(dict.fromkeys(self._output_dtype(run) for run in self.runs))

    def compared(self, units: Sequence[Unit]) -> Report:
        """Return the report of one part beside the first of its counterparts that fits, or a note why none does."""
        reports: list[Report] = []
        for unit in units:
            reports.append(self._compared(unit))
            failures = [row.failure for row in reports[-1].rows if row.failure]
            # A module within would fit no better where it is float64 that is missing.
            if reports[-1].rows and all(failure.startswith("there is no budget") for failure in failures):
                return reports[-1]
        return next((report for report in reports if report.rows), reports[0])

    def _compared(self, unit: Unit) -> Report:
        paths = unit.first, unit.second
        calls = [run.received[path] for path, run in zip(paths, self.runs, strict=True) if path in run.received]
        if len(calls) < 2:
            return Report((), tuple(self._missing(paths)))
        same = shared(*calls)
        if not same:
            return Report((), (f"{unit.first} was not compared by itself: its parts received no array of one shape",))
        first, second = (
            side.part(path, call, [each.first if of == 0 else each.second for each in same])
            for of, (side, path, call) in enumerate(zip(self.sides, paths, calls, strict=True))
        )
        dtypes = tuple(_dtype(call) or self._output_dtype(run) for call, run in zip(calls, self.runs, strict=True))
        given = tuple(calls[0].leaves[each.first] for each in same)
        options = {"params": unit.params, "gradients": self.gradients, "name": unit.first}
        report = compare(first, second, given, dtypes=((dtypes[0], dtypes[1]),), **options)
        return Report(report.rows, (*self._received(unit, same), *_kept(unit.first, report.notes)))

    def _missing(self, paths: tuple[str, str]) -> Iterator[str]:
        for path, label, run in zip(paths, self.labels, self.runs, strict=True):
            if path not in run.received:
                hidden = " where its values can be seen" if path in run.hidden else ""
                yield f"{paths[0]} was not compared by itself: {label} did not call {path}{hidden}"

    def _received(self, unit: Unit, same: Sequence[Shared]) -> Iterator[str]:
        for path, run in zip((unit.first, unit.second), self.runs, strict=True):
            if run.calls[path] > 1:
                yield f"{path} is called {run.calls[path]} times: its first call is compared"
        for each in same:
            if each.apart > NEAR:
                far = f"{each.apart:.2g} (relative RMS) away from {each.second} of {self.labels[1]}"
                yield f"{unit.first} received {each.first} {far}; both were given that of {self.labels[0]}"

    def _output_dtype(self, run: Run) -> str:
        return next((str(x.dtype) for x in run.outputs.values() if x.dtype.kind not in "iub"), "float32")


def _dtype(call: Call) -> str | None:
    """Return the dtype of the first float array of a call."""
    return next((str(x.dtype) for x in call.leaves.values() if x.dtype.kind not in "iub"), None)


def _kept(path: str, notes: Sequence[str]) -> Iterator[str]:
    """Yield the notes about one part."""
    for note in notes:
        if not note.startswith(OF_ANY):
            yield f"{path}: {note}" if note.startswith("budget: ") else note


def with_one_budget(notes: Sequence[str]) -> tuple[str, ...]:
    """Return the notes with one of the parts' budgets, which are made alike."""
    budgets = [note for note in notes if ": budget: " in note]
    return tuple(note for note in notes if note not in budgets[1:])
