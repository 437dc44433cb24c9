"""Compare: any two programs, their outputs and gradients, within a budget of rounding errors.

    report = compare(torch_side, jax_side, inputs)
    report.verdict in ("agrees", "differs", "cannot tell")
    agrees  <=>  every output and gradient of both programs is within the budget of the float64 run of one of them

The reference is one of the programs, in float64, so a mistake of either shows in the row of the other. What a program does
wrong by itself, such as an exception or a NaN, is a failure of its row and never an exception of `compare`.
"""

# A side is whatever its user brought, of types that strict mode cannot know.
# pyright: standard

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from attention.parity.adapters import Call, Made, Program, program
from attention.parity.adapters.detect_numpy import as_numpy_program
from attention.parity.adapters.inputs import LOAD, Dtypes, call_of, cotangents, pairs_of, rounded, rounded_call
from attention.parity.compare import conventions, own_budget, settings_audit
from attention.parity.compare.conventions import Conventions, Triple
from attention.parity.compare.narrow_casts import narrow
from attention.parity.compare.oracle import WAYS, Oracle, Pair, Question, oracle
from attention.parity.compare.output_choice import alike, asked
from attention.parity.compare.state import unchanged, watched
from attention.parity.compare.verdicts import held, judged, nan_warnings, without
from attention.parity.numerics.array_kinds import is_float
from attention.parity.param_mapping import result_pairing
from attention.parity.param_mapping.parameter_values import ParameterValues, resolve_values
from attention.parity.param_mapping.state_pairing import State, load_state
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
    outputs: Any = None,
) -> Report:
    """Return the report of two programs on the same inputs: outputs, and gradients of inputs and parameters.

    Args:
        torch_side: a module, a function, `(function, params)`, or any other side that `parity.program` takes. A plain
            function is one of torch tensors.
        jax_side: the same; a plain function is one of JAX arrays, or of NumPy arrays. The sides may be of any two frameworks.
        inputs: an array; a tuple or list of positional arguments; or a dict of keyword arguments. Each may be a pytree;
            what is no array is passed on as it is.
        params: how parameters belong together: a ParamMap, a mapping of names, a weight map; None if it is to be solved.
        load: "first" or "second", whose parameter values are copied onto the other for this comparison.
        dtypes: what floats are cast to, each a name, or a pair of names for the first and the second side.
        gradients: whether gradients are compared, where the side has them.
        cotangents: of float outputs by name; standard normal if None.
        seed: of the cotangents.
        name: what the report calls the pair.
        budget: "auto", or the one way to a budget that is allowed: "jax", "torch" or "ratio" (see `oracle`).
        outputs: what is compared: a name or pattern such as "logits" or "hidden_states[*]", several of them, or a mapping of
            names of the first program to names of the second; all if None.

    Raises:
        UnknownName: no such dtype or budget, or no such output among the cotangents.
        OptionError: the inputs hold no array, an option is out of its range, or `outputs` is nothing of the kind.
        DTypeError: an input is neither float nor integer nor bool.
        ShapeError: a cotangent is not shaped as its output.
        ParamError: the map that is given does not fit the parameters.
    """
    call, pairs = call_of(inputs), pairs_of(dtypes)
    both = (as_numpy_program(program(torch_side, "torch"), call), as_numpy_program(program(jax_side, "jax"), call))
    names = both[0].framework, both[1].framework
    labels = names if names[0] != names[1] else (f"{names[0]} (first)", f"{names[1]} (second)")
    subject = name or f"{both[0].name} and {both[1].name}"
    picks = asked(outputs)
    both = (both[0].picking(picks[0]), both[1].picking(picks[1])) if outputs is not None else both
    known = resolve_values(both, labels, call, params, load)
    state = load_state(both, labels, known.map, load)
    task = Task(watched(state), labels, call, known, gradients, cotangents, seed, budget)
    notes = [f"{label} is {each.name}" for label, each in zip(labels, both, strict=True)]
    bare = [label for label, each in zip(labels, both, strict=True) if gradients and not each.differentiable]
    notes += [f"{label} has no gradients: its outputs alone are compared" for label in bare]
    notes += [
        f"{label} was compiled by torch.compile: the module inside is compared, uncompiled" for label in _compiled(both, labels)
    ]
    report = Report((), (*notes, *known.notes, *state.notes, *settings_audit.warnings(*both, call)))
    for pair in pairs:
        row = Row(subject, "inputs", "", OWN, pair[0] if pair[0] == pair[1] else "/".join(pair))
        rows = list(task.rows(pair, row)) if not known.failure else task.unmapped(pair, row, own=load is None)
        report += Report(tuple(_undecided(rows, known, state, labels, load)), tuple(task.notes))
    if any(row.failure for row in report.rows):
        return report
    loaded = f", load={load!r}" if load else ""
    return report.advised(f"parity.locate(torch_side, jax_side, inputs{loaded}) finds the first operation at which they part")


