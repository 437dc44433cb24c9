"""Measure each quantity of a requirement, and decide whether the requirement is met.

    requirement -> measured, spread, met        from the comparisons of its cases, or from separate processes and layers

A requirement that could not be measured is not met; the note has the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from statistics import median

import numpy as np

from attention.spec.errors import UnknownName
from benchmarks import memory, modules, startup
from benchmarks import requirements as known
from benchmarks.accuracy import errors
from benchmarks.cases import FORWARD, Case
from benchmarks.comparisons import Checked, Comparisons
from benchmarks.implementations import find
from benchmarks.requirements import BEST, REQUIREMENTS, Requirement
from benchmarks.results import DIFFERS, TIMED, Row
from benchmarks.timing import quartiles, ratios


def measured(run: Comparisons) -> Iterator[Checked]:
    """Yield every requirement of a run with its measurement; `run.rows` then has every time."""
    for requirement in run.requirements:
        yield MEASURES[requirement.quantity](run, requirement)


def select(only: Sequence[str], *, accelerator: bool) -> list[Requirement]:
    """Return the requirements whose names begin so: "3.window" also means "3.window.fwd.torch", but "1" not "10".

    Args:
        only: beginnings of names; all, if none.
        accelerator: whether there is one; its requirements are group 9, all others are a CPU's.

    Raises:
        UnknownName: no requirement begins so.
    """
    here = [requirement for requirement in REQUIREMENTS if requirement.name.startswith(f"{known.ACCELERATOR}.") == accelerator]
    if not only:
        return here
    for part in only:
        if not any(_begins(requirement.name, part) for requirement in REQUIREMENTS):
            firsts = dict.fromkeys(".".join(requirement.name.split(".")[:2]) for requirement in REQUIREMENTS)
            raise UnknownName(f"requirement {part!r} must begin one of {', '.join(firsts)}")
    return [requirement for requirement in REQUIREMENTS if any(_begins(requirement.name, part) for part in only)]


def _begins(name: str, part: str) -> bool:
    return f"{name}.".startswith(f"{part.rstrip('.')}.")


def _absent(requirement: Requirement, *rows: Row) -> Checked | None:
    """Return why a requirement has no number, if one of its rows has no time."""
    for row in rows:
        if not row.samples:
            return Checked(requirement, note=f"{row.implementation} {row.status}: {row.note}")
    return None


def _marked(rows: Sequence[Row]) -> str:
    return "; ".join(f"{row.implementation} differs: {row.note}" for row in rows if row.status == DIFFERS)


def _ratio(run: Comparisons, requirement: Requirement) -> Checked:
    rows = run.comparison(requirement.cases[0])
    against = requirement.against
    if against == BEST:
        timed = [row for row in rows.values() if not row.ours and row.status == TIMED and row.time]
        if not timed:
            return Checked(requirement, note="no peer could be timed")
        against = min(timed, key=lambda row: row.time or math.inf).implementation
    ours, theirs = rows[requirement.implementation], rows[against]
    if absent := _absent(requirement, ours, theirs):
        return absent
    above, below = (theirs, ours) if requirement.least else (ours, theirs)
    if requirement.quantity == known.FRACTION:
        # Rates, not times: the operations of each over its own time.
        found = [theirs.samples[i] * ours.flops / (ours.samples[i] * theirs.flops) for i in range(len(ours.samples))]
    else:
        found = ratios(above.samples, below.samples)
    low, middle, high = quartiles(found)
    note = "; ".join(filter(None, (_marked([ours, theirs]), f"against {against}" if requirement.against == BEST else "")))
    return Checked(requirement, middle, (low, high), note)


def slope(lengths: Sequence[int], values: Sequence[float]) -> float:
    """Return the exponent p of the power law values = c * lengths ** p that fits best.

    >>> round(slope([1, 2, 4], [3.0, 12.0, 48.0]), 6)
    2.0
    """
    return float(np.polyfit(np.log(lengths), np.log(values), 1)[0])


def _growth(run: Comparisons, requirement: Requirement) -> Checked:
    rows = [run.comparison(case)[requirement.implementation] for case in requirement.cases]
    if absent := _absent(requirement, *rows):
        return absent
    times = [row.time or math.inf for row in rows]
    said = ", ".join(f"{case.mask} {case.S}: {t:.3g} ms" for case, t in zip(requirement.cases, times, strict=True))
    if len({case.S for case in requirement.cases}) == 1:
        # Two masks of one length: what the first costs of the second.
        return Checked(requirement, median(ratios(rows[0].samples, rows[1].samples)), None, said)
    return Checked(requirement, slope([case.S for case in requirement.cases], times), None, said)


def _used(run: Comparisons, case: Case, implementation: str) -> memory.Used:
    _ = run.tell(f"{case.name}: memory of {implementation}")
    return memory.measure(case, implementation)


def _memory(run: Comparisons, requirement: Requirement) -> Checked:
    ours, theirs = (_used(run, requirement.cases[0], name) for name in (requirement.implementation, requirement.against))
    for name, used in ((requirement.implementation, ours), (requirement.against, theirs)):
        if not used.extra:
            return Checked(requirement, note=f"{name}: {used.note}")
    assert ours.extra and theirs.extra  # noqa: S101, PT018 - the loop above has seen to it
    return Checked(requirement, theirs.extra / ours.extra, None, f"{theirs.extra / 1e6:.0f} MB / {ours.extra / 1e6:.1f} MB")


def _swell(run: Comparisons, requirement: Requirement) -> Checked:
    sizes: list[int] = []
    for case in requirement.cases:
        used = _used(run, case, requirement.implementation)
        if not used.extra:
            return Checked(requirement, note=f"S {case.S}: {used.note or 'nothing measurable'}")
        sizes.append(used.extra)
    return Checked(
        requirement,
        slope([case.S for case in requirement.cases], sizes),
        None,
        ", ".join(f"{n / 1e6:.1f}" for n in sizes) + " MB",
    )


def _runs(run: Comparisons, requirement: Requirement) -> Checked:
    used = _used(run, requirement.cases[0], requirement.implementation)
    if used.extra is None:
        return Checked(requirement, note=used.note)
    return Checked(requirement, 1.0, None, f"{used.seconds or 0:.0f} s, {used.extra / 1e6:.0f} MB")


def _rms(run: Comparisons, requirement: Requirement) -> Checked:
    _ = run.tell(f"{requirement.cases[0].name}: errors of {requirement.implementation} and {requirement.against}")
    ours, theirs = errors(requirement.cases[0], (requirement.implementation, requirement.against))
    name, worst = max(((name, ours[name] / theirs[name]) for name in ours), key=lambda pair: pair[1])
    return Checked(requirement, worst, None, f"of {name}: {ours[name]:.2e} / {theirs[name]:.2e}")


def _seconds(run: Comparisons, requirement: Requirement) -> Checked:
    (row,) = startup.compiles(requirement.cases, [find(requirement.implementation)], 3, run.tell)
    run.rows.append(row)
    if absent := _absent(requirement, row):
        return absent
    low, middle, high = (x / 1e3 for x in quartiles(row.samples))
    return Checked(requirement, middle, (low, high), f"the first {row.samples[0] / 1e3:.2f} s")


def _beside(run: Comparisons, requirement: Requirement) -> Checked:
    rows = {
        row.implementation: row
        for row in startup.imports(run.rounds, (requirement.against, requirement.implementation), run.tell)
    }
    run.rows += rows.values()
    more = [a - b for a, b in zip(rows[requirement.implementation].samples, rows[requirement.against].samples, strict=True)]
    low, middle, high = quartiles(more)
    return Checked(requirement, middle, (low, high), f"{rows[requirement.against].time:.0f} ms of {requirement.against}")


def _layer(run: Comparisons, requirement: Requirement) -> Checked:
    side = requirement.implementation.partition(" ")[0]
    rows = modules.enter(FORWARD, (side,), (requirement.implementation, requirement.against)).run(run.rounds, run.clock)
    run.rows += rows.values()
    ours, theirs = rows[requirement.implementation], rows[requirement.against]
    if absent := _absent(requirement, ours, theirs):
        return absent
    above, below = (theirs, ours) if requirement.least else (ours, theirs)
    low, middle, high = quartiles(ratios(above.samples, below.samples))
    return Checked(requirement, middle, (low, high), f"{ours.time:.3f} ms, {theirs.time:.3f} ms")


MEASURES: dict[str, Callable[[Comparisons, Requirement], Checked]] = {
    **dict.fromkeys((known.RATIO, known.SPEEDUP, known.FRACTION), _ratio),
    known.GROWTH: _growth,
    known.MEMORY: _memory,
    known.SWELL: _swell,
    known.RUNS: _runs,
    known.RMS: _rms,
    known.SECONDS: _seconds,
    known.BESIDE: _beside,
    known.LAYER: _layer,
}
