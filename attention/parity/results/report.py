"""Reports: what was compared with which reference, how it came out, and what to do next.

    report = Report(rows, notes)        a row is one probe, or one comparison, of one program
    ok  <=>  an output was compared, all verdicts agree, and no program failed
    verdict in ("agrees", "differs", "cannot tell")         exit codes 0, 1, 2

`rendering.text` prints a report, `rendering.html` draws it, and a certificate is the report as JSON with its provenance.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from attention.parity.numerics.comparison import MOST_MAX, MOST_RMS, Verdict
from attention.parity.results import provenance
from attention.parity.results.renderers import renderer
from attention.spec.errors import FileError, OptionError, ParityError, shown
from attention.spec.options import PATH, TEXT, checked
from attention.spec.storage.disk import brief, write_text

OWN = "own"
"""The kernel of a user's program, which is unknown."""

EXIT_CODES = {"agrees": 0, "differs": 1, "cannot tell": 2}
"""Of a command, by the verdict."""


@dataclass(frozen=True)
class Row:
    """One probe of one program.

    Attributes:
        subject: the contract's name, or the model and layer.
        probe: the probe's name.
        side: the program: "torch", "jax", "numpy", or another.
        kernel: the kernel that ran.
        dtype: of weights and inputs.
        verdicts: on the output, on intermediates, and on every gradient.
        refusal: why nothing ran, though nothing is wrong, or "".
        failure: why the program could not be compared, or "".
        open: whether the failure leaves open if the programs agree: one raised, or the parameter map is not established.
        facts: what else is known, such as the number of tokens.
        reference: what the program was compared with.
    """

    subject: str
    probe: str
    side: str
    kernel: str
    dtype: str
    verdicts: tuple[Verdict, ...] = ()
    refusal: str = ""
    failure: str = ""
    open: bool = False
    facts: dict[str, Any] = field(default_factory=dict[str, Any])
    reference: str = "the float64 oracle"

    @property
    def agrees(self) -> bool:
        """Whether every verdict is good. A refusal compares nothing; a failure is no agreement."""
        return not self.failure and all(verdict.agrees for verdict in self.verdicts)

    @property
    def differs(self) -> bool:
        """Whether the program differs from the reference: a verdict says so or it failed, and nothing leaves that open."""
        return not self.open and not self.agrees

    def __str__(self) -> str:
        if self.kernel == OWN:
            return f"{self.subject}, {self.dtype}, {self.side}"
        kernel = f" ({self.kernel})" if self.kernel else ""
        return f"{self.subject}, {self.dtype}, {self.side}{kernel}, probe {self.probe!r}"


