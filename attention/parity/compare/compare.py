"""Compare: any two programs, their outputs and gradients, within a budget of rounding errors.

    report = compare(torch_side, jax_side, inputs)
    report.ok  <=>  every output and gradient of both sides agrees with the float64 run of one of them

The oracle is one of the sides, in float64, so a mistake of either shows where they part: in the row of the other. What a user's
side does wrong by itself, such as an exception or a NaN, is a failure of its row and never an exception of `compare`.
"""

# A side is whatever its user brought, of types that strict mode cannot know.
# pyright: standard

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from attention.parity.adapters import Call, Made, Program, program
from attention.parity.adapters.detect_numpy import settled
from attention.parity.adapters.inputs import LOAD, Dtypes, call_of, cotangents, pairs_of, rounded, rounded_call
from attention.parity.compare import settings_audit
from attention.parity.compare.oracle import WAYS, Question, oracle
from attention.parity.compare.verdicts import blind, judged
from attention.parity.numerics.jaxpr_interpreter import is_float
from attention.parity.param_mapping import result_pairing
from attention.parity.param_mapping.parameter_values import Learned, learned
from attention.parity.results import provenance
from attention.parity.results.report import OWN, Report, Row
from attention.spec.errors import ParamError, ShapeError, SideFailed
from attention.spec.options import ITERABLE, MAPPING, SEED, SWITCH, TEXT, checked, one_of

WAY = one_of(*WAYS, wanted=f"one of {', '.join(WAYS)}")


@checked(load=LOAD, dtypes=ITERABLE, gradients=SWITCH, cotangents=MAPPING | ", or None", seed=SEED, name=TEXT, budget=WAY)
def compare(
    torch_side: Any,
    jax_side: Any,
    inputs: Any,
    *,
    params: Any = None,
    load: str | None = None,
    dtypes: Iterable[str | tuple[str, str]] = ("float32",),
    gradients: bool = True,
    cotangents: Mapping[str, Any] | None = None,
    seed: int = 0,
    name: str = "",
    budget: str = "auto",
) -> Report:
    """Return the report of two programs on the same inputs: outputs, and gradients of inputs and parameters.

    Args:
        torch_side: a module, a function, `(function, params)`, or any other side that `programs.program` takes. A plain
            function is one of torch tensors.
        jax_side: the same; a plain function is one of JAX arrays, or of NumPy arrays. The sides may be of any two frameworks.
        inputs: an array; a tuple or list of positional arguments; or a dict of keyword arguments. Each may be a pytree;
            what is no array is passed on as it is.
        params: how parameters belong together: a ParamMap, a mapping of names, a dialect; None if it is to be solved.
        load: "first" or "second", whose parameter values are copied onto the other for this comparison.
        dtypes: what floats are cast to, each a name, or a pair of names for the first and the second side.
        gradients: whether gradients are compared, where the side has them.
        cotangents: of float outputs by name; standard normal if None.
        seed: of the cotangents.
        name: what the report calls the pair.
        budget: "auto", or the one way to a budget that is allowed: "jax", "torch" or "ratio" (see `oracles`).

    Raises:
        UnknownName: no such dtype or budget, or no such output among the cotangents.
        OptionError: the inputs hold no array, or an option is out of its range.
        DTypeError: an input is neither float nor integer nor bool.
        ShapeError: a cotangent is not shaped as its output.
        ParamError: the map that is given does not fit the parameters.
    """
    call, pairs = call_of(inputs), pairs_of(dtypes)
    both = (settled(program(torch_side, "torch"), call), settled(program(jax_side, "jax"), call))
    names = both[0].framework, both[1].framework
    labels = names if names[0] != names[1] else (f"{names[0]} (first)", f"{names[1]} (second)")
    subject = name or f"{both[0].name} and {both[1].name}"
    known = learned(both, labels, call, params, load)
    task = Task(both, labels, call, known, gradients, cotangents, seed, budget)
    notes = [f"{label} is {each.name}" for label, each in zip(labels, both, strict=True)]
    bare = [label for label, each in zip(labels, both, strict=True) if gradients and not each.differentiable]
    notes += [f"{label} has no gradients: its outputs alone are compared" for label in bare]
    report = Report((), (*notes, *known.notes, *settings_audit.warnings(*both, call)))
    for pair in pairs:
        row = Row(subject, "inputs", "", OWN, pair[0] if pair[0] == pair[1] else "/".join(pair))
        rows = [replace(row, side=labels[1], failure=known.failure)] if known.failure else list(task.rows(pair, row))
        report += Report(tuple(rows), tuple(task.notes))
    if any(row.failure for row in report.rows):
        return report
    loaded = f", load={load!r}" if load else ""
    return report.advised(f"parity.locate(torch_side, jax_side, inputs{loaded}) finds the first operation at which they part")


