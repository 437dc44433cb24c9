"""A results file: what was measured, and everything that the numbers depend on.

results/<name>.json = {name, date, commit, command, machine, versions, data, pictures}
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from attention.spec.errors import FileError

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "results"
PACKAGES = ("numpy", "torch", "jax", "flax")
WIDTH = 120
"""A line of a results file is at most so long, or holds one value."""


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """One results file.

    Attributes:
        name: of the file, and of the measurement.
        date: the day on which it was measured, ISO 8601.
        commit: of the repository when it was recorded; "+" follows where files had been changed.
        command: the line that measured it.
        machine: `processor` and `cores`.
        versions: of Python and of `PACKAGES`.
        data: what the pages need of it.
        pictures: the SHA-256 of each picture that the pages show of it, by path.
    """

    name: str
    date: str
    commit: str
    command: str
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    data: Any
    pictures: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def conditions(self) -> str:
        """What a page says of it; the file knows more."""
        versions = " and ".join(f"{name} {self.versions[name]}" for name in ("torch", "jax") if name in self.versions)
        return f"{self.date} on {self.machine['cores']} cores of {self.machine['processor']} with {versions}"

    def write(self, folder: Path = FOLDER) -> Path:
        """Write the file, and return where it is."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        _ = path.write_text(lines(asdict(self)) + "\n", encoding="utf-8")
        return path


def read(name: str, folder: Path = FOLDER) -> Recorded | None:
    """Return the results of a measurement, or None where nothing is recorded.

    Raises:
        FileError: the file is none of this kind.
    """
    path = folder / f"{name}.json"
    if not path.exists():
        return None
    wanted = {each.name for each in fields(Recorded)}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FileError(f"path {str(path)!r} must be a results file: {error}") from None
    if not isinstance(found, dict) or found.keys() != wanted or found["name"] != name:
        raise FileError(f"path {str(path)!r} must be the results of {name!r}, with {', '.join(sorted(wanted))}")
    return Recorded(**found)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def machine() -> dict[str, Any]:
    """Return the processor's model and how many cores this process may use."""
    info = Path("/proc/cpuinfo")
    known = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in known if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"processor": models[0] if models else platform.processor() or platform.machine(), "cores": cores}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed ones among `PACKAGES`."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """Return the commit that is checked out, with "+" where the code differs from it; "" outside a repository."""

    def git(*words: str) -> str:
        ran = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S607 - git is the tool meant
        return ran.stdout.strip() if ran.returncode == 0 else ""

    head = git("rev-parse", "--short=12", "HEAD")
    # Pages and results follow the code, and are never part of what is measured.
    return head + ("+" if head and git("status", "--porcelain", "--", "*.py", "constraints.txt") else "")


def lines(value: Any, indent: str = "") -> str:
    """Return JSON in which whatever fits into a line stands on one.

    >>> print(lines({"a": [1, 2], "b": "x" * 120}))  # doctest: +ELLIPSIS
    {
     "a": [1, 2],
     "b": "xxx...x"
    }
    """
    whole = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, (dict, list, tuple)) or len(indent) + len(whole) <= WIDTH:
        return whole
    deeper = indent + " "
    if isinstance(value, dict):
        inner = [f"{deeper}{json.dumps(name, ensure_ascii=False)}: {lines(x, deeper)}" for name, x in value.items()]
    else:
        inner = [f"{deeper}{lines(x, deeper)}" for x in value]
    start, end = "{}" if isinstance(value, dict) else "[]"
    return f"{start}\n" + ",\n".join(inner) + f"\n{indent}{end}"
