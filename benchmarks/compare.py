"""Compare two benchmark runs: which implementations became slower or take more memory.

    ratio = median(B) / median(A)                spread = [q1(B) / q3(A), q3(B) / q1(A)]
    worse <=> ratio > threshold and the spread lies above 1            better <=> ratio < 1 / threshold and it lies below
    drift = median ratio of the peers            what the machine did, and not this project

Runs are not interleaved with one another, so a machine that drifts moves all of them; peers show by how much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from rich.table import Table

from attention.spec.errors import OptionError
from benchmarks.results import REFUSED, TIMED, WRONG, Results, Row
from benchmarks.timing import quartiles

SAME, WORSE, BETTER, LOST = "same", "worse", "better", "lost"


@dataclass(frozen=True)
class Change:
    """One row of two runs.

    Attributes:
        name: of the case.
        implementation: whose row it is.
        ours: whether it is this project's.
        quantity: "time", "compile", "import" or "memory".
        before: the median of the first run, in ms or bytes; None where it has none.
        after: the second's.
        ratio: after / before, freed of drift if that was asked for.
        spread: of the ratio.
        verdict: `SAME`, `WORSE`, `BETTER`, or `LOST`: it was right, and is so no more.
    """

    name: str
    implementation: str
    ours: bool
    quantity: str
    before: float | None
    after: float | None
    ratio: float | None
    spread: tuple[float, float] | None
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """Two runs, row by row.

    Attributes:
        changes: rows that both have, or that were lost.
        drift: median ratio of the peers' times; 1 where there are none.
        threshold: above which a ratio is a regression.
    """

    changes: tuple[Change, ...]
    drift: float
    threshold: float

    @property
    def regressions(self) -> tuple[Change, ...]:
        """What of ours has become worse, or was lost."""
        return tuple(change for change in self.changes if change.ours and change.verdict in (WORSE, LOST))

    def table(self) -> Table:
        """Return what changed; rows that stayed the same are counted."""
        same = sum(change.verdict == SAME for change in self.changes)
        caption = f"{same} rows within {self.threshold:g} or their spread; the peers' times moved by {self.drift:.3f}"
        said = Table(caption=caption, caption_justify="left")
        for heading in ("case", "implementation", "quantity", "before", "after", "ratio", "spread", ""):
            said.add_column(heading, overflow="fold")
        for change in sorted(self.changes, key=lambda c: -(c.ratio or 1e9)):
            if change.verdict != SAME:
                before, after = ("-" if x is None else f"{x:.4g}" for x in (change.before, change.after))
                spread = "-" if change.spread is None else "{:.2f} - {:.2f}".format(*change.spread)
                ratio = "-" if change.ratio is None else f"{change.ratio:.2f}"
                mark = change.verdict if change.ours else f"{change.verdict} (peer)"
                said.add_row(change.name, change.implementation, change.quantity, before, after, ratio, spread, mark)
        return said


def compare(before: Results, after: Results, threshold: float = 1.1, *, drift: bool = False) -> Comparison:
    """Return how the second run differs from the first.

    Args:
        before: the run that is the measure.
        after: the run in question.
        threshold: above which a ratio is a regression.
        drift: whether to divide times by what the peers moved.

    Raises:
        OptionError: a threshold below 1, clocks that differ, or no row in common.
    """
    if threshold < 1:
        raise OptionError(f"threshold {threshold:g} must be >= 1")
    clocks = [results.settings.get("clock") for results in (before, after)]
    if clocks[0] != clocks[1]:
        raise OptionError(f"clock {clocks[1]!r} of the second run must be {clocks[0]!r} as the first's is")
    old = {row.key: row for row in before.rows}
    pairs = [(old[row.key], row) for row in after.rows if row.key in old]
    if not pairs:
        raise OptionError("runs must have a case and an implementation in common")
    moved = [b.time / a.time for a, b in pairs if not a.ours and a.time and b.time]
    factor = median(moved) if moved else 1.0
    changes = [change for a, b in pairs for change in _changes(a, b, threshold, factor if drift else 1.0)]
    return Comparison(tuple(changes), factor, threshold)


def _changes(a: Row, b: Row, threshold: float, drift: float) -> Sequence[Change]:
    found: list[Change] = []
    if a.time and b.time:
        low, middle, high = _spread(a, b, drift)
        found.append(_change(a, a.quantity, a.time, b.time, middle, (low, high), threshold))
    elif a.status == TIMED and b.status in (REFUSED, WRONG):
        found.append(Change(a.name, a.implementation, a.ours, a.quantity, a.time, None, None, None, LOST))
    if a.memory_bytes and b.memory_bytes:
        ratio = b.memory_bytes / a.memory_bytes
        found.append(_change(a, "memory", a.memory_bytes, b.memory_bytes, ratio, (ratio, ratio), threshold))
    return found


def _spread(a: Row, b: Row, drift: float) -> tuple[float, float, float]:
    """Return the lower end, the median and the upper end of b / a."""
    (a1, a2, a3), (b1, b2, b3) = quartiles(a.samples), quartiles(b.samples)
    return b1 / a3 / drift, b2 / a2 / drift, b3 / a1 / drift


def _change(
    row: Row, quantity: str, before: float, after: float, ratio: float, spread: tuple[float, float], threshold: float
) -> Change:
    worse, better = ratio > threshold and spread[0] > 1, ratio < 1 / threshold and spread[1] < 1
    verdict = WORSE if worse else BETTER if better else SAME
    return Change(row.name, row.implementation, row.ours, quantity, before, after, ratio, spread, verdict)
