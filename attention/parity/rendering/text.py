"""A report as text: a table of the worst array of each program and dtype, and a line for each array that differs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from textwrap import wrap
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attention.parity.numerics.comparison import MOST_MAX, MOST_RMS, Verdict, shown_z
from attention.parity.results.report import OWN, Report, Row

HEADINGS = ("contract", "dtype", "backend", "kernel", "probes", "output z", "gradient z", "worst element", "verdict")
OF_PAIR = ("pair or block", "dtype", "program", "", "", "output z", "gradient z", "worst element", "verdict")
"""The same of two programs of a user: of their kernels and probes nothing is known. A single pair stands above the table."""
WHOLE = ("dtype", "output z", "gradient z", "verdict")
"""Columns of a pair whose cells are never broken."""
LEAST, MOST = 80, 100
"""Columns that a report takes on a narrow terminal, and on any other."""
WIDTHS = (18, 8, 10, 9, 6, 11, 11, 11, 7)
"""Of the columns of `HEADINGS`, of which these stand on a line below where the terminal is narrow:"""
BELOW = (3, 7)
MOST_FAILURES = 40
"""How many differing arrays are listed."""


def text(report: Report) -> str:
    """Return the report as plain text."""
    console = Console(width=MOST, no_color=True, highlight=False)
    with console.capture() as captured:
        show(report, console)
    return captured.get()


def columns(terminal: int) -> int:
    """Return the columns that a report takes on a terminal: its cells are folded, and none is cut."""
    return min(max(terminal, LEAST), MOST)


def show(report: Report, console: Console) -> None:
    """Print the table, the notes, a line for each array that differs, and the verdict."""
    if not pairs(report):
        live = Live(console)
        live.show(report)
        live.end(report)
        return
    if len({row.subject for row in report.rows}) == 1:
        console.print(Text(report.rows[0].subject), soft_wrap=True)
    # rich would cut a table that is wider than the terminal.
    wide = Console(width=columns(console.width), no_color=True, highlight=False)
    with wide.capture() as captured:
        wide.print(table(report))
    for line in captured.get().splitlines():
        console.print(Text(line.rstrip()), soft_wrap=True)
    console.print(Text(limits()), soft_wrap=True)
    for line in lines(report):
        # A line that is broken by us cannot be searched for, nor pasted.
        console.print(Text(line), soft_wrap=True)


@dataclass
class Live:
    """A report that is printed while it is made: each contract's rows as soon as they are compared.

    Attributes:
        console: where it is printed.
    """

    console: Console
    begun: bool = False

    def show(self, part: Report) -> None:
        """Print the rows of a part of the report, below the headings."""
        for group in part.groups():
            if not self.begun:
                self._row(HEADINGS)
                self.begun = True
            self._row(cells(group))

    def end(self, report: Report) -> None:
        """Print what stands below the rows of the whole report."""
        if self.begun:
            self.console.print(f"\n{limits()}", highlight=False, soft_wrap=True)
        for line in lines(report):
            self.console.print(Text(line), soft_wrap=True)

    def _row(self, cells: tuple[str, ...]) -> None:
        for line in folded(cells, columns(self.console.width)):
            self.console.print(Text(line), soft_wrap=True, highlight=False)


def folded(cells: tuple[str, ...], most: int) -> Iterator[str]:
    """Yield the lines of a row, in at most so many columns: a cell that is wider than its column goes on below."""
    if most >= MOST:
        yield from _columns(cells, WIDTHS)
        return
    above = [i for i in range(len(cells)) if i not in BELOW]
    yield from _columns([cells[i] for i in above], [WIDTHS[i] for i in above])
    told = "; ".join(cells[i] for i in BELOW if cells[i])
    yield from (f"{'':{WIDTHS[0] + 2}}{line}" for line in wrap(told, most - WIDTHS[0] - 2, break_on_hyphens=False))


def _columns(cells: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    parts = [wrap(cell, width, break_on_hyphens=False) or [""] for cell, width in zip(cells, widths, strict=True)]
    for row in zip_longest(*parts, fillvalue=""):
        yield f" {' '.join(f'{part:{width}}' for part, width in zip(row, widths, strict=True))}".rstrip()


def limits() -> str:
    """Return what z is, and how large it may be."""
    return f"z = error / rounding budget, RMS/max; agrees if RMS <= {MOST_RMS:g} and max <= {MOST_MAX:g}"


def lines(report: Report) -> Iterator[str]:
    """Yield what stands below the table: notes, arrays that differ, trained models, counts, the verdict, what to do next."""
    yield from report.notes
    left = MOST_FAILURES
    for row in report.rows:
        failed = [verdict for verdict in row.verdicts if not verdict.agrees]
        if row.failure:
            yield f"{row}: {row.failure}"
        if failed and left > 0:
            yield f"{row}:"
            yield from (f"    {verdict}" for verdict in sorted(failed, key=lambda v: -v.badness)[:left])
        left -= len(failed)
    if left < 0:
        yield f"    ... and {-left} more"
    yield from models(report)
    compared, failures = sum(len(row.verdicts) for row in report.rows), sum(1 for _ in report.failures())
    yield f"{compared} arrays compared with {references(report)}, {failures} outside their budget."
    if pairs(report):
        yield f"verdict: {report.verdict}{differing(report)}"
    if report.advice and not report.ok:
        yield f"next: {report.advice}"


def references(report: Report) -> str:
    """Return what the programs of a report were compared with."""
    return ", ".join(dict.fromkeys(row.reference for row in report.rows if row.verdicts)) or "the float64 oracle"


def differing(report: Report) -> str:
    """Return which programs of a pair differ from which reference; "" if none does."""
    found = dict.fromkeys((row.side, row.reference) for row in report.rows if row.differs and row.verdicts)
    said = "; ".join(f"{side} differs from the reference, {reference}" for side, reference in found)
    return f": {said}; either may be the wrong one" if said else ""


def table(report: Report) -> Table:
    """Return the table of a pair: for each dtype and program, the worst output and the worst gradient."""
    made = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    single = len({row.subject for row in report.rows}) == 1
    shown = [i for i, heading in enumerate(OF_PAIR) if heading and (i or not single)]
    for i in shown:
        made.add_column(OF_PAIR[i], no_wrap=OF_PAIR[i] in WHOLE, overflow="fold")
    for group in report.groups():
        told = cells(group)
        made.add_row(*(Text(told[i]) for i in shown))
    return made


def pairs(report: Report) -> bool:
    """Return whether a report is of users' own programs."""
    return bool(report.rows) and all(row.kernel == OWN for row in report.rows)


