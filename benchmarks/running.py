"""Run a command of the benchmarks: from its options to written results.

whatever can be wrong with the call is found before the first minute is spent
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from attention._extras import require
from attention.spec.errors import UnknownName
from benchmarks import tables
from benchmarks.cases import PROGRAMS, Case
from benchmarks.measure import Tell, measure
from benchmarks.requirements import Requirement
from benchmarks.results import Peak, Results, Row, writable
from benchmarks.suites import CALL, COMPILE, DEFAULT, MODULE, SUITES, Suite, check_cases, find
from benchmarks.timing import CPU, WALL, Clock, pin

SIDES = ("torch", "jax")


@dataclass(frozen=True)
class Asked:
    """What `run` was asked for; an empty tuple means the default."""

    suites: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    widths: tuple[int, ...] = ()
    dtypes: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    implementations: tuple[str, ...] = ()
    sides: tuple[str, ...] = ()
    peers: bool = True
    memory: bool = False
    rounds: int = 7
    cpu_time: bool = False
    json: str = ""
    plots: str = ""


def run(asked: Asked, tell: Tell = lambda _: None) -> Results:
    """Return the results of suites, written as JSON and drawn.

    Args:
        asked: the call.
        tell: told of what is worked on.

    Raises:
        AttentionError: the call cannot be answered.
    """
    start = time.perf_counter()
    chosen = [find(name) for name in (SUITES if "all" in asked.suites else asked.suites or DEFAULT)]
    sides = _sides(asked.sides)
    for program in asked.programs:
        if program not in PROGRAMS:
            raise UnknownName(f"program {program!r} must be one of {', '.join(PROGRAMS)}")
    clock = _begin(cpu_time=asked.cpu_time)
    from benchmarks.implementations import implementations  # noqa: PLC0415 - frameworks make their threads when they are imported

    taking_part = implementations(sides, asked.implementations, peers=asked.peers)
    cases = {suite.name: _cases(suite, asked, sides) for suite in chosen}
    for suite in chosen:
        if suite.measures in (CALL, COMPILE):
            check_cases(cases[suite.name])
    _check_places(asked)
    peaks = _peaks(chosen, cases, sides, clock, tell)
    rows = [row for suite in chosen for row in _rows(suite, cases[suite.name], taking_part, asked, sides, clock, tell)]
    results = Results(tuple(rows), _settings(asked.rounds, clock, start, asked=asdict(asked)), _machine(sides), peaks)
    return _written(results, asked.json, asked.plots)


def _rows(
    suite: Suite, cases: Sequence[Case], implementations: Any, asked: Asked, sides: tuple[str, ...], clock: Clock, tell: Tell
) -> Iterator[Row]:
    """Yield the rows of a suite, by what it measures."""
    from benchmarks import modules, startup  # noqa: PLC0415 - as above

    if suite.measures == CALL:
        yield from measure(suite.name, cases, implementations, rounds=asked.rounds, clock=clock, memory=asked.memory, tell=tell)
    elif suite.measures == COMPILE:
        yield from startup.compiles(cases, implementations, min(asked.rounds, 3), tell)
    elif suite.measures == MODULE:
        for program in asked.programs or PROGRAMS:
            _ = tell(f"layers, {program}")
            yield from modules.enter(program, sides).run(asked.rounds, clock).values()
    else:
        yield from startup.imports(asked.rounds, (), tell)


def requirements(only: Sequence[str]) -> list[Requirement]:
    """Return the requirements of a slice that apply to this machine."""
    from benchmarks.machine import platform_of  # noqa: PLC0415
    from benchmarks.requirement_checks import select  # noqa: PLC0415

    return select(only, accelerator=platform_of("torch") != "cpu" or platform_of("jax") != "cpu")


def check_requirements(
    only: Sequence[str],
    rounds: int,
    json: str,
    tell: Tell = lambda _: None,
    *,
    cpu_time: bool = False,
    add: bool = False,
    done: Tell = lambda _: None,
) -> tuple[Results, Results]:
    """Return the checked requirements, and what was written as JSON: with `add` also the other requirements of the file.

    The file is written after each requirement, so that an interrupted run keeps its results.

    Args:
        only: beginnings of names.
        rounds: of every comparison.
        json: where the results go.
        tell: told of what is worked on.
        cpu_time: whether to pin the process and read its own time.
        add: whether to keep the other requirements of the file.
        done: told of each requirement that was measured, in a line.
    """
    start, clock = time.perf_counter(), _begin(cpu_time=cpu_time)
    known = Results.from_json(json) if add and Path(json).exists() else None
    writable(json)
    for side in SIDES:
        require(side, extra=side, wanted_by="benchmarks requirements")
    from benchmarks.comparisons import Comparisons  # noqa: PLC0415
    from benchmarks.requirement_checks import measured  # noqa: PLC0415

    comparisons, held = Comparisons(requirements(only), rounds, clock, tell), []
    found = written = Results((), {}, _machine(SIDES))
    for one in measured(comparisons):
        held.append(one.to_dict())
        settings = _settings(rounds, clock, start, asked={"only": list(only)})
        found = replace(found, rows=tuple(comparisons.rows), settings=settings, requirements=tuple(held))
        written = _written(known.joined(found) if known else found, json, "")
        _ = done(f"{one.requirement.name}: {one.said()}")
    return found, written


def table(results: Results, refusals: bool) -> Table:
    """Return the table of a run."""
    return tables.table(results, refusals=refusals)


def requirements_table(results: Results) -> Table:
    """Return the table of requirements."""
    return tables.requirements_table(results.requirements, results.settings)


def _begin(*, cpu_time: bool) -> Clock:
    """Return the clock, with the process pinned where its own time is read; what was compiled once is compiled again."""
    if cpu_time:
        _ = pin()
    import jax  # noqa: PLC0415 - after the process is pinned

    # Compile times are measured, and what was loaded from a disk was not compiled.
    jax.config.update("jax_enable_compilation_cache", False)
    return CPU if cpu_time else WALL


def _sides(asked: Sequence[str]) -> tuple[str, ...]:
    for side in asked:
        if side not in SIDES:
            raise UnknownName(f"side {side!r} must be one of {', '.join(SIDES)}")
    chosen = tuple(side for side in SIDES if not asked or side in asked)
    # The oracle's budget is taken by JAX, whatever is timed.
    for side in {*chosen, "jax"}:
        require(side, extra=side, wanted_by="benchmarks")
    return chosen


def _cases(suite: Suite, asked: Asked, sides: Sequence[str]) -> list[Case]:
    from benchmarks.machine import platform_of  # noqa: PLC0415

    kinds = {platform_of(side) for side in sides}
    device = "cpu" if kinds == {"cpu"} else next(iter(kinds - {"cpu"}))
    return list(suite.cases(device, asked.sizes, asked.dtypes, asked.widths, asked.programs))


def _check_places(asked: Asked) -> None:
    from benchmarks import plots  # noqa: PLC0415

    if asked.json:
        writable(asked.json)
    if asked.plots:
        plots.check_plots()
        for name in plots.NAMES:
            writable(f"{asked.plots}/{name}.png")


def _peaks(suites: Sequence[Suite], cases: Any, sides: Sequence[str], clock: Clock, tell: Tell) -> tuple[Peak, ...]:
    """Return the peaks of the dtypes that calls are timed in."""
    from benchmarks.peaks import peaks  # noqa: PLC0415

    dtypes = dict.fromkeys(case.dtype for suite in suites if suite.measures == CALL for case in cases[suite.name])
    _ = tell("peaks of this machine")
    return peaks(sides, dtypes, clock) if dtypes else ()


def _machine(sides: tuple[str, ...]) -> dict[str, Any]:
    from benchmarks.machine import machine  # noqa: PLC0415

    return machine(sides)


def _settings(rounds: int, clock: Clock, start: float, *, asked: Any) -> dict[str, Any]:
    return {"rounds": rounds, "clock": clock.name, "seconds": round(time.perf_counter() - start, 1), "asked": asked}


def _written(results: Results, json: str, plots: str) -> Results:
    if json:
        results.to_json(json)
    if plots:
        from benchmarks.plots import draw  # noqa: PLC0415

        _ = draw(results, plots)
    return results