@dataclass(frozen=True)
class Report:
    """All rows of a run. Reports add.

    Attributes:
        rows: what was compared.
        notes: lines for the reader: warnings, how budgets were computed, how parameters were matched.
        advice: what to run next if something fails.
    """

    rows: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()
    advice: str = ""

    def __add__(self, other: Report) -> Report:
        notes = tuple(dict.fromkeys(self.notes + other.notes))
        return Report(self.rows + other.rows, notes, self.advice or other.advice)

    @property
    def ok(self) -> bool:
        """Whether an output was compared and all agrees; gradients of empty outputs are zeros, which agree without meaning."""
        compared = any(v.elements and not v.name.startswith("d ") for row in self.rows for v in row.verdicts)
        return compared and all(row.agrees for row in self.rows)

    @property
    def verdict(self) -> str:
        """One of agrees, differs and cannot tell: nothing was compared, or a failure leaves it open."""
        return "agrees" if self.ok else "differs" if any(row.differs for row in self.rows) else "cannot tell"

    @property
    def exit_code(self) -> int:
        """The exit code of a command: 0 agrees, 1 differs, 2 cannot tell."""
        return EXIT_CODES[self.verdict]

    def failures(self) -> Iterator[tuple[Row, Verdict]]:
        """Yield every verdict that does not agree, with its row."""
        for row in self.rows:
            for verdict in row.verdicts:
                if not verdict.agrees:
                    yield row, verdict

    def worst(self) -> tuple[Row, Verdict] | None:
        """Return the verdict that is farthest outside its limits, or nearest to them, with its row."""
        every = ((row, verdict) for row in self.rows for verdict in row.verdicts)
        return max(every, key=lambda pair: pair[1].badness, default=None)

    def assert_ok(self) -> None:
        """Raise ParityError unless all agrees: the worst tensor, element and z, what to run next, and the report.

        Raises:
            ParityError: something differs or failed, or nothing was compared.
        """
        if not self.ok:
            raise ParityError(f"{self.complaint()}\n{self}")

    def complaint(self) -> str:
        """Return a short failure message: failures, or the worst element, and what to run next."""
        failed, worst = [row for row in self.rows if row.failure], self.worst()
        lines = [f"{row}: {row.failure}" for row in failed]
        if worst is not None and not worst[1].agrees:
            lines.append(f"worst of {sum(1 for _ in self.failures())}: {worst[0]}: {worst[1]}")
        elif not failed:
            lines.append("nothing was compared")
        return "\n".join([*lines, *([f"next: {self.advice}"] if self.advice else [])])

    def __str__(self) -> str:
        return renderer("report as text")(self)

    def show(self, console: Console | None = None) -> None:
        """Print the report in at most 100 columns; on a narrower terminal its cells are folded, and none is cut."""
        if console is not None and not hasattr(console, "print"):
            raise OptionError(f"console {shown(console)} must be a rich.console.Console, or None")
        renderer("report on a console")(self, console or Console(width=renderer("columns of a report")(Console().width)))

    def groups(self) -> Iterator[list[Row]]:
        """Yield the rows of each subject, dtype and side together, in the order of their first rows."""
        order: dict[tuple[str, ...], int] = {}
        for row in self.rows:
            _ = order.setdefault(_place(row), len(order))
        for _, rows in groupby(sorted(self.rows, key=lambda row: order[_place(row)]), key=_place):
            yield list(rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the certificate as JSON-ready data; z that is not finite is a string."""
        limits = {"rms": MOST_RMS, "max": MOST_MAX}
        return plain(
            {
                "format": provenance.FORMAT,
                "version": provenance.VERSION,
                "ok": self.ok,
                "verdict": self.verdict,
                "limits": limits,
                "environment": provenance.environment(),
                "code": provenance.code(),
                "notes": self.notes,
                "rows": [{**_fields(row), "agrees": row.agrees} for row in self.rows],
            }
        )

    @checked(path=PATH)
    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write the certificate as JSON.

        Raises:
            FileError: the path cannot be written.
        """
        write(path, json.dumps(self.to_dict(), indent=1))

    @checked(path=PATH)
    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write the report as one page that needs nothing else: histograms of z, error maps, attention maps.

        Raises:
            FileError: the path cannot be written.
            MissingExtra: what draws the page is not installed.
        """
        write(path, renderer("report as a page")(self))

    @checked(advice=TEXT)
    def advised(self, advice: str) -> Report:
        """Return the same report with what to run next."""
        return replace(self, advice=advice)


@checked(path=PATH)
def write(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file, and its folders.

    Raises:
        FileError: the path cannot be written.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except (OSError, TypeError, ValueError) as error:
        raise FileError(f"path {brief(repr(str(path)))} must be writable: {brief(error)}") from error
    write_text(path, text)


def _place(row: Row) -> tuple[str, ...]:
    return row.subject, row.dtype, row.side


def _fields(record: Any) -> dict[str, Any]:
    """Return the fields of a dataclass, except the pictures."""
    return {f.name: getattr(record, f.name) for f in fields(record) if f.name != "pictures"}


def plain(value: Any) -> Any:
    """Return nested data that JSON can hold; a number that is not finite is a string."""
    if isinstance(value, Verdict):
        return plain(_fields(value))
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value
