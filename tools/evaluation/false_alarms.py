"""`python -m tools.evaluation false-alarms`: how often a right program is said to differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from json import dumps
from typing import TYPE_CHECKING, Annotated

import typer

from attention.cli.application import Command
from tools.evaluation.application import app

if TYPE_CHECKING:
    from tools.evaluation.false_positive_rate import Tally


@app.command("false-alarms", cls=Command)
def false_alarms(
    draws: Annotated[int, typer.Option(help="How many random draws.", min=1)] = 2000,
    seed: Annotated[int, typer.Option(help="Of all draws.", min=0)] = 0,
    first: Annotated[int, typer.Option(help="Number of the first draw, for long runs in parts.", min=0)] = 0,
    draw: Annotated[int | None, typer.Option(help="Run this draw alone and show all of it.", min=0)] = None,
    dtype: Annotated[
        list[str] | None, typer.Option(help="float32, float64, bfloat16 or float16; repeat for more. All by default.")
    ] = None,
    json: Annotated[str | None, typer.Option(metavar="PATH", help="Write the counts and every failure to this file.")] = None,
) -> None:
    """Run both backends, which are right, on random contracts, shapes, dtypes and scales, and count false alarms.

    Exits with 1 if that is one draw in 1,000 or more. Draw 1234 of a seed is the same whatever the range it is run in.
    """
    from attention.parity.results.report import write  # noqa: PLC0415
    from tools.evaluation import false_positive_rate as alarms  # noqa: PLC0415 - frameworks are imported by the command that needs them
    from tools.evaluation.random_calls import DTYPES  # noqa: PLC0415

    dtypes = tuple(dtype or DTYPES)
    if draw is not None:
        raise typer.Exit(0 if _alone(draw, seed, dtypes) else 1)
    with progress_bar(draws) as tell:

        def progress(tally: Tally) -> None:
            tell(tally.draws, len(tally.failing))

        tally = alarms.false_positives(draws, seed, first=first, dtypes=dtypes, progress=progress)
    for line in tally.lines():
        typer.echo(line)
    if json is not None:
        write(json, dumps(tally.to_dict(), indent=1))
    raise typer.Exit(0 if tally.ok else 1)


def _alone(draw: int, seed: int, dtypes: tuple[str, ...]) -> bool:
    """Show one draw, and return whether it agrees."""
    from attention.parity.results.report import Report  # noqa: PLC0415
    from tools.evaluation.false_positive_rate import false_positives as run  # noqa: PLC0415 - as above

    found = run(1, seed, first=draw, dtypes=dtypes)
    report = Report(found.last)
    for name, value in found.last[0].facts.items():
        typer.echo(f"{name}: {value}")
    report.show()
    return report.ok


@contextmanager
def progress_bar(draws: int) -> Iterator[Callable[[int, int], None]]:
    """Give a function that shows on stderr how many draws ran, and how many of them failed.

    A terminal shows a bar; anything else, such as a log, gets a line after every tenth of the draws.
    """
    from rich.console import Console  # noqa: PLC0415 - as above
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    console = Console(stderr=True)
    if not console.is_terminal:
        step = max(draws // 10, 1)

        def line(ran: int, failed: int) -> None:
            if draws > step and ran % step == 0:
                typer.echo(f"{ran} of {draws} draws, {failed} failed", err=True)

        yield line
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=draws)
        yield lambda ran, failed: progress.update(task, completed=ran, description=f"{failed} failed")
