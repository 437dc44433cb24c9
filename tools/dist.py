"""Build the wheel and the sdist, and try the wheel in an empty environment with each extra in turn.

    python -m tools.dist                       every extra, with the pinned versions
    python -m tools.dist --python python3.12 --extra jax

The wheel is built from the sdist, so that both are complete. Each environment is made from nothing, below `build/dist/`.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST, PLACE = ROOT / "dist", ROOT / "build" / "dist"
SMOKE = ROOT / "tools" / "smoke.py"
EXTRAS = {"": (), "torch": ("torch",), "jax": ("jax",), "all": ("torch", "jax")}
"""The backends that each extra brings."""


def run(*command: object, folder: Path = ROOT) -> str:
    """Run a command and return what it says; if it fails, show that and end."""
    done = subprocess.run([str(part) for part in command], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{done.stdout}{done.stderr}\nfailed: {' '.join(str(part) for part in command)}")
    return done.stdout


def build() -> Path:
    """Build the sdist, and from it the wheel; return the wheel."""
    shutil.rmtree(DIST, ignore_errors=True)
    # The build backend is pinned in this environment; an isolated one would fetch the newest.
    _ = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", DIST, ROOT)
    (wheel,) = DIST.glob("attention_parity-*.whl")
    return wheel


def environment(folder: Path, python: str) -> Path:
    """Make an empty environment; return its interpreter."""
    _ = run(python, "-m", "venv", "--clear", folder)
    return folder / "bin" / "python"


def install(python: Path, *packages: str) -> None:
    """Install packages in the pinned versions."""
    options = ("--quiet", "--disable-pip-version-check", "--no-input", "--no-compile", "-c", ROOT / "constraints.txt")
    _ = run(python, "-m", "pip", "install", *options, *packages)


def smoke(python: Path, backends: Sequence[str]) -> str:
    """Run the smoke test outside of the checkout."""
    return run(python, "-I", SMOKE, *backends, folder=python.parent).strip()


def tried(wheel: Path, extra: str, python: str) -> str:
    """Install the wheel with an extra into an empty environment, and return what the smoke test says."""
    began = time.monotonic()
    made = environment(PLACE / (extra or "bare"), python)
    install(made, f"{wheel}[{extra}]" if extra else str(wheel))
    said = smoke(made, EXTRAS[extra])
    return f"{f'[{extra}]' if extra else 'no extra':10} {time.monotonic() - began:4.0f} s  {said}"


def main() -> None:
    """Build and try."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    _ = parser.add_argument("--python", default=sys.executable, help="the interpreter of the environments")
    _ = parser.add_argument("--extra", action="append", choices=EXTRAS, help="'' is none; all in turn if not given")
    chosen = parser.parse_args()
    wheel = build()
    print(f"{wheel.relative_to(ROOT)}, {wheel.stat().st_size / 1e6:.1f} MB", flush=True)
    # Installing waits for the disk and for one core; two at a time take little more than half as long.
    with ThreadPoolExecutor(2) as pool:
        for line in pool.map(lambda extra: tried(wheel, extra, chosen.python), chosen.extra or EXTRAS):
            print(line, flush=True)
    shutil.rmtree(PLACE)


if __name__ == "__main__":
    main()