def _compiled(programs: tuple[Program, Program], labels: tuple[str, str]) -> list[str]:
    return [label for label, each in zip(labels, programs, strict=True) if hasattr(each.subject, "_orig_mod")]


def _undecided(rows: list[Row], known: ParameterValues, state: State, labels: tuple[str, str], load: str | None) -> list[Row]:
    """Return the rows, those that differ left open where the parameter map is: the values may be somebody else's."""
    if known.map is None or all(row.agrees for row in rows):
        return rows
    ties, loaded = known.map.ties, {"first": 1, "second": 0}.get(load or "")
    stated = {name for pair in known.map.state for name in pair}
    lone = [name for name in known.map.left_over[loaded] if name not in stated] if loaded is not None else ()
    if ties:
        why = f"the parameter map is open: {ties[0]}{f' and {len(ties) - 1} more' if len(ties) > 1 else ''}"
    elif loaded is not None and lone:
        told = f"{', '.join(lone[:3])}{f' and {len(lone) - 3} more' if len(lone) > 3 else ''}"
        why = f"nothing of {labels[1 - loaded]} was loaded into {told} of {labels[loaded]}: say it with params="
    elif loaded is not None and all(alone := [[n for n in names if n not in stated] for names in state.alone]):
        told = f"{', '.join(alone[0][:3])} of {labels[0]} beside {', '.join(alone[1][:3])} of {labels[1]}"
        why = f"no evidence says which state is which: {told}; give both the same values"
    else:
        return rows
    return [row if row.agrees else replace(row, failure=row.failure or f"cannot compare: {why}", open=True) for row in rows]