def models(report: Report) -> list[str]:
    """Return a line for each trained model: layers, heads, tokens and padding."""
    layers: dict[tuple[Any, ...], set[int]] = {}
    for row in report.rows:
        if "layer" in row.facts:
            place = tuple(row.facts[name] for name in ("model", "heads", "tokens", "padding"))
            layers.setdefault(place, set()).add(row.facts["layer"])
    return [
        f"{model}: {len(found)} layers, {heads} heads, {tokens} tokens of real text and {padding} of padding"
        for (model, heads, tokens, padding), found in layers.items()
    ]


def cells(rows: list[Row]) -> tuple[str, ...]:
    """Return the cells of a group: the program, the worst output, the worst gradient, where, and the verdict."""
    first = rows[0]
    every = [verdict for row in rows for verdict in row.verdicts]
    kernels = ", ".join(dict.fromkeys(row.kernel for row in rows))
    head = (first.subject, first.dtype, first.side, kernels, str(len(rows)))
    if not every:
        failed = any(row.failure for row in rows)
        return (*head, "-", "-", "see below" if failed else first.refusal, _ending(rows) if failed else "refused")
    values = [verdict for verdict in every if not verdict.name.startswith("d ")]
    gradients = [verdict for verdict in every if verdict.name.startswith("d ")]
    worst = max(every, key=lambda verdict: verdict.badness)
    where = f"{worst.name}[{','.join(map(str, worst.index))}]"
    return (*head, _z(values), _z(gradients), where, _ending(rows))


def _ending(rows: list[Row]) -> str:
    """Return the verdict on a group; arrays without elements agree with anything, and prove nothing."""
    if any(row.differs for row in rows):
        return "differs"
    compared = any(verdict.elements for row in rows for verdict in row.verdicts)
    return "agrees" if compared and all(row.agrees for row in rows) else "cannot tell"


def _z(verdicts: list[Verdict]) -> str:
    if not verdicts:
        return "-"
    return f"{shown_z(max(v.rms for v in verdicts))}/{shown_z(max(v.worst for v in verdicts), 1)}"
