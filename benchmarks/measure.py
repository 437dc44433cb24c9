"""Measuring: a suite's cases into rows; every entrant is judged before it takes part.

    for each case:   entrant -> refused | wrong | differs | timed         the last two take turns in `timing.interleave`

"wrong" is ours alone, and has no time. A peer that gives other numbers than the contract "differs": its time is shown beside
its verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace

from attention.spec.errors import AttentionError, KernelRefused
from benchmarks import memory as memories
from benchmarks.adapters import Entrant
from benchmarks.cases import Case
from benchmarks.entrants import missing
from benchmarks.judge import judge
from benchmarks.programs import Program, TooLarge, build, exact, forget
from benchmarks.results import DIFFERS, REFUSED, TIMED, WRONG, Row
from benchmarks.timing import WALL, Clock, interleave

Tell = Callable[[str], object]


@dataclass
class Contest:
    """One case: a row for each entrant, and the programs of those that take part.

    Attributes:
        rows: by entrant.
        programs: by entrant, in the order of the turns.
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
    entrants: Sequence[Entrant],
    *,
    rounds: int = 7,
    clock: Clock = WALL,
    memory: bool = False,
    tell: Tell = lambda _: None,
) -> Iterator[Row]:
    """Yield a row for every entrant of every case.

    Args:
        suite: what the rows say they belong to.
        cases: the calls.
        entrants: who takes part.
        rounds: how often each is timed.
        clock: `WALL` or `CPU`.
        memory: whether to measure memory too, each in a process of its own.
        tell: told of what is worked on.
    """
    for case in cases:
        with alone(case):
            contest = enter(suite, case, entrants, tell)
            _ = tell(f"{case.name}: {len(contest.programs)} take turns")
            rows = contest.run(rounds, clock)
        del contest
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


def enter(suite: str, case: Case, entrants: Sequence[Entrant], tell: Tell = lambda _: None) -> Contest:
    """Return a contest, with every entrant judged: see `Contest`. Runs inside `programs.exact`."""
    contest = Contest()
    for entrant in entrants:
        _ = tell(f"{case.name}: {entrant.name}")
        row = Row(suite, asdict(case), case.name, entrant.name, entrant.side, entrant.ours, flops=case.flops, bytes=case.bytes)
        if reason := missing(entrant) or entrant.lacks(case):
            contest.rows[entrant.name] = replace(row, status=REFUSED, note=reason)
            continue
        row, program = _judged(row, entrant, case)
        contest.rows[entrant.name] = row
        if program and row.status in (TIMED, DIFFERS):
            contest.programs[entrant.name] = program
    return contest


def _judged(row: Row, entrant: Entrant, case: Case) -> tuple[Row, Program | None]:
    try:
        program = build(entrant, case)
        wrong = [verdict for verdict in judge(case, program) if not verdict.agrees]
    except (KernelRefused, TooLarge) as refusal:
        return replace(
            row, status=REFUSED, note=str(refusal).removeprefix(f"kernel {row.entrant.split()[-1]!r} refuses: ")
        ), None
    except Exception as error:
        if isinstance(error, AttentionError) and not entrant.ours:
            raise
        return replace(row, status=WRONG if entrant.ours else REFUSED, note=f"raised {_line(error)}"), None
    row = replace(row, kernel=program.kernel, compile_ms=program.compile_ms)
    if wrong:
        worst = max(wrong, key=lambda verdict: verdict.badness)
        return replace(row, status=WRONG if entrant.ours else DIFFERS, note=str(worst)), program
    return row, program


def _line(error: Exception) -> str:
    """Return an error in a line."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0][:160] if said else 'nothing said'}"
