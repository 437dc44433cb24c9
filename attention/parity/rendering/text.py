"""A report on a terminal: a table of the worst of each subject, dtype and side, and a line for each failure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from attention.parity.numerics.comparison import MOST_MAX, MOST_RMS, Verdict, shown_z
from attention.parity.results.report import OWN, Report, Row

HEADINGS = ("contract", "dtype", "side", "kernel", "probes", "output z", "gradient z", "worst element", "")
WIDTHS = (18, 8, 12, 15, 6, 12, 12, 38, 11)
"""Of the columns of a report that is printed before its longest cell is known."""
MOST_FAILURES = 40
"""How many failures are told a line each; more of them teach nothing."""


def text(report: Report) -> str:
    """Return the report as plain text."""
    console = Console(width=width(report), no_color=True, highlight=False)
    with console.capture() as captured:
        show(report, console)
    return captured.get()


def width(report: Report) -> int:
    """Return the columns that the table needs: a cut one would hide what it is there to show."""
    wide = Console(width=1000)
    return max(Measurement.get(wide, wide.options, table(report)).maximum, 80)


def show(report: Report, console: Console) -> None:
    """Print the table, the notes, each failure in a line, and the count."""
    console.print(table(report))
    for line in lines(report):
        # A line that is wrapped by us cannot be searched for, nor pasted.
        console.print(Text(line), soft_wrap=True)


@dataclass
class Live:
    """A report that is printed while it is made: each subject's rows as soon as they are judged.

    Attributes:
        console: where it is printed, at its own width: no line is wrapped.
    """

    console: Console
    begun: bool = False

    def show(self, part: Report) -> None:
        """Print the rows of a part of the report, below the headings."""
        if not self.begun:
            self._line(HEADINGS)
            self.begun = True
        for group in part.groups():
            self._line(cells(group))

    def end(self, report: Report) -> None:
        """Print what stands below the rows of the whole report."""
        self.console.print(f"\n{limits()}", highlight=False)
        for line in lines(report):
            self.console.print(Text(line), soft_wrap=True)

    def _line(self, cells: tuple[str, ...]) -> None:
        padded = " ".join(f"{cell:{width}}" for cell, width in zip(cells, WIDTHS, strict=True))
        self.console.print(Text(f" {padded.rstrip()}"), soft_wrap=True, highlight=False)


def limits() -> str:
    """Return what z is, and how large it may be."""
    return f"z = error / rounding budget, RMS / max; agrees if RMS <= {MOST_RMS:g} and max <= {MOST_MAX:g}"


def lines(report: Report) -> Iterator[str]:
    """Yield what stands below the table: notes, failures under the name of their row, trained models, counts, what next."""
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
    yield f"{compared} arrays compared with the float64 oracle, {failures} outside their budget."
    if pairs(report):
        yield f"verdict: {report.verdict}"
    if report.advice and not report.ok:
        yield f"next: {report.advice}"


def table(report: Report) -> Table:
    """Return the table: for each subject, dtype and side, the worst output and the worst gradient."""
    made = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=limits())
    own = pairs(report)
    # Of a user's own pair there is nothing to say about kernels and probes.
    shown = [i for i, heading in enumerate(HEADINGS) if not (own and heading in ("kernel", "probes"))]
    for i in shown:
        made.add_column("pair" if own and not i else HEADINGS[i], no_wrap=True)
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
    """Return the line of a group: who, the worst output, the worst gradient, where, and how it came out."""
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
    """Return the last word of a group: of a pair, one side differs from the reference, and neither need be the wrong one."""
    right = all(row.agrees for row in rows)
    if not right and not any(row.differs for row in rows):
        return "cannot tell"
    if all(row.kernel == OWN for row in rows):
        return "agrees" if right else "differs"
    return "ok" if right else "FAIL" if any(row.verdicts for row in rows) else "FAILED"


def _z(verdicts: list[Verdict]) -> str:
    if not verdicts:
        return "-"
    return f"{shown_z(max(v.rms for v in verdicts))} / {shown_z(max(v.worst for v in verdicts), 1)}"
