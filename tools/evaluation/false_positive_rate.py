"""The false positive rate: how often the comparison rejects programs that are right.

    rate = failing draws / draws        at most p with 95 % confidence, where P(Binomial(draws, p) <= failing) = 5 %

Every draw is a random contract, shape, dtype and scale. Both backends run it, and it fails if any of their arrays does.

References:
    Clopper and Pearson, Biometrika 26, 1934. Where nothing fails the bound is 3 / draws, the rule of three.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import jax

from attention.parity.contracts import backends
from attention.parity.contracts.backends import Backend
from attention.parity.contracts.check import expect, judged
from attention.parity.numerics.comparison import Verdict
from attention.parity.results.report import Report, Row
from attention.spec.dtypes import numpy_dtype
from attention.spec.errors import OptionError
from tools.evaluation.random_calls import DTYPES, GROUP, drawn

MOST = 0.001
"""The promised bound of the false positive rate."""
CONFIDENCE = 0.95
KEPT = 10 * GROUP
"""Draws after which compilations are discarded."""


@dataclass(frozen=True)
class Margin:
    """The largest z of the arrays of one backend and dtype.

    Attributes:
        draws: how many there were.
        arrays: how many were compared.
        failing: how many of the arrays did not agree.
        rms: the largest root mean square of z.
        worst: the largest |z|.
    """

    draws: int = 0
    arrays: int = 0
    failing: int = 0
    rms: float = 0.0
    worst: float = 0.0

    def with_(self, found: Sequence[Verdict]) -> Margin:
        """Return the margin with one more draw."""
        return Margin(
            self.draws + 1,
            self.arrays + len(found),
            self.failing + sum(not verdict.agrees for verdict in found),
            max(self.rms, *(verdict.rms for verdict in found), 0.0),
            max(self.worst, *(verdict.worst for verdict in found), 0.0),
        )


@dataclass
class Tally:
    """The results of a range of draws.

    Attributes:
        seed: of the draws.
        draws: how many ran.
        failing: the rows of those that failed, by number.
        margins: by backend and dtype.
        seconds: that all of them took.
        last: the rows of the draw that ran last.
    """

    seed: int = 0
    draws: int = 0
    failing: dict[int, tuple[Row, ...]] = field(default_factory=dict[int, tuple[Row, ...]])
    margins: dict[tuple[str, str], Margin] = field(default_factory=dict[tuple[str, str], Margin])
    seconds: float = 0.0
    last: tuple[Row, ...] = ()

    def add(self, number: int, rows: Iterable[Row]) -> None:
        """Count a draw."""
        rows = self.last = tuple(rows)
        self.draws += 1
        for row in rows:
            place = (row.side, row.dtype)
            self.margins[place] = self.margins.get(place, Margin()).with_(row.verdicts)
        if not Report(rows).ok:
            self.failing[number] = rows

    @property
    def arrays(self) -> int:
        """How many arrays were compared."""
        return sum(margin.arrays for margin in self.margins.values())

    @property
    def rate(self) -> float:
        """The part of the draws that failed."""
        return len(self.failing) / self.draws if self.draws else math.nan

    @property
    def most(self) -> float:
        """The upper bound of the rate, with the confidence `CONFIDENCE`."""
        return upper_bound(len(self.failing), self.draws)

    @property
    def ok(self) -> bool:
        """Whether the rate is below `MOST` among these draws."""
        return self.rate < MOST

    def lines(self) -> Iterator[str]:
        """Yield the lines of a terminal: each backend and dtype, each failure with the command that repeats it, the rate."""
        yield f"{'side':12} {'dtype':9} {'draws':>6} {'arrays':>7} {'failing':>8} {'worst z rms':>12} {'max':>6}"
        for (side, dtype), m in sorted(self.margins.items()):
            yield f"{side:12} {dtype:9} {m.draws:6} {m.arrays:7} {m.failing:8} {m.rms:12.2f} {m.worst:6.1f}"
        for number, rows in self.failing.items():
            yield from _lines(rows)
            yield f"  again: python -m tools.evaluation false-alarms --seed {self.seed} --draw {number}"
        speed = self.seconds / self.draws if self.draws else math.nan
        yield f"{self.draws} draws of seed {self.seed}, {speed:.2f} s each; {self.arrays} arrays compared with the oracle"
        yield (
            f"{len(self.failing)} draws failed: {100 * self.rate:.3f} %,"
            f" at most {100 * self.most:.3f} % with {100 * CONFIDENCE:.0f} % confidence; promised: under {100 * MOST:g} %"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the tally as JSON-ready data."""
        failing = {number: [*_lines(rows)] for number, rows in self.failing.items()}
        # JSON has no infinity.
        margins = [
            {"side": side, "dtype": dtype, **{name: x if math.isfinite(x) else str(x) for name, x in vars(m).items()}}
            for (side, dtype), m in sorted(self.margins.items())
        ]
        counts = {"seed": self.seed, "draws": self.draws, "arrays": self.arrays, "seconds": round(self.seconds, 1)}
        rates = {"rate": self.rate, "upper bound": self.most, "confidence": CONFIDENCE}
        return {**counts, **rates, "failing": failing, "margins": margins}


