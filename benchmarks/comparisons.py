"""Time the implementations of each case of the requirements, in turn and once per case.

for each case:  the implementations of its requirements take turns, >= 5 rounds        met <=> the median is on the limit's
right side
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from benchmarks import requirements as known
from benchmarks.cases import Case
from benchmarks.implementations import PEERS, find, missing
from benchmarks.measure import Tell, alone, enter
from benchmarks.peaks import gemm
from benchmarks.requirements import BEST, Requirement
from benchmarks.results import Row
from benchmarks.timing import Clock

TIMES = (known.RATIO, known.SPEEDUP, known.GROWTH, known.FRACTION)
"""Quantities that a comparison measures."""


@dataclass(frozen=True)
class Checked:
    """A requirement and its measurement.

    Attributes:
        requirement: the requirement.
        measured: the quantity, or None.
        spread: its quartiles over the rounds, where it has them.
        note: why there is no number, or what to know of it.
    """

    requirement: Requirement
    measured: float | None = None
    spread: tuple[float, float] | None = None
    note: str = ""

    @property
    def met(self) -> bool:
        """Whether the requirement is met; without a measurement it is not."""
        if self.measured is None:
            return False
        return self.measured >= self.requirement.limit if self.requirement.least else self.measured <= self.requirement.limit

    def said(self) -> str:
        """Return limit, number and verdict in a line."""
        number = "not measured" if self.measured is None else f"{self.measured:.3g}"
        limit = f"{'>=' if self.requirement.least else '<='} {self.requirement.limit:.3g}"
        return f"{number}, wanted {limit}: {'met' if self.met else 'NOT MET'}{f' ({self.note})' if self.note else ''}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready data."""
        b = self.requirement
        said = {
            "name": b.name,
            "what": b.what,
            "quantity": b.quantity,
            "implementation": b.implementation,
            "against": b.against,
        }
        sense = "least" if b.least else "most"
        found = {"limit": b.limit, "sense": sense, "measured": self.measured, "spread": self.spread, "met": self.met}
        return {**said, **found, "cases": [asdict(case) for case in b.cases], "note": self.note}


@dataclass
class Comparisons:
    """The comparisons of a run: one per case, with every implementation that a requirement names for the case.

    Args:
        requirements: to check.
        rounds: of every comparison.
        clock: `WALL` or `CPU`.
        tell: called with progress messages.
    """

    requirements: Sequence[Requirement]
    rounds: int
    clock: Clock
    tell: Tell = lambda _: None
    rows: list[Row] = field(default_factory=list)

    @cached_property
    def comparisons(self) -> dict[Case, dict[str, Row]]:
        """Rows by case, filled as they are asked for: see `comparison`."""
        return {}

    def comparison(self, case: Case) -> dict[str, Row]:
        """Return the rows of a case, with every implementation that a requirement names for it."""
        if case in self.comparisons:
            return self.comparisons[case]
        wanted: dict[str, None] = {}
        for requirement in self.requirements:
            if requirement.quantity in TIMES and case in requirement.cases:
                rivals = _peers() if requirement.against == BEST else [requirement.against] if requirement.against else []
                wanted.update(dict.fromkeys([requirement.implementation, *rivals]))
        products = [name for name in wanted if name.endswith(" GEMM")]
        with alone(case):
            made = enter("requirements", case, [find(name) for name in wanted if name not in products], self.tell)
            for name in products:
                side = name.partition(" ")[0]
                made.programs[name], flops = gemm(side, case.dtype)
                made.rows[name] = Row("requirements", asdict(case), case.name, name, side, ours=False, flops=flops)
            _ = self.tell(f"{case.name}: {len(made.programs)} take turns")
            rows = made.run(self.rounds, self.clock)
        self.rows += rows.values()
        self.comparisons[case] = rows
        return rows


def _peers() -> list[str]:
    return [name for name, peer in PEERS.items() if not missing(peer)]
