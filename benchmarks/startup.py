"""Time to import a backend and to compile a call.

import  = seconds of `import x` in a new interpreter                what a framework takes stands beside what its backend takes
compile = trace + lower + compile of a call, from nothing           neither a cache on disk nor one in memory helps
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from benchmarks.adapters import Implementation
from benchmarks.cases import Case
from benchmarks.measure import Tell, alone, enter
from benchmarks.programs import build
from benchmarks.results import COMPILE, IMPORT, TIMED, Row

IMPORTS: dict[str, tuple[str, bool]] = {
    "numpy": ("numpy", False),
    "attention": ("attention", True),
    "attention.spec": ("attention.spec", True),
    "torch": ("torch", False),
    "attention.torch_impl": ("attention.torch_impl", True),
    "jax and flax.nnx": ("jax, flax.nnx", False),
    "attention.jax_impl": ("attention.jax_impl", True),
}
"""What is imported, by the name in tables, and whether it is ours."""
NAME = "import"


def imports(rounds: int, wanted: Sequence[str] = (), tell: Tell = lambda _: None) -> Iterator[Row]:
    """Yield how long each import takes, in milliseconds, in turns.

    Args:
        rounds: how often.
        wanted: names of `IMPORTS`; all, if none.
        tell: told of what is worked on.
    """
    chosen = {name: said for name, said in IMPORTS.items() if not wanted or name in wanted}
    chosen = {
        name: said for name, said in chosen.items() if all(find_spec(m.strip().split(".")[0]) for m in said[0].split(","))
    }
    samples: dict[str, list[float]] = {name: [] for name in chosen}
    for n in range(rounds):
        for name, (modules, _) in chosen.items():
            _ = tell(f"import {modules}: {n + 1} of {rounds}")
            samples[name].append(_imported(modules))
    for name, (modules, ours) in chosen.items():
        yield Row("imports", {"import": modules}, NAME, name, "", ours, quantity=IMPORT, samples=samples[name])


def _imported(modules: str) -> float:
    """Return the milliseconds of an import in a new interpreter, the interpreter's own start not counted."""
    program = f"import time; start = time.perf_counter(); import {modules}; print((time.perf_counter() - start) * 1e3)"
    root = str(Path(__file__).parents[1])
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root, check=True)  # noqa: S603 - this interpreter, on the line above
    return float(ran.stdout.split()[-1])


def compiles(
    cases: Sequence[Case], implementations: Sequence[Implementation], rounds: int, tell: Tell = lambda _: None
) -> Iterator[Row]:
    """Yield how long it takes to compile each case, in milliseconds.

    Args:
        cases: the calls.
        implementations: who takes part; those that compile nothing are left out.
        rounds: how often each is compiled.
        tell: told of what is worked on.
    """
    # Torch's own compiler is asked only by those who are slow for that reason.
    compiled = [implementation for implementation in implementations if implementation.side == "jax" or implementation.slow]
    for case in cases:
        with alone(case):
            rows = enter("compile", case, compiled, tell).rows
            for implementation in compiled:
                row = rows[implementation.name]
                samples = _compiled(row, implementation, case, rounds) if row.status == TIMED else ()
                yield replace(row, quantity=COMPILE, samples=samples)


def _compiled(row: Row, implementation: Implementation, case: Case, rounds: int) -> tuple[float, ...]:
    """Return the milliseconds of the compilation that the row had, and of more of the same."""
    again = (build(implementation, case, 1).compile_ms for _ in range(rounds - 1))
    return tuple(took for took in (row.compile_ms, *again) if took is not None)
