"""`python -m tools.evaluation random-options`: formula and layers on random combinations of all options."""

from __future__ import annotations

from typing import Annotated

import typer

from attention.cli.application import Command
from tools.evaluation.application import app
from tools.evaluation.false_alarms import progress_bar


@app.command("random-options", cls=Command)
def random_options(
    draws: Annotated[int, typer.Option(help="How many random draws.", min=1)] = 2000,
    seed: Annotated[int, typer.Option(help="Of all draws.", min=0)] = 0,
    first: Annotated[int, typer.Option(help="Number of the first draw, for long runs in parts.", min=0)] = 0,
) -> None:
    """Compare the formula and both layers, values and gradients in float64, on random combinations of all options.

    Exits with 1 if they disagree on any draw. Each such draw is shrunk, and printed as a program that shows it again.
    """
    from tools.evaluation.option_fuzzing import random_options as run  # noqa: PLC0415 - frameworks are imported by the command that needs them

    with progress_bar(draws) as tell:
        tally = run(draws, seed, first=first, progress=lambda tally: tell(tally.draws, len(tally.failures)))
    for line in tally.lines():
        typer.echo(line)
    raise typer.Exit(0 if tally.ok else 1)
