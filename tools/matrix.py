"""The fast tests on every interpreter of this machine: with JAX alone, with both frameworks, and with PyTorch alone.

    python -m tools.matrix                     writes build/matrix.json, which `make matrix` keeps in results/
    python -m tools.matrix --python python3.12 --python /opt/python3.13/bin/python3        those anew, the rest as it was

For each interpreter an environment is made below `build/matrix/`; the wheel is installed with one extra after the other, and
JAX is taken away again. What a framework's absence skips is counted, so that nothing passes by not being run.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.machine import cpu_name
from tools.dist import EXTRAS, ROOT, build, environment, install, run, smoke

PLACE, RESULTS = ROOT / "build" / "matrix", ROOT / "build" / "matrix.json"
OLDEST, NEWEST = 11, 13
"""The minor versions of Python 3 that are looked for."""
# fmt: off
FAST = (
    "attend", "attend_gradients", "budget", "cli", "checkpoints", "cost", "extras", "files", "imports", "jax_adapters",
    "kernels", "mask_conversions", "mask_refusals", "masks", "multi_head_contract", "params", "positions", "random",
    "backend_kernels", "backends", "tuning",
)
# fmt: on
"""The files of tests that are run: the formula, and each backend's masks, kernels, positions, caches, layers and transforms."""
TOOLS = ("pytest", "pytest-xdist", "hypothesis")
JAX = ("jax", "jaxlib", "flax", "optax")
SHOWN = ("numpy", "torch", "jax", "flax")


def interpreters() -> Iterator[str]:
    """Yield one interpreter for each version of Python that is installed, wherever it is."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for minor in range(OLDEST, NEWEST + 1):
        name = f"python3.{minor}"
        places = [shutil.which(name), *(root / "versions").glob(f"3.{minor}.*/bin/{name}")]
        # A shim may stand on the path for a version that it does not give.
        works = (
            str(place)
            for place in places
            if place and not subprocess.run([place, "-V"], capture_output=True, check=False).returncode
        )
        if found := next(works, None):
            yield found


def rows(python: str, wheel: Path) -> Iterator[dict[str, Any]]:
    """Yield a row for JAX alone, for both frameworks and for PyTorch alone, on one interpreter."""
    made = environment(PLACE / Path(python).name, python)
    install(made, f"{wheel}[jax]", "optax", *TOOLS)
    yield row(made, ("jax",))
    install(made, f"{wheel}[all]")
    yield row(made, EXTRAS["all"])
    _ = run(made, "-m", "pip", "uninstall", "--quiet", "--yes", *JAX)
    yield row(made, ("torch",))


def row(python: Path, backends: tuple[str, ...]) -> dict[str, Any]:
    """Return what the smoke test and the fast tests make of an environment."""
    _ = smoke(python, backends)
    began = time.monotonic()
    files = [str(path) for name in FAST for path in ROOT.glob(f"parity_tests/**/test_{name}.py")]
    command = [str(python), "-m", "pytest", "-q", "-n", "2", "-m", "not slow", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    counts = {
        word: int(n)
        for n, word in re.findall(r"(\d+) (passed|failed|errors?|skipped)", done.stdout.strip().rpartition("\n")[2])
    }
    if done.returncode:
        print(done.stdout[-20_000:], done.stderr[-2000:], flush=True)
    return {
        "python": run(python, "-c", "import platform; print(platform.python_version())").strip(),
        "backends": list(backends),
        "versions": versions(python),
        "passed": counts.get("passed", 0),
        "failed": counts.get("failed", 0) + counts.get("error", 0) + counts.get("errors", 0),
        "skipped": counts.get("skipped", 0),
        "exit": done.returncode,
        "seconds": round(time.monotonic() - began),
    }


def versions(python: Path) -> dict[str, str]:
    """Return the versions of what an environment holds of `SHOWN`."""
    listed = json.loads(run(python, "-m", "pip", "--disable-pip-version-check", "list", "--format", "json"))
    return {package["name"]: package["version"] for package in listed if package["name"] in SHOWN}


def shown(row: dict[str, Any]) -> str:
    """Return a row as a line."""
    held = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
    counts = f"{row['passed']} passed, {row['failed']} failed, {row['skipped']} skipped in {row['seconds']} s"
    return f"Python {row['python']:8} {' and '.join(row['backends']):14} {counts}    ({held})"


def main() -> int:
    """Run the matrix, write it down, and return 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    _ = parser.add_argument("--python", action="append", help="an interpreter; every one that is found if not given")
    chosen = parser.parse_args()
    wheel, table = build(), list[dict[str, Any]]()
    for python in chosen.python or interpreters():
        for found in rows(python, wheel):
            table.append(found)
            print(shown(found), flush=True)
    if chosen.python and RESULTS.exists():
        measured = {found["python"] for found in table}
        kept = [row for row in json.loads(RESULTS.read_text())["rows"] if row["python"] not in measured]
        table = sorted(kept + table, key=lambda row: [int(part) for part in row["python"].split(".")])
    facts = {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "machine": f"{cpu_name()}, {os.cpu_count()} cores",
        "files": FAST,
        "rows": table,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    _ = RESULTS.write_text(json.dumps(facts, indent=1) + "\n")
    return int(any(found["exit"] for found in table))


if __name__ == "__main__":
    raise SystemExit(main())
