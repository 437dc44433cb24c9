"""Measure the cases of a suite: each implementation passes the correctness gate first, then all are timed in turn.

    for each case:   implementation -> refused | wrong | differs | timed         the last two take turns in `timing.interleave`

"wrong" is ours alone, and has no time. A peer that gives other numbers than the contract "differs": its time is shown beside
its verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace

from attention.spec.errors import AttentionError, KernelRefused
from benchmarks import memory as memories
from benchmarks.adapters import Implementation
from benchmarks.cases import Case
from benchmarks.correctness import check
from benchmarks.implementations import missing
from benchmarks.programs import Program, TooLarge, build, exact, forget
from benchmarks.results import DIFFERS, REFUSED, TIMED, WRONG, Row
from benchmarks.timing import WALL, Clock, interleave

Tell = Callable[[str], object]


@dataclass
class Comparison:
    """One case: a row for each implementation, and the programs of those that take part.

    Attributes:
        rows: by implementation.
        programs: by implementation, in the order of the turns.
    """

    rows: dict[str, Row] = field(default_factory=dict)
    programs: dict[str, Program] = field(default_factory=dict)

    def run(self, rounds: int, clock: Clock) -> dict[str, Row]:
        """Return the rows with the times of those that take part."""
        samples = interleave({name: program.calls for name, program in self.programs.items()}, rounds, clock)
        return {name: replace(row, samples=samples.get(name, ())) for name, row in self.rows.items()}


def measure(
    suite: str,
    cases: Sequence[Case],
    implementations: Sequence[Implementation],
    *,
    rounds: int = 7,
    clock: Clock = WALL,
    memory: bool = False,
    tell: Tell = lambda _: None,
) -> Iterator[Row]:
    """Yield a row for every implementation of every case.

    Args:
        suite: what the rows say they belong to.
        cases: the calls.
        implementations: who takes part.
        rounds: how often each is timed.
        clock: `WALL` or `CPU`.
        memory: whether to measure memory too, each in a process of its own.
        tell: told of what is worked on.
    """
    for case in cases:
        with alone(case):
            comparison = enter(suite, case, implementations, tell)
            _ = tell(f"{case.name}: {len(comparison.programs)} take turns")
            rows = comparison.run(rounds, clock)
        del comparison
        for name, row in rows.items():
            if memory and row.status in (TIMED, DIFFERS):
                _ = tell(f"{case.name}: memory of {name}")
                used = memories.measure(case, name)
                row = replace(row, memory_bytes=used.extra, note=row.note or used.note)  # noqa: PLW2901 - the fuller row
            yield row


@contextmanager
def alone(case: Case) -> Iterator[None]:
    """Set the digits of a case, and let go of its inputs afterwards."""
    try:
        with exact(case):
            yield
    finally:
        forget()


def enter(suite: str, case: Case, implementations: Sequence[Implementation], tell: Tell = lambda _: None) -> Comparison:
    """Return a comparison, with every implementation checked: see `Comparison`. Runs inside `programs.exact`."""
    comparison = Comparison()
    for implementation in implementations:
        _ = tell(f"{case.name}: {implementation.name}")
        row = Row(
            suite,
            asdict(case),
            case.name,
            implementation.name,
            implementation.side,
            implementation.ours,
            flops=case.flops,
            bytes=case.bytes,
        )
        if reason := missing(implementation) or implementation.lacks(case):
            comparison.rows[implementation.name] = replace(row, status=REFUSED, note=reason)
            continue
        row, program = _checked(row, implementation, case)
        comparison.rows[implementation.name] = row
        if program and row.status in (TIMED, DIFFERS):
            comparison.programs[implementation.name] = program
    return comparison


def _checked(row: Row, implementation: Implementation, case: Case) -> tuple[Row, Program | None]:
    try:
        program = build(implementation, case)
        wrong = [verdict for verdict in check(case, program) if not verdict.agrees]
    except (KernelRefused, TooLarge) as refusal:
        return replace(
            row, status=REFUSED, note=str(refusal).removeprefix(f"kernel {row.implementation.split()[-1]!r} refuses: ")
        ), None
    except Exception as error:
        if isinstance(error, AttentionError) and not implementation.ours:
            raise
        return replace(row, status=WRONG if implementation.ours else REFUSED, note=f"raised {_line(error)}"), None
    row = replace(row, kernel=program.kernel, compile_ms=program.compile_ms)
    if wrong:
        worst = max(wrong, key=lambda verdict: verdict.badness)
        return replace(row, status=WRONG if implementation.ours else DIFFERS, note=str(worst)), program
    return row, program


def _line(error: Exception) -> str:
    """Return an error in a line."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0][:160] if said else 'nothing said'}"
