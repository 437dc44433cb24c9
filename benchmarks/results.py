"""Results: a row for every implementation of every case, as JSON.

    {"format": "attention benchmark", "version": 2, "settings": {...}, "machine": {...}, "peaks": [...],
     "rows": [...], "requirements": [...]}

row       suite, case, name (of the case), implementation, side, ours, status, note, kernel, quantity, samples, compile_ms,
          memory_bytes, flops, bytes; derived from these, for readers of the file: median, quartiles
quantity  "time", "compile" or "import", in milliseconds
status    "timed"     checked and right                 "differs"   a peer whose numbers are not the contract's: the time
          "refused"   cannot, and the note says why                is shown, and marked by the verdict in the note
          "wrong"     a kernel of ours that is not right, or failed: it has no time
requirement     see `comparisons.Checked`
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from attention.spec.errors import FileError, OptionError
from benchmarks.timing import quartiles

FORMAT, VERSION = "attention benchmark", 2
TIMED, DIFFERS, REFUSED, WRONG = "timed", "differs", "refused", "wrong"
TIME, COMPILE, IMPORT = "time", "compile", "import"


@dataclass(frozen=True)
class Row:
    """One implementation on one case.

    Attributes:
        suite: the suite's name.
        case: its fields, or what else tells it from others of the suite.
        name: of the case.
        implementation: whose time it is.
        side: "torch" or "jax", or "" where neither.
        ours: whether the implementation is this project's.
        status: see above.
        note: the refusal, the verdict or the failure.
        kernel: what "auto" chose.
        quantity: `TIME`, `COMPILE` or `IMPORT`.
        samples: milliseconds, one for each round.
        compile_ms: what was spent before the first call; None where nothing is compiled.
        memory_bytes: extra memory at the peak of a call; None where it was not asked for.
        flops: of the matrix products that the mask asks for.
        bytes: what must be read and written at least.
    """

    suite: str
    case: Mapping[str, Any]
    name: str
    implementation: str
    side: str = ""
    ours: bool = True
    status: str = TIMED
    note: str = ""
    kernel: str = ""
    quantity: str = TIME
    samples: Sequence[float] = ()
    compile_ms: float | None = None
    memory_bytes: int | None = None
    flops: int = 0
    bytes: int = 0

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells the row from all others of a run."""
        return self.name, self.implementation, self.quantity

    @property
    def time(self) -> float | None:
        """The median, in milliseconds, or None."""
        return quartiles(self.samples)[1] if self.samples else None


@dataclass(frozen=True)
class Peak:
    """What this machine reaches in one framework: operations a second in a dtype, and bytes a second."""

    side: str
    dtype: str
    flops: float
    bytes: float


@dataclass(frozen=True)
class Results:
    """A run.

    Attributes:
        rows: by suite and case, in the order in which they were entered.
        settings: rounds, clock and options.
        machine: devices, cores, threads and versions.
        peaks: measured in the same run.
        requirements: what must hold, and whether it does.
    """

    rows: tuple[Row, ...]
    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    peaks: tuple[Peak, ...] = ()
    requirements: tuple[Mapping[str, Any], ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether something was measured, no kernel is wrong, and every requirement that was measured is met."""
        statuses = {row.status for row in self.rows}
        broken = any(requirement["met"] is False for requirement in self.requirements)
        return (TIMED in statuses or bool(self.requirements)) and WRONG not in statuses and not broken

    def peak(self, side: str, dtype: str) -> Peak | None:
        """Return what a framework reaches in a dtype, or None where it was not measured."""
        return next((peak for peak in self.peaks if (peak.side, peak.dtype) == (side, dtype)), None)

    def joined(self, later: Results) -> Results:
        """Return both runs as one: what the later one measured too takes the place of what was known.

        Raises:
            OptionError: they are of two machines, or of two clocks.
        """
        for what, ours, theirs in (
            ("clock", self.settings.get("clock"), later.settings.get("clock")),
            ("devices", self.machine.get("devices"), later.machine.get("devices")),
        ):
            if ours != theirs:
                raise OptionError(f"{what} {theirs!r} must be {ours!r} as in the results that are there")
        rows = {row.key: row for row in (*self.rows, *later.rows)}
        peaks = {(peak.side, peak.dtype): peak for peak in (*self.peaks, *later.peaks)}
        requirements = {requirement["name"]: requirement for requirement in (*self.requirements, *later.requirements)}
        seconds = sum(run.settings.get("seconds", 0.0) for run in (self, later))
        settings = {**later.settings, "seconds": round(seconds, 1)}
        return Results(tuple(rows.values()), settings, later.machine, tuple(peaks.values()), tuple(requirements.values()))

    def to_dict(self) -> dict[str, Any]:
        """Return the results as JSON-ready data."""
        rows = [{**asdict(row), "samples": [round(x, 6) for x in row.samples], **_derived(row)} for row in self.rows]
        return {
            "format": FORMAT,
            "version": VERSION,
            "settings": dict(self.settings),
            "machine": dict(self.machine),
            "peaks": [asdict(peak) for peak in self.peaks],
            "rows": rows,
            "requirements": [dict(requirement) for requirement in self.requirements],
        }

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write the results as JSON.

        Raises:
            FileError: the path cannot be written.
        """
        writable(path)
        _ = Path(path).write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> Results:
        """Return the results of a file.

        Raises:
            FileError: it cannot be read, or holds something else.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise FileError(f"path {str(path)!r} must be a file of benchmark results: {error}") from None
        if not isinstance(data, dict) or (data.get("format"), data.get("version")) != (FORMAT, VERSION):
            raise FileError(f"path {str(path)!r} must be of format {FORMAT!r}, version {VERSION}")
        try:
            rows = tuple(Row(**{name: x for name, x in row.items() if name not in DERIVED}) for row in data["rows"])
            peaks = tuple(Peak(**peak) for peak in data["peaks"])
            return cls(rows, data["settings"], data["machine"], peaks, tuple(data["requirements"]))
        except (KeyError, TypeError) as error:
            raise FileError(f"path {str(path)!r} must hold rows, settings, machine, peaks and requirements: {error}") from None


DERIVED = ("median", "quartiles")


def _derived(row: Row) -> dict[str, Any]:
    if not row.samples:
        return dict.fromkeys(DERIVED)
    low, middle, high = (round(x, 6) for x in quartiles(row.samples))
    return {"median": middle, "quartiles": [low, high]}


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
