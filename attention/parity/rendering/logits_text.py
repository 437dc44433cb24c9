"""A comparison of logits as text: the verdict, one table, and the argmax flips with their margins."""

from __future__ import annotations

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attention.parity.language_models.logits_result import BASES, LogitsComparison
from attention.parity.language_models.three_verdicts import CANNOT_TELL, SURELY
from attention.parity.numerics.comparison import MOST_RMS

MOST_FLIPS = 8
"""Flips that are told a line each, those of the largest margins."""


def text(found: LogitsComparison) -> str:
    """Return the comparison as plain text."""
    console = Console(width=100, no_color=True, highlight=False)
    with console.capture() as captured:
        console.print(Text(f"{found.name}: {found.verdict}"))
        console.print(table(found))
        for line in lines(found):
            console.print(Text(line), soft_wrap=True)
    return captured.get().rstrip()


def table(found: LogitsComparison) -> Table:
    """Return the table: a number and what it is."""
    made = Table(box=SIMPLE_HEAD, padding=(0, 2, 0, 0))
    made.add_column("logits", no_wrap=True)
    made.add_column(f"{len(found.places)} positions, V {found.shape[-1]}", no_wrap=True, justify="right")
    for key, value in found.summary().items():
        if key not in ("positions", "vocabulary"):
            made.add_row(key, Text(f"{value:.3g}" if isinstance(value, float) else str(value)))
    return made


def lines(found: LogitsComparison) -> Iterator[str]:
    """Yield what stands below the table."""
    yield f"rounding is measured by {BASES[found.basis]}"
    yield f"ratio = RMS error / explained; agrees up to {MOST_RMS:g}, also at the worst position; differs above {SURELY:g}"
    for flip in found.flips[:MOST_FLIPS]:
        where = ", ".join(map(str, flip.position))
        told = "rounding may do that" if flip.benign else "beyond rounding"
        yield f"argmax flips at [{where}]: margin {flip.margin:.3g}, RMS error {flip.error:.3g}: {told}"
    if len(found.flips) > MOST_FLIPS:
        yield f"... and {len(found.flips) - MOST_FLIPS} flips of smaller margins"
    if found.verdict == CANNOT_TELL and found.basis == "storage":
        yield "next: pass exact=, the logits of a float64 run of either model"
