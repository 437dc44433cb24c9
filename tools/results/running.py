"""Running: a measurement's command is run, and what the pages need of it is kept.

exit code 0    measured          1    measured, and the command says no; the file says so too
any other      nothing is recorded
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from attention.spec.errors import FileError, OptionError
from tools.results.figures import Measurement
from tools.results.recorded import ROOT, Recorded, commit, digest, machine, versions


def run(measurement: Measurement) -> None:
    """Run the command.

    Raises:
        OptionError: the command could not measure.
    """
    path = place(measurement)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    argv = [sys.executable, "-m", *measurement.command]
    # A page is as wide as it is, whatever terminal somebody records in.
    environment = {**os.environ, "COLUMNS": "160", "NO_COLOR": "1"}
    if measurement.wrote:
        code = subprocess.run(argv, cwd=ROOT, env=environment, check=False).returncode
    else:
        with path.open("w", encoding="utf-8") as out:
            code = subprocess.run(argv, cwd=ROOT, env=environment, check=False, stdout=out).returncode
    if code not in (0, 1):
        raise OptionError(f"{measurement.line!r} must exit with 0 or 1 to be recorded, and exited with {code}")


def collect(measurement: Measurement) -> Recorded:
    """Return what the command wrote, with the day on which it did.

    Raises:
        FileError: it wrote nothing.
    """
    path = place(measurement)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        raise FileError(f"path {str(path)!r} must be what {measurement.line!r} wrote: run it first") from None
    day = datetime.fromtimestamp(path.stat().st_mtime, tz=UTC).date().isoformat()
    found = {"date": day, "commit": commit(), "machine": machine(), "versions": versions(), **measurement.stamp(text)}
    return Recorded(
        name=measurement.name,
        command=measurement.line,
        data=measurement.collect(text),
        pictures={shown: _copied(drawn, shown) for shown, drawn in measurement.pictures.items()},
        **found,
    )


def _copied(drawn: str, shown: str) -> str:
    """Copy a picture to where a page shows it, and return its SHA-256."""
    (ROOT / shown).parent.mkdir(parents=True, exist_ok=True)
    _ = shutil.copyfile(ROOT / drawn, ROOT / shown)
    return digest(ROOT / shown)


def place(measurement: Measurement) -> Path:
    """Return the file that holds what the command wrote or printed."""
    return ROOT / (measurement.wrote or f"build/results/{measurement.name}.txt")
