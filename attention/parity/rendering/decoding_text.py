"""A comparison of decoding as text: the verdict, and a line for each run."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attention.parity.language_models.decoding_result import Decoding, DecodingRow
from attention.parity.language_models.three_verdicts import SURELY
from attention.parity.numerics.comparison import MOST_RMS

HEADINGS = ("model", "run", "RMS error", "ratio", "at its worst", "differs from", "verdict")
WIDE = 100


def text(found: Decoding) -> str:
    """Return the comparison as plain text."""
    console = Console(width=WIDE, no_color=True, highlight=False)
    with console.capture() as captured:
        console.print(f"decoding beside the whole pass: {found.verdict}", markup=False)
        console.print(table(found))
        console.print(
            f"ratio = RMS error / RMS that rounding explains; agrees up to {MOST_RMS:g}, differs above {SURELY:g}", markup=False
        )
        for row in found.rows:
            if row.failure:
                console.print(Text(f"{row.side}, {row.run}: {row.failure}"), soft_wrap=True)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def table(found: Decoding) -> Table:
    """Return the table: a line for each run."""
    made = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    rows = [cells(row) for row in found.rows]
    for i, heading in enumerate(HEADINGS):
        text = heading in ("model", "run", "verdict")
        # A name of a class is not cut in two.
        least = max((len(word) for row in rows for word in row[i].split()), default=0)
        made.add_column(heading, no_wrap=heading == "verdict", min_width=least, justify="left" if text else "right")
    for row in rows:
        made.add_row(*map(Text, row))
    return made


def cells(row: DecodingRow) -> tuple[str, ...]:
    """Return the line of a run."""
    if row.comparison is None:
        return (row.side, row.run, "-", "-", "-", "-", "not run")
    seen = row.comparison.summary()
    numbers = (seen["RMS error"], seen["ratio"], seen["worst ratio"])
    at = "-" if row.parts_at is None else f"step {row.parts_at}"
    return (row.side, row.run, *(f"{number:.3g}" for number in numbers), at, row.verdict)
