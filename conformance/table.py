"""The table: every program on every case, what became of it, counted for a terminal and listed as JSON.

passed + wrong + raised + unasked = cases of an operator
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich import box
from rich.table import Table

from attention.spec.errors import FileError
from conformance.onnx_cases import Case

PASSED, WRONG, RAISED, UNASKED = STATUSES = ("passed", "wrong", "raised", "unasked")


class Program(Protocol):
    """What is asked the cases: a backend, or a baseline."""

    @property
    def name(self) -> str:
        """What the table calls it."""
        ...

    @property
    def operators(self) -> tuple[str, ...]:
        """Those that it is asked for."""
        ...

    def ask(self, case: Case) -> Case:
        """Return the case as this program is judged by it."""
        ...

    def lacks(self, case: Case) -> str | None:
        """Return what of the case this program has no word for, or None."""
        ...

    def answer(self, case: Case) -> Mapping[str, np.ndarray]:
        """Return the outputs by name."""
        ...


@dataclass(frozen=True)
class Outcome:
    """What became of one case.

    Attributes:
        program: whose answer it is.
        operator: the kind of node.
        case: ONNX's name of it.
        status: `PASSED`; `WRONG`, an answer that ONNX does not agree with; `RAISED`, none; `UNASKED`, no word for it.
        note: why, unless it passed.
    """

    program: str
    operator: str
    case: str
    status: str
    note: str = ""


def judge(program: Program, case: Case) -> Outcome:
    """Return what becomes of a case."""
    outcome = (program.name, case.operator, case.name)
    case = program.ask(case)
    lacks = program.lacks(case)
    if lacks is not None:
        return Outcome(*outcome, UNASKED, lacks)
    try:
        answer = program.answer(case)
    except Exception as error:  # noqa: BLE001 - whatever a program raises is its outcome
        return Outcome(*outcome, RAISED, f"{type(error).__name__}: {' '.join(str(error).split())[:160]}")
    mismatch = case.mismatch(answer)
    return Outcome(*outcome, PASSED) if mismatch is None else Outcome(*outcome, WRONG, mismatch)


def run(programs: Sequence[Program], operators: Iterable[str], collect: Callable[[str], Sequence[Case]]) -> Iterator[Outcome]:
    """Yield what becomes of every case of every operator, program by program."""
    for operator in operators:
        for program in programs:
            if operator in program.operators:
                yield from (judge(program, case) for case in collect(operator))


@dataclass(frozen=True)
class Conformance:
    """All outcomes of a run.

    Attributes:
        outcomes: by operator, then by program.
        versions: what the outcomes hold for, by package.
        judged: names of the programs that have to pass; the others are there to be looked at.
    """

    outcomes: tuple[Outcome, ...]
    versions: Mapping[str, str]
    judged: tuple[str, ...]

    @property
    def failures(self) -> tuple[Outcome, ...]:
        """What should have passed and did not."""
        return tuple(x for x in self.outcomes if x.program in self.judged and x.status in (WRONG, RAISED))

    @property
    def ok(self) -> bool:
        """Whether something passed and nothing failed."""
        return not self.failures and any(x.status == PASSED for x in self.outcomes)

    def count(self, operator: str, program: str) -> Counter[str]:
        """Return how many cases of an operator came to which end."""
        return Counter(x.status for x in self.outcomes if (x.operator, x.program) == (operator, program))

    def table(self) -> Table:
        """Return the counts: a row for each operator and program."""
        meaning = "wrong: an answer that ONNX does not agree with; unasked: the program has no word for it"
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        table = Table(caption=f"{meaning}\n{versions}", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for heading in ("operator", "program"):
            table.add_column(heading, no_wrap=True)
        for heading in ("cases", *STATUSES):
            table.add_column(heading, justify="right", no_wrap=True)
        for operator, program in dict.fromkeys((x.operator, x.program) for x in self.outcomes):
            count = self.count(operator, program)
            table.add_row(operator, program, str(count.total()), *(str(count[status]) for status in STATUSES))
        return table

    def remarks(self) -> list[str]:
        """Return a line for each failure, and one for each reason why programs that have to pass were not asked."""
        unasked = Counter(
            (x.program, x.operator, x.note) for x in self.outcomes if x.program in self.judged and x.status == UNASKED
        )
        return [
            *(f"{x.program}: {x.case} {x.status}: {x.note}" for x in self.failures),
            *(f"{program}: {count} of {operator}: {note}" for (program, operator, note), count in unasked.items()),
        ]

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write every outcome as JSON.

        Raises:
            FileError: the path cannot be written.
        """
        writable(path)
        data: dict[str, Any] = {"versions": dict(self.versions), "outcomes": [asdict(x) for x in self.outcomes]}
        _ = Path(path).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def writable(path: str | os.PathLike[str]) -> None:
    """Make the folders of a path and see that it can be written, before any work is done for it.

    Raises:
        FileError: it cannot.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).open("a", encoding="utf-8").close()
    except OSError as error:
        raise FileError(f"path {str(path)!r} must be writable: {error}") from error
