"""The command `python -m benchmarks` (`attention bench`): run suites, check requirements, compare two runs, plot.

Exit codes: 0 all is right, 1 a kernel is wrong, a requirement is broken or a run is slower, 2 the call cannot be answered (one
line says why), 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from attention.cli.application import Command, group

# JAX would take most of a GPU's memory for itself, and torch needs some beside it.
_ = os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

app = group(
    "bench", "Time every kernel that is right, and its peers. Without a command: run the default suites, a few minutes."
)
app.info.no_args_is_help = False
Rounds = Annotated[int, typer.Option(min=1, help="How often each program is timed; the median counts.")]
CpuTime = Annotated[bool, typer.Option("--cpu-time", help="The process' processor time, pinned to one core: little noise.")]
Json = Annotated[str, typer.Option(metavar="PATH", help="Where the results go.")]
Names = list[str] | None


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    """Run the default suites where no command is given."""
    if context.invoked_subcommand is None:
        context.invoke(run)


@app.command(cls=Command)
def run(
    suites: Annotated[Names, typer.Argument(help="Suites; see `suites`. 'all' for all of them.")] = None,
    size: Annotated[list[int] | None, typer.Option(min=1, help="S; repeat for more. Default by device and suite.")] = None,
    width: Annotated[list[int] | None, typer.Option(min=1, help="D; repeat for more.")] = None,
    dtype: Annotated[Names, typer.Option(help="float32, bfloat16, float16 or float64; repeat for more.")] = None,
    program: Annotated[Names, typer.Option(help="forward or forward+backward; default both.")] = None,
    implementation: Annotated[
        Names, typer.Option(help="Part of a name, such as auto, jax, SDPA, FlexAttention; repeat.")
    ] = None,
    side: Annotated[Names, typer.Option(help="torch or jax; default both.")] = None,
    peers: Annotated[bool, typer.Option(help="Whether others take part.")] = True,
    memory: Annotated[bool, typer.Option("--memory", help="Also the extra memory of a call, each in its own process.")] = False,
    refusals: Annotated[bool, typer.Option("--refusals", help="Show those who cannot, and why.")] = False,
    rounds: Rounds = 7,
    cpu_time: CpuTime = False,
    json: Json = "build/bench.json",
    plots: Annotated[str, typer.Option(metavar="DIR", help="Where the plots go; '' for none.")] = "build/bench",
) -> None:
    """Time suites: every kernel of both backends and every peer that is installed, in turns, in one process."""
    from benchmarks import running  # noqa: PLC0415 - frameworks wait until the call is understood

    asked = running.Asked(
        tuple(suites or ()), tuple(size or ()), tuple(width or ()), tuple(dtype or ()), tuple(program or ()),
        tuple(implementation or ()), tuple(side or ()), peers, memory, rounds, cpu_time, json, plots,
    )  # fmt: skip
    with _status() as tell:
        results = running.run(asked, tell)
    _show(running.table(results, refusals))
    raise typer.Exit(0 if results.ok else 1)


@app.command(cls=Command)
def requirements(
    only: Annotated[Names, typer.Option(help="Beginnings of names, such as 3 or 3.window; repeat for more.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="Only list the requirements.")] = False,
    add: Annotated[bool, typer.Option("--add", help="Keep the other requirements of the file: for runs in slices.")] = False,
    rounds: Rounds = 5,
    cpu_time: CpuTime = False,
    json: Json = "build/requirements.json",
) -> None:
    """Measure every requirement on speed and memory; exits 1 if one is not met."""
    start = time.perf_counter()
    from benchmarks import running  # noqa: PLC0415

    if list_:
        for requirement in running.requirements(tuple(only or ())):
            typer.echo(
                f"{requirement.name:44} {'>=' if requirement.least else '<='} {requirement.limit:<6.3g} {requirement.what}"
            )
        return
    with _status() as tell:
        results, written = running.check_requirements(
            tuple(only or ()), rounds, json, tell, cpu_time=cpu_time, add=add, done=lambda line: typer.echo(line, err=True)
        )
    _show(running.requirements_table(results))
    met = sum(bool(requirement["met"]) for requirement in results.requirements)
    kept = f"; {json} has {len(written.requirements)}" if add else f": {json}"
    typer.echo(f"{met} of {len(results.requirements)} met, in {time.perf_counter() - start:.0f} s{kept}")
    raise typer.Exit(0 if results.ok else 1)


@app.command(cls=Command)
def compare(
    before: Annotated[Path, typer.Argument(metavar="A.json", help="The run that is the measure.")],
    after: Annotated[Path, typer.Argument(metavar="B.json", help="The run in question.")],
    threshold: Annotated[float, typer.Option(help="Above which a ratio is a regression, if the spread is too.")] = 1.1,
    drift: Annotated[bool, typer.Option("--drift", help="Divide by what the peers moved: machines drift.")] = False,
) -> None:
    """Compare two runs; exits 1 if something of ours has become slower, larger, or is right no more."""
    from benchmarks.compare import compare as compared  # noqa: PLC0415
    from benchmarks.results import Results  # noqa: PLC0415

    found = compared(Results.from_json(before), Results.from_json(after), threshold, drift=drift)
    _show(found.table())
    raise typer.Exit(1 if found.regressions else 0)


@app.command(cls=Command)
def plot(
    results: Annotated[Path, typer.Argument(metavar="RESULTS.json")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="For speed.png, memory.png and roofline.png.")],
) -> None:
    """Draw a run anew."""
    from benchmarks.plots import draw  # noqa: PLC0415
    from benchmarks.results import Results  # noqa: PLC0415

    for path in draw(Results.from_json(results), folder):
        typer.echo(path)


@app.command("suites", cls=Command)
def list_suites() -> None:
    """List the suites; those of the default are marked."""
    from benchmarks.suites import DEFAULT, SUITES  # noqa: PLC0415

    for suite in SUITES.values():
        typer.echo(f"{suite.name:10} {'*' if suite.name in DEFAULT else ' '} {suite.about}")


@contextmanager
def _status() -> Iterator[Callable[[str], object]]:
    """Give a function that says on stderr what is worked on."""
    from rich.console import Console  # noqa: PLC0415

    console = Console(stderr=True)
    with console.status("") as status:
        yield status.update


def _show(table: Any) -> None:
    from rich.console import Console  # noqa: PLC0415

    # A pipe has no width of its own, and a table of numbers is not to be folded to 80 columns.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
