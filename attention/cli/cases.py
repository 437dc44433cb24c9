"""`attention cases`: the named cases as files, for an implementation in any language."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from attention.cli.application import Command, app, group, show_report

cases_app = group("cases", "The named cases as files, so that an implementation in any language can be checked.")
app.add_typer(cases_app)

Names = Annotated[list[str] | None, typer.Option("--contract", help="A contract; repeat for more. All, if none is given.")]
Dtypes = Annotated[list[str] | None, typer.Option("--dtype", help="float32, float64, bfloat16 or float16; repeat for more.")]


@cases_app.command("list", cls=Command)
def list_cases(
    folder: Annotated[Path | None, typer.Argument(metavar="DIR", help="An export; without one, what can be exported.")] = None,
) -> None:
    """List the contracts that can be exported, or the calls of an export."""
    if folder is None:
        from attention.spec.cases import CASES  # noqa: PLC0415 - NumPy is imported by the command that needs it

        for case in CASES.values():
            typer.echo(f"{case.name:20} {case.about} ({case.source})")
        return
    from attention.parity.exported_cases import read_index  # noqa: PLC0415

    for entry in read_index(folder).entries:
        typer.echo(f"{entry.case:20} {entry.dtype:9} {entry.probe}")


@cases_app.command(cls=Command)
def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Absent, empty, or an export, whose place is taken.")],
    contract: Names = None,
    dtype: Dtypes = None,
    rounds: Annotated[
        list[str] | None,
        typer.Option(help="What the implementation rounds on purpose: weights, 'd scores' or logsumexp; repeat for more."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of all numbers.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that holds other files; they stay.")] = False,
) -> None:
    """Write every case as safetensors and JSON: inputs, weights, masks, and the float64 oracle's outputs and gradients.

    With each result goes sigma, how far rounding alone may move every element. The format is docs/cases_format.md.
    """
    from attention.parity.exported_cases import export as write  # noqa: PLC0415 - as above

    with _progress() as tell:
        index = write(folder, contract or (), dtype or ("float32",), rounds=rounds or (), seed=seed, force=force, progress=tell)
    size = sum((folder / name).stat().st_size for entry in index.entries for name in entry.files)
    typer.echo(f"{len(index.entries)} calls of {len(index.cases)} contracts in {folder}: {size / 1e6:.1f} MB")


@cases_app.command(cls=Command)
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `attention cases export` wrote.")],
    with_: Annotated[
        str, typer.Option("--with", metavar="MODULE:FUNCTION", help="Or path/file.py:function; called with each call.")
    ],
    contract: Names = None,
    dtype: Dtypes = None,
    json: Annotated[str | None, typer.Option(metavar="PATH", help="Write every verdict to this file.")] = None,
) -> None:
    """Check another implementation: function(given) -> {"output": array, "d query": array, ...}, all NumPy.

    `given` has inputs, weights, masks, positions, cotangents, contract and results, the names of what is compared. Outputs
    must be returned; gradients that are not are listed as not compared. NotImplementedError says that a call is not supported.
    """
    from attention.cli.loading import load  # noqa: PLC0415 - as above
    from attention.parity.exported_cases import check as judge  # noqa: PLC0415
    from attention.spec.errors import OptionError  # noqa: PLC0415

    function = load(with_)
    if not callable(function):
        raise OptionError(f"--with {with_!r} {type(function).__name__} must be a function")
    with _progress() as tell:
        report = judge(folder, cast("Any", function), contracts=contract or (), dtypes=dtype or (), progress=tell)
    show_report(report)
    if json is not None:
        report.to_json(json)
    raise typer.Exit(report.exit_code)


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Give a function that shows on stderr what is being worked on."""
    from rich.console import Console  # noqa: PLC0415 - as above
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    console = Console(stderr=True)
    # Where nobody watches, an error is one line and not two.
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("")
        yield lambda text: progress.update(task, description=text)
