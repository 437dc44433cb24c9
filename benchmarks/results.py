"""Results: a row for every kernel on every case, with what the numbers depend on; for a terminal and as JSON.

ratio = time / time of torch's `reference` on the same case        below 1 is faster
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from attention.parity.certificate import environment
from attention.spec.errors import FileError
from benchmarks.programs import BACKWARD, FORWARD, cores, device_name, torch_threads

TIMED, REFUSED, WRONG = "timed", "refused", "wrong"
BASELINE = ("torch", "reference")


@dataclass(frozen=True)
class Timing:
    """One kernel on one case.

    Attributes:
        case: the case's name.
        side: "torch" or "jax".
        kernel: the kernel's name.
        status: `TIMED`, `REFUSED` or `WRONG`.
        note: the refusal, or the first verdict that does not agree.
        samples: milliseconds of every round, by program; empty unless `TIMED`.
    """

    case: str
    side: str
    kernel: str
    status: str
    note: str = ""
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def times(self) -> dict[str, float]:
        """The median of every program, in milliseconds."""
        return {program: median(samples) for program, samples in self.samples.items()}


@dataclass(frozen=True)
class Results:
    """All rows of a run.

    Attributes:
        rows: by case, then by room, then in the order in which "auto" prefers the kernels.
        settings: sizes, dtype, rounds.
        machine: devices, cores, threads and versions.
    """

    rows: tuple[Timing, ...]
    settings: dict[str, Any]
    machine: dict[str, Any]

    @property
    def ok(self) -> bool:
        """Whether something was timed and no kernel is wrong."""
        statuses = {row.status for row in self.rows}
        return TIMED in statuses and WRONG not in statuses

    def ratio(self, row: Timing, program: str) -> float | None:
        """Return a row's time relative to the baseline's on the same case, or None where either has none."""
        for other in self.rows:
            if (other.case, other.side, other.kernel) == (row.case, *BASELINE) and {
                program
            } <= other.times.keys() & row.times.keys():
                return row.times[program] / other.times[program]
        return None

    def table(self) -> Table:
        """Return the table: for each case and kernel, median times and ratios, or why there are none."""
        meaning = f"median ms; x = relative to {' '.join(BASELINE)} on the same case, lower is faster"
        table = Table(caption=f"{meaning}\n{self.conditions()}")
        for heading in ("case", "room", "kernel"):
            table.add_column(heading, no_wrap=True)
        for program in (FORWARD, BACKWARD):
            table.add_column(program.replace(" + ", "\n+ "), justify="right", no_wrap=True)
            table.add_column("x", justify="right", no_wrap=True)
        table.add_column("", min_width=10)
        for row in self.rows:
            cells = [cell for program in (FORWARD, BACKWARD) for cell in self._cells(row, program)]
            why = row.note.removeprefix(f"kernel {row.kernel!r} refuses: ")
            status = "" if row.status == TIMED else f"{row.status.upper()}: {why}"
            table.add_row(row.case, row.side, row.kernel, *cells, status)
        return table

    def conditions(self) -> str:
        """Return in a line what the times hold for."""
        s, m = self.settings, self.machine
        devices = " and ".join(dict.fromkeys(m["devices"].values()))
        return f"{devices}, {m['cores']} core(s), {s['dtype']}, B {s['B']}, S {s['S']}, {s['rounds']} rounds"

    def to_dict(self) -> dict[str, Any]:
        """Return the results as JSON-ready data."""
        rows = [
            {
                **asdict(row),
                "median_ms": row.times,
                "ratio": {program: self.ratio(row, program) for program in row.times},
            }
            for row in self.rows
        ]
        return {
            "unit": "ms",
            "baseline": " ".join(BASELINE),
            "settings": self.settings,
            "machine": self.machine,
            "rows": rows,
        }

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write the results as JSON.

        Raises:
            FileError: the path cannot be written.
        """
        writable(path)
        _ = Path(path).write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    def _cells(self, row: Timing, program: str) -> tuple[str, str]:
        ratio = self.ratio(row, program)
        return f"{row.times[program]:.3f}" if program in row.times else "-", "-" if ratio is None else f"{ratio:.2f}"


def machine(backends: Sequence[str]) -> dict[str, Any]:
    """Return what the times depend on: devices by room, cores, threads and versions."""
    return {
        "devices": {side: device_name(side) for side in backends},
        "cores": cores(),
        "torch threads": torch_threads() if "torch" in backends else None,
        "environment": environment(),
    }


def writable(path: str | os.PathLike[str]) -> None:
    """Make the folders of a path and see that it can be written: before minutes are spent on what goes there.

    Raises:
        FileError: it cannot.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).open("a", encoding="utf-8").close()
    except OSError as error:
        raise FileError(f"path {str(path)!r} must be writable: {error}") from error
