"""Contests: the calls behind the bounds, each measured once for all the bounds that ask about it.

for each case:  the entrants of its bounds take turns, >= 5 rounds        met <=> the median is on the limit's right side
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from benchmarks import bounds as known
from benchmarks.bounds import BEST, Bound
from benchmarks.cases import Case
from benchmarks.entrants import PEERS, find, missing
from benchmarks.measure import Tell, alone, enter
from benchmarks.peaks import gemm
from benchmarks.results import Row
from benchmarks.timing import Clock

TIMES = (known.RATIO, known.SPEEDUP, known.GROWTH, known.FRACTION)
"""Quantities that are measured in contests."""


@dataclass(frozen=True)
class Held:
    """A bound and what was found.

    Attributes:
        bound: what must hold.
        measured: the quantity, or None.
        spread: its quartiles over the rounds, where it has them.
        note: why there is no number, or what to know of it.
    """

    bound: Bound
    measured: float | None = None
    spread: tuple[float, float] | None = None
    note: str = ""

    @property
    def met(self) -> bool:
        """Whether it holds; what was not measured does not."""
        if self.measured is None:
            return False
        return self.measured >= self.bound.limit if self.bound.least else self.measured <= self.bound.limit

    def said(self) -> str:
        """Return limit, number and verdict in a line."""
        number = "not measured" if self.measured is None else f"{self.measured:.3g}"
        limit = f"{'>=' if self.bound.least else '<='} {self.bound.limit:.3g}"
        return f"{number}, wanted {limit}: {'met' if self.met else 'NOT MET'}{f' ({self.note})' if self.note else ''}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready data."""
        b = self.bound
        said = {"name": b.name, "what": b.what, "quantity": b.quantity, "entrant": b.entrant, "against": b.against}
        sense = "least" if b.least else "most"
        found = {"limit": b.limit, "sense": sense, "measured": self.measured, "spread": self.spread, "met": self.met}
        return {**said, **found, "cases": [asdict(case) for case in b.cases], "note": self.note}


@dataclass
class Contests:
    """The contests of a run over bounds: who is named for one case by any of them takes part in one.

    Args:
        bounds: what is asked.
        rounds: of every contest.
        clock: `WALL` or `CPU`.
        tell: told of what is worked on.
    """

    bounds: Sequence[Bound]
    rounds: int
    clock: Clock
    tell: Tell = lambda _: None
    rows: list[Row] = field(default_factory=list)

    @cached_property
    def contests(self) -> dict[Case, dict[str, Row]]:
        """Rows by case, filled as they are asked for: see `contest`."""
        return {}

    def contest(self, case: Case) -> dict[str, Row]:
        """Return the rows of a case, with everybody whom some bound names for it."""
        if case in self.contests:
            return self.contests[case]
        wanted: dict[str, None] = {}
        for bound in self.bounds:
            if bound.quantity in TIMES and case in bound.cases:
                rivals = _peers() if bound.against == BEST else [bound.against] if bound.against else []
                wanted.update(dict.fromkeys([bound.entrant, *rivals]))
        products = [name for name in wanted if name.endswith(" GEMM")]
        with alone(case):
            made = enter("holds", case, [find(name) for name in wanted if name not in products], self.tell)
            for name in products:
                side = name.partition(" ")[0]
                made.programs[name], flops = gemm(side, case.dtype)
                made.rows[name] = Row("holds", asdict(case), case.name, name, side, ours=False, flops=flops)
            _ = self.tell(f"{case.name}: {len(made.programs)} take turns")
            rows = made.run(self.rounds, self.clock)
        self.rows += rows.values()
        self.contests[case] = rows
        return rows


def _peers() -> list[str]:
    return [name for name, peer in PEERS.items() if not missing(peer)]
