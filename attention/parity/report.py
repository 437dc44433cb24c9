"""Reports: what was compared, how it came out, and where to look; for a terminal and as JSON.

A row is one probe on one side. The terminal's table shows, for each subject, dtype and side, the worst of its rows.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib import metadata
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from attention.parity.verdict import MOST_MAX, MOST_RMS, Verdict
from attention.spec.errors import FileError, ParityError

HEADINGS = ("contract", "dtype", "side", "kernel", "probes", "output z", "gradient z", "worst element", "")


@dataclass(frozen=True)
class Row:
    """One probe on one side.

    Attributes:
        subject: the contract's name, or the model and layer.
        probe: the probe's name.
        side: "torch", "jax", "numpy", or another program.
        kernel: the kernel that ran.
        dtype: of weights and inputs.
        verdicts: on the output, on stages, and on every gradient.
        refusal: why nothing ran, though nothing is wrong, or "".
        failure: what is wrong with the program itself, so that it could not be compared, or "".
        facts: what else is known, such as the number of tokens.
    """

    subject: str
    probe: str
    side: str
    kernel: str
    dtype: str
    verdicts: tuple[Verdict, ...] = ()
    refusal: str = ""
    failure: str = ""
    facts: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def agrees(self) -> bool:
        """Whether every verdict is good. A refusal compares nothing and condemns nothing; a failure condemns."""
        return not self.failure and all(verdict.agrees for verdict in self.verdicts)


@dataclass(frozen=True)
class Report:
    """All rows of a run. Reports add.

    Attributes:
        rows: what was compared.
        notes: lines that the reader must know to trust the rows: warnings, how budgets were made, how parameters were matched.
    """

    rows: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()

    def __add__(self, other: Report) -> Report:
        return Report(self.rows + other.rows, tuple(dict.fromkeys(self.notes + other.notes)))

    @property
    def ok(self) -> bool:
        """Whether something was compared and all of it agrees."""
        return any(row.verdicts for row in self.rows) and all(row.agrees for row in self.rows)

    def failures(self) -> Iterator[tuple[Row, Verdict]]:
        """Yield every verdict that does not agree, with its row."""
        for row in self.rows:
            for verdict in row.verdicts:
                if not verdict.agrees:
                    yield row, verdict

    def assert_ok(self) -> None:
        """Raise ParityError with the report as its message unless all agrees."""
        if not self.ok:
            raise ParityError(str(self))

    def __str__(self) -> str:
        console = Console(width=self.width, no_color=True, highlight=False)
        with console.capture() as captured:
            self.show(console)
        return captured.get()

    @property
    def width(self) -> int:
        """Columns that the table needs: a cut one would hide what it is there to show."""
        wide = Console(width=1000)
        return max(Measurement.get(wide, wide.options, self.table()).maximum, 80)

    def show(self, console: Console) -> None:
        """Print the table, each failure in a line, and the count."""
        console.print(self.table())
        for row, verdict in self.failures():
            console.print(f"{row.subject}, {row.dtype}, {row.side} ({row.kernel}), probe {row.probe!r}: {verdict}")
        for line in self.models():
            console.print(line)
        compared = sum(len(row.verdicts) for row in self.rows)
        failed = sum(1 for _ in self.failures())
        console.print(f"{compared} arrays compared with the float64 oracle, {failed} outside their budget.")

    def table(self) -> Table:
        """Return the table: for each subject, dtype and side, the worst output and the worst gradient."""
        limits = f"z = error / rounding budget, RMS / max; agrees if RMS <= {MOST_RMS:g} and max <= {MOST_MAX:g}"
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=limits)
        for heading in HEADINGS:
            table.add_column(heading, no_wrap=True)
        for group in self.groups():
            table.add_row(*_cells(group))
        return table

    def models(self) -> list[str]:
        """Return a line for each trained model: layers, heads, tokens and padding."""
        layers: dict[tuple[Any, ...], set[int]] = {}
        for row in self.rows:
            if "layer" in row.facts:
                place = tuple(row.facts[name] for name in ("model", "heads", "tokens", "padding"))
                layers.setdefault(place, set()).add(row.facts["layer"])
        return [
            f"{model}: {len(found)} layers, {heads} heads, {tokens} tokens of real text and {padding} of padding"
            for (model, heads, tokens, padding), found in layers.items()
        ]

    def groups(self) -> Iterator[list[Row]]:
        """Yield the rows of each subject, dtype and side together, in the order in which they first stood."""
        order: dict[tuple[str, ...], int] = {}
        for row in self.rows:
            _ = order.setdefault(_place(row), len(order))
        for _, rows in groupby(sorted(self.rows, key=lambda row: order[_place(row)]), key=_place):
            yield list(rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-ready data; z that is not finite is a string."""
        rows = [{**asdict(row), "agrees": row.agrees} for row in self.rows]
        limits = {"rms": MOST_RMS, "max": MOST_MAX}
        return _plain({"ok": self.ok, "limits": limits, "environment": environment(), "rows": rows})

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write the report as JSON.

        Raises:
            FileError: the path cannot be written.
        """
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            _ = Path(path).write_text(json.dumps(self.to_dict(), indent=1), encoding="utf-8")
        except OSError as error:
            raise FileError(f"path {str(path)!r} must be writable: {error}") from error


def _place(row: Row) -> tuple[str, ...]:
    return row.subject, row.dtype, row.side


def _cells(rows: list[Row]) -> tuple[str, ...]:
    first = rows[0]
    every = [verdict for row in rows for verdict in row.verdicts]
    kernels = ", ".join(dict.fromkeys(row.kernel for row in rows))
    head = (first.subject, first.dtype, first.side, kernels, str(len(rows)))
    if not every:
        return (*head, "-", "-", first.refusal, "refused")
    values = [verdict for verdict in every if not verdict.name.startswith("d ")]
    gradients = [verdict for verdict in every if verdict.name.startswith("d ")]
    worst = max(every, key=_badness)
    where = f"{worst.name}[{','.join(map(str, worst.index))}]"
    return (*head, _z(values), _z(gradients), where, "ok" if all(row.agrees for row in rows) else "FAIL")


def _badness(verdict: Verdict) -> float:
    """Return how near a verdict is to its limits; above 1 it fails."""
    return max(verdict.rms / MOST_RMS, verdict.worst / MOST_MAX)


def _z(verdicts: list[Verdict]) -> str:
    if not verdicts:
        return "-"
    return f"{max(v.rms for v in verdicts):.2f} / {max(v.worst for v in verdicts):.1f}"


def _plain(value: Any) -> Any:
    """Return nested data that JSON can hold."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value


def environment() -> dict[str, str]:
    """Return what the numbers depend on: versions, machine, matmul precision."""
    packages = ("attention", "numpy", "torch", "jax", "jaxlib", "flax", "transformers")
    found = {name: _version(name) for name in packages}
    return {"python": platform.python_version(), "machine": platform.machine(), "matmul precision": "highest", **found}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