@dataclass
class Task:
    """What is asked of a pair, apart from the dtype.

    Args:
        programs: the first and the second.
        labels: what the report calls them.
        call: the inputs.
        parameters: the parameter values of both.
        gradients: whether gradients are asked for.
        cotangents: by the second program's names of outputs; None draws them.
        seed: of the draws.
        way: to a budget.
        notes: what the reader must know of the rows.
    """

    programs: tuple[Program, Program]
    labels: tuple[str, str]
    call: Call
    parameters: ParameterValues
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
        pair, first, second = self._reduced(pair, made[0], made[1])
        try:
            outputs = self._paired(first, second)
        except ShapeError as error:
            yield replace(row, side=self.labels[0], failure=str(error))
            return
        made = [first, second]
        pairs = result_pairing.Pairing(outputs, self.parameters.map)
        if self.gradients and any(each.differentiable for each in self.programs):
            pair = self._with_cotangents(pair, second, outputs, dtypes)
            made, failed = self._ran(pair, row)
            yield from failed
        yield from self._judged(pair, made, pairs, row)

    def unmapped(self, dtypes: Dtypes, row: Row, *, own: bool) -> list[Row]:
        """Return the rows of programs whose parameters are not known to belong together.

        Where each runs with values of its own, outputs that agree are evidence enough; outputs that differ are none, because
        the values may differ.
        """
        alone = replace(self, parameters=replace(self.parameters, map=None, failure=""), notes=[])
        rows = list(alone.rows(dtypes, row)) if own else []
        if not rows or not all(found.agrees for found in rows):
            return [replace(row, side=self.labels[1], failure=self.parameters.failure, open=True)]
        self._note(alone.notes)
        self._note([f"gradients of parameters are not compared: {self.parameters.failure}"])
        return rows

    def _reduced(self, pair: Pair, first: Made, second: Made) -> tuple[Pair, Made, Made]:
        """Return the questions and results without the outputs that have no counterpart, and the state that no call wrote."""
        quiet = [unchanged(question.program, made.outputs) for question, made in zip(pair, (first, second), strict=True)]
        lone = {*quiet[0] ^ quiet[1]}
        self._note(f"{name} differs from before in one program only: it is not compared" for name in sorted(lone))
        outputs = [{k: x for k, x in made.outputs.items() if k not in quiet[0] | quiet[1]} for made in (first, second)]
        picks, told = alike(outputs[0], outputs[1])
        self._note(told)
        for question, label in zip(pair, self.labels, strict=True):
            gone = question.program.choice.left_out if question.program.choice is not None else {}
            self._note(f"left out of {label}: {path}, {kind}" for path, kind in gone.items())
        reduced: list[Question] = []
        results: list[Made] = []
        for question, found, names in zip(pair, outputs, picks, strict=True):
            kept = {name: label for name, label in question.program.watched.items() if label in found}
            program = question.program.watching(kept) if kept != question.program.watched else question.program
            program = program.picking(names) if names else program
            reduced.append(replace(question, program=program))
            results.append(Made({k: x for k, x in found.items() if not names or k in names or k in kept.values()}))
        return (reduced[0], reduced[1]), results[0], results[1]

    def _note(self, lines: Iterable[str]) -> None:
        self.notes += [line for line in lines if line not in self.notes]

    def _questions(self, dtypes: Dtypes) -> Pair:
        call = rounded_call(self.call, dtypes)
        values = [rounded(each, dtypes) for each in self.parameters.values]
        first, second = (
            Question(subject, call, params, None, dtype, index)
            for index, (subject, params, dtype) in enumerate(zip(self.programs, values, dtypes, strict=True))
        )
        return first, second

    def _ran(self, pair: Pair, row: Row) -> tuple[list[Made | None], list[Row]]:
        """Return what both made, None for one that failed, and a row for each failure."""
        made: list[Made | None] = []
        failed: list[Row] = []
        for question, label in zip(pair, self.labels, strict=True):
            try:
                made.append(_run(question, label))
            except SideFailed as error:
                made.append(None)
                failed.append(replace(row, side=label, failure=str(error), open=True))
        return made, failed

    def _paired(self, first: Made, second: Made) -> tuple[tuple[str, str], ...]:
        found = result_pairing.outputs(first.outputs, second.outputs, self.labels)
        if any(one != other for one, other in found):
            told = ", ".join(f"{one} with {other}" for one, other in found)
            self.notes.append(f"outputs are paired in order, {self.labels[0]} with {self.labels[1]}: {told}")
        return found

    def _with_cotangents(self, pair: Pair, made: Made, outputs: tuple[tuple[str, str], ...], dtypes: Dtypes) -> Pair:
        """Return the questions with the cotangents of every output that is float on both sides, by each program's names."""
        state = {*pair[1].program.watched.values()}
        drawn = cotangents({k: x for k, x in made.outputs.items() if k not in state}, self.cotangents, dtypes, self.seed)
        named = [{names[index]: drawn[names[1]] for names in outputs if names[1] in drawn} for index in (0, 1)]
        return replace(pair[0], cotangents=named[0]), replace(pair[1], cotangents=named[1])

    def _judged(self, pair: Pair, made: Sequence[Made | None], pairs: result_pairing.Pairing, row: Row) -> Iterator[Row]:
        rows = list(self._beside_the_reference(pair, made, pairs, row))
        differs = any(not verdict.agrees for each in rows for verdict in each.verdicts)
        if differs and (both := narrow(pair[0]) & narrow(pair[1])):
            pair = replace(pair[0], casts=True), replace(pair[1], casts=True)
            self._note([f"both programs compute in {', '.join(sorted(both))} in places, whose roundings are counted"])
            rows = list(self._beside_the_reference(pair, made, pairs, row))
        yield from rows

    def _beside_the_reference(
        self, pair: Pair, made: Sequence[Made | None], pairs: result_pairing.Pairing, row: Row
    ) -> Iterator[Row]:
        try:
            found = oracle(pair, pairs, made, self.way)
        except SideFailed as error:
            yield replace(row, side=self.labels[1], failure=f"there is no budget: {error}", open=True)
            return
        side = self.labels[found.side]
        self._note([found.way])
        self._note([f"the reference is {side} in float64"])
        rows: list[Row] = []
        for index, (label, ran) in enumerate(zip(self.labels, made, strict=True)):
            if ran is None:
                continue
            row = replace(row, side=label, reference=f"{side} in float64")
            try:
                triples = self._compared(pair, index, ran, found, pairs)
            except (ParamError, ShapeError) as error:
                rows.append(replace(row, failure=f"gradients of {label}: {error}"))
                continue
            verdicts, failure = judged(label, triples)
            self._note(nan_warnings(label, ran))
            question = pair[index]
            facts = {"weights": provenance.digest(question.params), **provenance.source(question.program.subject)}
            rows.append(replace(row, verdicts=verdicts, failure=failure, facts=facts))
        yield from self._at_a_generic_point(pair, pairs, rows)

    def _compared(self, pair: Pair, index: int, ran: Made, found: Oracle, pairs: result_pairing.Pairing) -> dict[str, Triple]:
        """Return every result of a program beside the reference, without what frameworks define otherwise."""
        programs = pair[0].program, pair[1].program
        known = Conventions(
            pair[index].call.leaves,
            conventions.frozen_rows(programs, found.side, self.parameters.map),
            conventions.before(pair[found.side].program),
        )
        triples: dict[str, Triple] = {}
        results = held(index, ran, found, pairs)
        if self.way != "ratio":
            results = own_budget.widened(pair, index, results, found, pairs, self._note)
        for name, triple in results.items():
            out = None if judged("", {name: triple})[0][0].agrees else known.left_out(name, triple)
            kept = triple if out is None else without(triple, out[0])
            self._note([out[1]] if out is not None else [])
            triples |= {name: kept} if kept is not None else {}
        return triples

    def _at_a_generic_point(self, pair: Pair, pairs: result_pairing.Pairing, rows: list[Row]) -> list[Row]:
        """Return the rows; gradients that differ at a tie or a kink alone are taken beside it, where they are defined."""
        bad = {v.name for row in rows for v in row.verdicts if not v.agrees}
        whole = len(rows) == len(pair) and not any(row.failure for row in rows)
        if not bad or not whole or not all(name.startswith("d ") for name in bad):
            return rows
        moved = self._moved(pair)
        made, failed = self._ran(moved, rows[0])
        if failed:
            return rows
        try:
            found = oracle(moved, pairs, made, self.way)
            again = [self._compared(moved, i, ran, found, pairs) for i, ran in enumerate(made) if ran is not None]
        except (SideFailed, ParamError, ShapeError):
            return rows
        verdicts = [{v.name: v for v in judged("", triples)[0]} for triples in again]
        if not all(v.agrees for each in verdicts for v in each.values()):
            return rows
        told = "not defined at these numbers, where there is a tie or a kink, and frameworks choose otherwise;"
        self._note([f"{', '.join(sorted(bad))}: {told} compared a thousandth beside them, where the gradients agree"])
        return [
            replace(row, verdicts=tuple(each.get(v.name, v) if v.name in bad else v for v in row.verdicts))
            for row, each in zip(rows, verdicts, strict=True)
        ]

    def _moved(self, pair: Pair) -> Pair:
        """Return the questions at other inputs and parameters, the same for both programs."""
        dtypes = pair[0].dtype, pair[1].dtype
        leaves = conventions.moved_slightly(pair[0].call.leaves, self.seed)
        call = rounded_call(pair[0].call.map(leaves.get), dtypes)
        first = rounded(conventions.moved_slightly(pair[0].params, self.seed + 1), dtypes)
        onto = self.parameters.map.forward(first) if self.parameters.map is not None else {}
        second = rounded({**pair[1].params, **onto}, dtypes)
        return replace(pair[0], call=call, params=first), replace(pair[1], call=call, params=second)


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
