"""Whether it holds: how each quantity of a bound is measured.

    bound -> measured, spread, met        from the contests of its cases, or from processes and layers of its own

Run it in slices (`only`): the whole takes long. What could not be measured is not met, and the note says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from statistics import median

import numpy as np

from attention.spec.errors import UnknownName
from benchmarks import bounds as known
from benchmarks import memory, modules, startup
from benchmarks.accuracy import errors
from benchmarks.bounds import BEST, BOUNDS, Bound
from benchmarks.cases import FORWARD, Case
from benchmarks.contests import Contests, Held
from benchmarks.entrants import find
from benchmarks.results import DIFFERS, TIMED, Row
from benchmarks.timing import quartiles, ratios


def measured(run: Contests) -> Iterator[Held]:
    """Yield every bound of a run with what was measured; `run.rows` then holds every time behind it."""
    for bound in run.bounds:
        yield MEASURES[bound.quantity](run, bound)


def select(only: Sequence[str], *, accelerator: bool) -> list[Bound]:
    """Return the bounds whose names begin so: "3.window" also means "3.window.fwd.torch", but "1" not "10".

    Args:
        only: beginnings of names; all, if none.
        accelerator: whether there is one; its bounds are group 9, all others are a CPU's.

    Raises:
        UnknownName: no bound begins so.
    """
    here = [bound for bound in BOUNDS if bound.name.startswith(f"{known.ACCELERATOR}.") == accelerator]
    if not only:
        return here
    for part in only:
        if not any(_begins(bound.name, part) for bound in BOUNDS):
            firsts = dict.fromkeys(".".join(bound.name.split(".")[:2]) for bound in BOUNDS)
            raise UnknownName(f"bound {part!r} must begin one of {', '.join(firsts)}")
    return [bound for bound in BOUNDS if any(_begins(bound.name, part) for part in only)]


def _begins(name: str, part: str) -> bool:
    return f"{name}.".startswith(f"{part.rstrip('.')}.")


def _absent(bound: Bound, *rows: Row) -> Held | None:
    """Return why a bound has no number, if one of its rows has no time."""
    for row in rows:
        if not row.samples:
            return Held(bound, note=f"{row.entrant} {row.status}: {row.note}")
    return None


def _marked(rows: Sequence[Row]) -> str:
    return "; ".join(f"{row.entrant} differs: {row.note}" for row in rows if row.status == DIFFERS)


def _ratio(run: Contests, bound: Bound) -> Held:
    rows = run.contest(bound.cases[0])
    against = bound.against
    if against == BEST:
        timed = [row for row in rows.values() if not row.ours and row.status == TIMED and row.time]
        if not timed:
            return Held(bound, note="no peer could be timed")
        against = min(timed, key=lambda row: row.time or math.inf).entrant
    ours, theirs = rows[bound.entrant], rows[against]
    if held := _absent(bound, ours, theirs):
        return held
    above, below = (theirs, ours) if bound.least else (ours, theirs)
    if bound.quantity == known.FRACTION:
        # Rates, not times: the operations of each over its own time.
        found = [theirs.samples[i] * ours.flops / (ours.samples[i] * theirs.flops) for i in range(len(ours.samples))]
    else:
        found = ratios(above.samples, below.samples)
    low, middle, high = quartiles(found)
    note = "; ".join(filter(None, (_marked([ours, theirs]), f"against {against}" if bound.against == BEST else "")))
    return Held(bound, middle, (low, high), note)


def slope(lengths: Sequence[int], values: Sequence[float]) -> float:
    """Return the exponent p of the power law values = c * lengths ** p that fits best.

    >>> round(slope([1, 2, 4], [3.0, 12.0, 48.0]), 6)
    2.0
    """
    return float(np.polyfit(np.log(lengths), np.log(values), 1)[0])


def _growth(run: Contests, bound: Bound) -> Held:
    rows = [run.contest(case)[bound.entrant] for case in bound.cases]
    if held := _absent(bound, *rows):
        return held
    times = [row.time or math.inf for row in rows]
    said = ", ".join(f"{case.mask} {case.S}: {t:.3g} ms" for case, t in zip(bound.cases, times, strict=True))
    if len({case.S for case in bound.cases}) == 1:
        # Two masks of one length: what the first costs of the second.
        return Held(bound, median(ratios(rows[0].samples, rows[1].samples)), None, said)
    return Held(bound, slope([case.S for case in bound.cases], times), None, said)


def _used(run: Contests, case: Case, entrant: str) -> memory.Used:
    _ = run.tell(f"{case.name}: memory of {entrant}")
    return memory.measure(case, entrant)


def _memory(run: Contests, bound: Bound) -> Held:
    ours, theirs = (_used(run, bound.cases[0], name) for name in (bound.entrant, bound.against))
    for name, used in ((bound.entrant, ours), (bound.against, theirs)):
        if not used.extra:
            return Held(bound, note=f"{name}: {used.note}")
    assert ours.extra and theirs.extra  # noqa: S101, PT018 - the loop above has seen to it
    return Held(bound, theirs.extra / ours.extra, None, f"{theirs.extra / 1e6:.0f} MB / {ours.extra / 1e6:.1f} MB")


def _swell(run: Contests, bound: Bound) -> Held:
    sizes: list[int] = []
    for case in bound.cases:
        used = _used(run, case, bound.entrant)
        if not used.extra:
            return Held(bound, note=f"S {case.S}: {used.note or 'nothing measurable'}")
        sizes.append(used.extra)
    return Held(bound, slope([case.S for case in bound.cases], sizes), None, ", ".join(f"{n / 1e6:.1f}" for n in sizes) + " MB")


def _runs(run: Contests, bound: Bound) -> Held:
    used = _used(run, bound.cases[0], bound.entrant)
    if used.extra is None:
        return Held(bound, note=used.note)
    return Held(bound, 1.0, None, f"{used.seconds or 0:.0f} s, {used.extra / 1e6:.0f} MB")


def _rms(run: Contests, bound: Bound) -> Held:
    _ = run.tell(f"{bound.cases[0].name}: errors of {bound.entrant} and {bound.against}")
    ours, theirs = errors(bound.cases[0], (bound.entrant, bound.against))
    name, worst = max(((name, ours[name] / theirs[name]) for name in ours), key=lambda pair: pair[1])
    return Held(bound, worst, None, f"of {name}: {ours[name]:.2e} / {theirs[name]:.2e}")


def _seconds(run: Contests, bound: Bound) -> Held:
    (row,) = startup.compiles(bound.cases, [find(bound.entrant)], 3, run.tell)
    run.rows.append(row)
    if held := _absent(bound, row):
        return held
    low, middle, high = (x / 1e3 for x in quartiles(row.samples))
    return Held(bound, middle, (low, high), f"the first {row.samples[0] / 1e3:.2f} s")


def _beside(run: Contests, bound: Bound) -> Held:
    rows = {row.entrant: row for row in startup.imports(run.rounds, (bound.against, bound.entrant), run.tell)}
    run.rows += rows.values()
    more = [a - b for a, b in zip(rows[bound.entrant].samples, rows[bound.against].samples, strict=True)]
    low, middle, high = quartiles(more)
    return Held(bound, middle, (low, high), f"{rows[bound.against].time:.0f} ms of {bound.against}")


def _layer(run: Contests, bound: Bound) -> Held:
    side = bound.entrant.partition(" ")[0]
    rows = modules.enter(FORWARD, (side,), (bound.entrant, bound.against)).run(run.rounds, run.clock)
    run.rows += rows.values()
    ours, theirs = rows[bound.entrant], rows[bound.against]
    if held := _absent(bound, ours, theirs):
        return held
    above, below = (theirs, ours) if bound.least else (ours, theirs)
    low, middle, high = quartiles(ratios(above.samples, below.samples))
    return Held(bound, middle, (low, high), f"{ours.time:.3f} ms, {theirs.time:.3f} ms")


MEASURES: dict[str, Callable[[Contests, Bound], Held]] = {
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
