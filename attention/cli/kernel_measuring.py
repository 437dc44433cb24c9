"""Timing of kernels: the evidence of the rules of "auto", and tile sizes for this machine.

    ratio[kernel] = median over rounds of time[kernel] / time[first kernel], both in the same round

Kernels take turns on the same inputs in one process. Where one core is all there is (`taskset -c 0 attention kernels measure
...`) the clock is the processor time of this process, which other programs hardly disturb; else it is the wall's. Compilation
comes before and is not counted. A kernel that is far behind at one size is not timed at the next.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.util import find_spec
from math import inf
from pathlib import Path
from statistics import median
from typing import Any

from attention.cli.kernel_calls import MASKS, Case, Program, accelerator, programs, tiled
from attention.spec.errors import FileError, KernelRefused, OptionError
from attention.spec.kernels.auto_rules import STRUCTURES
from attention.spec.kernels.tuning import VARIABLE, Key, Tile, device_name, place, tuned, versions
from attention.spec.storage.disk import read_json

Echo = Callable[[str], Any]

FORMAT = {"format": "attention rules", "version": 2, "unit": "ms"}
SIZES = (64, 128, 256, 512, 1024, 2048, 4096)
DTYPES = ("float32", "bfloat16")
ROUNDS, LEAST = 7, 3
"""Rounds at most, and at least."""
SECONDS, SAMPLE = 4.0, 0.004
"""Seconds after which a call is not timed again, and those that one sample of it takes at least."""
BEHIND = 5.0
"""How many times slower than the fastest is far behind."""

FEW = {"decode": 1, "cache": 1, "few": 8}
"""The queries of those calls that have few."""

TILES: dict[tuple[str, str], tuple[Tile, ...]] = {
    ("torch", "blockwise"): ((64, 64), (128, 128), (256, 256), (512, 512)),
    ("jax", "blockwise"): ((256, 256), (256, 512), (512, 512), (512, 1024), (1024, 512)),
}
"""What is tried, by backend and kernel."""
TUNED, WIDTHS = 2048, (64, 128)
"""The T = S at which tiles are tuned, and for which D."""


def measure(
    path: str, backends: Sequence[str], dtype: str | None, entry: str | None, sizes: tuple[int, int] | None, echo: Echo
) -> None:
    """Time kernels and write the file, beside the rows that it holds already of other calls on this machine.

    Args:
        path: of the file.
        backends: "torch", "jax".
        dtype: None: those of `DTYPES`.
        entry: one of `MASKS`; None: all.
        sizes: the least and the most S; None: those of `SIZES`.
        echo: called with a line for each call.

    Raises:
        OptionError: no such entry.
        FileError: the file cannot be written, is not ours, or is of another machine.
    """
    if entry is not None and entry not in MASKS:
        raise OptionError(f"--mask {entry!r} must be one of {', '.join(MASKS)} to be measured")
    kept = Kept.read(Path(path), [backend for backend in backends if find_spec(backend)])
    least, most = sizes or (SIZES[0], SIZES[-1])
    for backend in kept.backends:
        for series in _series(backend, dtype, entry, [size for size in SIZES if least <= size <= most]):
            behind = set[str]()
            for case in series:
                row = timed(case, behind)
                behind |= {name for name, ratio in row["ratio"].items() if ratio > BEHIND * min(row["ratio"].values())}
                kept.put(row)
                shown = "  ".join(f"{name} {ms:.3g} ms" for name, ms in row["ms"].items())
                echo(f"{backend:6} {case.entry:9} {case.program:8} {case.dtype:8} T {case.T} S {case.S}: {shown}")
            kept.write()


def _series(backend: str, dtype: str | None, entry: str | None, sizes: Sequence[int]) -> Iterator[list[Case]]:
    """Yield, for each kind of call, the cases that differ in size alone, the smallest first."""
    for kind in DTYPES if dtype is None else (dtype,):
        for name in MASKS if entry is None else (entry,):
            if name in FEW:
                yield [Case(backend, name, "forward", kind, FEW[name], size, H=32, K=8, D=128) for size in sizes]
                continue
            rows = {"B": 4, "H": 4, "K": 4} if name == "lengths" else {}
            for program in ("forward", "gradient"):
                yield [Case(backend, name, program, kind, size, size, **rows) for size in sizes]


def timed(case: Case, skip: set[str]) -> dict[str, Any]:
    """Return the row of a case: times and ratios by kernel, and why others have none."""
    ready, refusals = programs(case, skip)
    samples = interleaved(ready)
    first = next(iter(samples.values()), [])
    ratio = {name: median(mine / base for mine, base in zip(own, first, strict=True)) for name, own in samples.items()}
    ms = {name: median(own) * 1e3 for name, own in samples.items()}
    times, ratios = ({name: float(f"{x:.4g}") for name, x in numbers.items()} for numbers in (ms, ratio))
    return {**asdict(case), "ms": times, "ratio": ratios, "rounds": len(first), "refusals": refusals}


def interleaved(ready: dict[str, Program]) -> dict[str, list[float]]:
    """Return the seconds of every program in every round; every other round goes backwards."""
    clock = time.process_time if one_core() else time.perf_counter
    repeats = {name: _repeats(program, clock) for name, program in ready.items()}
    samples: dict[str, list[float]] = {name: [] for name in ready}
    start = time.perf_counter()
    for i in range(ROUNDS):
        if i >= LEAST and time.perf_counter() - start > SECONDS:
            break
        for name in list(ready)[:: -1 if i % 2 else 1]:
            samples[name].append(_seconds(ready[name], repeats[name], clock))
    return samples


def _repeats(program: Program, clock: Callable[[], float]) -> int:
    """Return how many calls make a sample, having called the program until it is compiled and warm."""
    _ = program()
    return max(1, round(SAMPLE / max(1e-6, _seconds(program, 1, clock))))


def _seconds(program: Program, repeats: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(repeats):
        _ = program()
    return (clock() - start) / repeats


def one_core() -> bool:
    """Return whether one core is all that this process may use, and all that its arrays are worked on by."""
    pinned = hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) == 1
    return pinned and all(accelerator(backend) == device_name("cpu") for backend in ("torch", "jax") if find_spec(backend))


@dataclass
class Kept:
    """The file of measurements: what it was measured on, and a row for each case.

    Attributes:
        path: of the file.
        backends: those that are measured now.
        machine: for each backend, device and versions.
        rows: by case.
    """

    path: Path
    backends: Sequence[str]
    machine: dict[str, Any]
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, backends: Sequence[str]) -> Kept:
        """Return what a file holds, if that was measured here; where there is none, nothing.

        Raises:
            FileError: the file is not ours, or is of another machine.
        """
        here = {backend: {"device": accelerator(backend), "versions": versions(f"{backend}.")} for backend in backends}
        if not path.exists():
            return cls(path, backends, here)
        try:
            content: Any = read_json(path, "JSON")
            rows, there = content["rows"], dict(content["machine"])
            if {name: content.get(name) for name in FORMAT} != FORMAT:
                raise FileError(f"path {str(path)!r} must have header {FORMAT}")
            kept = {_key(row): row for row in rows}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FileError(f"path {str(path)!r} must be what 'attention kernels measure' writes: {error}") from error
        other = [backend for backend in backends if backend in there and there[backend] != here[backend]]
        if other:
            raise FileError(f"path {str(path)!r} holds rows of {there[other[0]]}, not of {here[other[0]]}: name another file")
        return cls(path, backends, {**there, **here}, kept)

    def put(self, row: dict[str, Any]) -> None:
        """Keep a row in place of what was known of its case."""
        self.rows[_key(row)] = row

    def write(self) -> None:
        """Write the file, whole at every moment.

        Raises:
            FileError: it cannot be written.
        """
        lines = ",\n".join("  " + json.dumps(row) for _, row in sorted(self.rows.items()))
        head = json.dumps({**FORMAT, "clock": "processor" if one_core() else "wall", "machine": self.machine}, indent=1)
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _ = partial.write_text(f'{head[:-2]},\n "rows": [\n{lines}\n ]\n}}\n', encoding="utf-8")
            _ = partial.replace(self.path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise FileError(f"path {str(self.path)!r} must be writable: {error}") from error


def _key(row: dict[str, Any]) -> str:
    """Return the text by which the rows of a file are told apart and sorted."""
    words = (row[name] for name in ("backend", "entry", "program", "dtype"))
    sizes = (f"{row[name]:>6}" for name in ("S", "T", "B", "H", "K", "D"))
    return " ".join((*words, *sizes))


def tune(backends: Sequence[str], dtype: str | None, entry: str | None, echo: Echo) -> None:
    """Measure the tiles of kernels that let them be chosen, forward and backward, and keep the fastest for this machine.

    Args:
        backends: "torch", "jax".
        dtype: None: those of `DTYPES`.
        entry: one of `MASKS` that is a structure; None: all.
        echo: called with a line for each tile that is kept.

    Raises:
        OptionError: no such entry, or `ATTENTION_TUNING` is "off".
        FileError: the file cannot be written.
    """
    masks = [name for name in MASKS if name in STRUCTURES]
    if entry is not None and entry not in masks:
        raise OptionError(f"--mask {entry!r} must be one of {', '.join(masks)} for tiles to be tuned")
    path = place(os.environ.get(VARIABLE))
    if path is None:
        raise OptionError(f"{VARIABLE} 'off' must be a path, or unset, for tiles to be kept")
    for backend in (name for name in backends if find_spec(name)):
        for (own, kernel), mask in itertools.product(TILES, masks if entry is None else (entry,)):
            for kind, width in itertools.product(DTYPES if dtype is None else (dtype,), WIDTHS) if own == backend else ():
                key = Key(f"{backend}.{kernel}", accelerator(backend), kind, width, mask)
                case = Case(backend, mask, "gradient", kind, TUNED, TUNED, D=width)
                tile = tuned(key, TILES[own, kernel], _by_turns(case, kernel, TILES[own, kernel]), path)
                echo(f"{key}: {tile[0]} x {tile[1]}")
    echo(f"kept in {path}")


def _by_turns(case: Case, kernel: str, tiles: Sequence[Tile]) -> Callable[[Tile], float]:
    """Return a function that gives the seconds of a call by its tile; all take turns when it is first asked."""

    @cache
    def times() -> dict[str, float]:
        ready: dict[str, Program] = {}
        for tile in tiles:
            with suppress(KernelRefused):
                ready[str(tile)] = tiled(case, kernel, tile)
        return {name: median(samples) for name, samples in interleaved(ready).items()}

    return lambda tile: times().get(str(tile), inf)