def upper_bound(failing: int, draws: int) -> float:
    """Return the rate p at which so few failures have a chance of 5 %: Clopper and Pearson's one-sided bound.

    >>> round(upper_bound(0, 2000), 5), round(upper_bound(1, 2000), 5), upper_bound(3, 3)
    (0.0015, 0.00237, 1.0)
    """
    if failing >= draws:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(60):
        rate = (low + high) / 2
        so_few = math.fsum(math.exp(_log_binomial(k, draws, rate)) for k in range(failing + 1))
        low, high = (rate, high) if so_few > 1.0 - CONFIDENCE else (low, rate)
    return high


def _log_binomial(k: int, n: int, rate: float) -> float:
    """Return the logarithm of the chance of k failures in n: the coefficient alone would overflow."""
    coefficient = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return coefficient + k * math.log(rate) + (n - k) * math.log1p(-rate)


def check_draw(
    number: int, seed: int = 0, dtypes: tuple[str, ...] = DTYPES, programs: Sequence[Backend] = ()
) -> tuple[Row, ...]:
    """Return a row for each program on the draw of a number.

    Args:
        number: which draw.
        seed: of all draws.
        dtypes: from which that of each draw is drawn.
        programs: that run; both backends if empty.
    """
    probe, rows = drawn(number, seed, dtypes), list[Row]()
    budgets = cache(expect)
    facts = {"contract": repr(probe.contract), "mask": repr(probe.mask)}
    for side in programs or [backends.find(name) for name in backends.BACKENDS]:
        row = Row(type(probe.contract).__name__, probe.name, side.name, "", probe.dtype, facts=facts)
        try:
            ran = side.run(probe, "auto")
            found = judged(probe, ran, budgets)
            rows.append(Row(row.subject, row.probe, row.side, ran.kernel, row.dtype, found, facts=facts))
        # A backend that raises has failed this draw; the later draws still run.
        except Exception as error:  # noqa: BLE001
            failure = f"raised {type(error).__name__}: {error}"
            rows.append(Row(row.subject, row.probe, row.side, "", row.dtype, failure=failure, facts=facts))
    return tuple(rows)


def false_positives(
    draws: int = 2000,
    seed: int = 0,
    *,
    first: int = 0,
    dtypes: Sequence[str] = DTYPES,
    programs: Sequence[Backend] = (),
    progress: Callable[[Tally], object] = lambda _: None,
) -> Tally:
    """Return the tally of `draws` random draws, from number `first` on.

    Args:
        draws: how many, at least 1.
        seed: of all draws, an int >= 0.
        first: the number of the first one, >= 0, so that a long run can be made in parts.
        dtypes: from which that of each draw is drawn.
        programs: that run; both backends if empty.
        progress: called with the tally after each draw.

    Raises:
        OptionError: a number outside its range.
        UnknownName: no such dtype.
        MissingExtra: a framework is not installed.
    """
    for name, value, least in (("draws", draws, 1), ("seed", seed, 0), ("first", first, 0)):
        if value < least:
            raise OptionError(f"{name} {value} must be an int >= {least}")
    for dtype in dtypes:
        _ = numpy_dtype(dtype)
    tally, begun = Tally(seed), time.monotonic()
    for number in range(first, first + draws):
        tally.add(number, check_draw(number, seed, tuple(dtypes), programs))
        tally.seconds = time.monotonic() - begun
        _ = progress(tally)
        if (number + 1) % KEPT == 0:
            # Every form is compiled, and the compilations of a long run would fill the memory.
            jax.clear_caches()
    return tally


def _lines(rows: Iterable[Row]) -> Iterable[str]:
    """Yield a line for each failure."""
    for row in rows:
        if row.failure:
            yield f"{row}: {row.failure}"
        for verdict in row.verdicts:
            if not verdict.agrees:
                yield f"{row}: {verdict}"