@dataclass
class Task:
    """What is asked of a pair, apart from the dtype.

    Args:
        programs: the first and the second.
        labels: what the report calls them.
        call: the inputs.
        learned: the parameters of both.
        gradients: whether gradients are asked for.
        cotangents: by the second program's names of outputs; None draws them.
        seed: of the draws.
        way: to a budget.
        notes: what the reader must know of the rows.
    """

    programs: tuple[Program, Program]
    labels: tuple[str, str]
    call: Call
    learned: Learned
    gradients: bool
    cotangents: Mapping[str, Any] | None
    seed: int
    way: str
    notes: list[str] = field(default_factory=list[str])

    def rows(self, dtypes: Dtypes, row: Row) -> Iterator[Row]:
        """Yield the row of each side, or what is wrong with it."""
        pair = self._questions(dtypes)
        made, failed = self._ran(pair, row)
        yield from failed
        if made[0] is None or made[1] is None:
            return
        try:
            outputs = self._paired(made[0], made[1])
        except ShapeError as error:
            yield replace(row, side=self.labels[0], failure=str(error))
            return
        pairs = result_pairing.Pairing(outputs, self.learned.map)
        if self.gradients and any(each.differentiable for each in self.programs):
            pair = self._with_cotangents(pair, made[1], outputs, dtypes)
            made, failed = self._ran(pair, row)
            yield from failed
        yield from self._judged(pair, made, pairs, row)

    def _questions(self, dtypes: Dtypes) -> tuple[Question, Question]:
        call = rounded_call(self.call, dtypes)
        values = [rounded(each, dtypes) for each in self.learned.values]
        first, second = (
            Question(subject, call, params, None, dtype, index)
            for index, (subject, params, dtype) in enumerate(zip(self.programs, values, dtypes, strict=True))
        )
        return first, second

    def _ran(self, pair: tuple[Question, Question], row: Row) -> tuple[list[Made | None], list[Row]]:
        """Return what both made, None for one that failed, and a row for each failure."""
        made: list[Made | None] = []
        failed: list[Row] = []
        for question, label in zip(pair, self.labels, strict=True):
            try:
                made.append(_run(question, label))
            except SideFailed as error:
                made.append(None)
                failed.append(replace(row, side=label, failure=str(error)))
        return made, failed

    def _paired(self, first: Made, second: Made) -> tuple[tuple[str, str], ...]:
        found = result_pairing.outputs(first.outputs, second.outputs, self.labels)
        if any(one != other for one, other in found):
            told = ", ".join(f"{one} with {other}" for one, other in found)
            self.notes.append(f"outputs are paired in order, {self.labels[0]} with {self.labels[1]}: {told}")
        return found

    def _with_cotangents(
        self, pair: tuple[Question, Question], made: Made, outputs: tuple[tuple[str, str], ...], dtypes: Dtypes
    ) -> tuple[Question, Question]:
        """Return the questions with the cotangents of every output that is float on both sides, by each program's names."""
        drawn = cotangents(made.outputs, self.cotangents, dtypes, self.seed)
        named = [{names[index]: drawn[names[1]] for names in outputs if names[1] in drawn} for index in (0, 1)]
        return replace(pair[0], cotangents=named[0]), replace(pair[1], cotangents=named[1])

    def _judged(
        self, pair: tuple[Question, Question], made: list[Made | None], pairs: result_pairing.Pairing, row: Row
    ) -> Iterator[Row]:
        try:
            found = oracle(pair, pairs, made, self.way)
        except SideFailed as error:
            yield replace(row, side=self.labels[1], failure=f"there is no budget: {error}")
            return
        side, other = self.labels[found.side], self.labels[1 - found.side]
        self.notes.append(found.way)
        self.notes.append(f"the oracle is {side} in float64: where the sides part, {other} fails, whichever of them is wrong")
        for index, (label, ran) in enumerate(zip(self.labels, made, strict=True)):
            if ran is None:
                continue
            try:
                verdicts, failure = judged(index, label, ran, found, pairs)
            except (ParamError, ShapeError) as error:
                yield replace(row, side=label, failure=f"gradients of {label}: {error}")
            else:
                self.notes += [note for note in blind(label, ran) if note not in self.notes]
                question = pair[index]
                facts = {"weights": provenance.digest(question.params), **provenance.source(question.program.subject)}
                yield replace(row, side=label, verdicts=verdicts, failure=failure, facts=facts)


def _run(question: Question, label: str) -> Made:
    """Return what a program makes.

    Raises:
        SideFailed: it raised, or an output is of no dtype that can be compared.
    """
    made = question.run(question.dtype)
    odd = [
        f"{name} of {label} is {x.dtype}" for name, x in made.outputs.items() if x.dtype.kind not in "biu" and not is_float(x)
    ]
    if odd:
        raise SideFailed(f"{', '.join(odd)}, and must be floats, integers or bools")
    return made
