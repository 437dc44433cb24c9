"""`attention verify --train`: train each contract in both frameworks, and compare the runs.

each contract: `steps` steps from the same bits, in torch and in JAX        exit code 1 outside the envelope
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attention.parity.training import Training


def run(contracts: Sequence[str], optimizer: str, steps: int, seed: int, json: str | None, plots: str | None) -> bool:
    """Train contracts, show how near each pair of runs stayed, and return whether all stayed inside their envelopes.

    Args:
        contracts: names of `spec.cases`, or "all".
        optimizer: a name of `training.optimizer_names`.
        steps: of each run.
        seed: of weights, data and dropout.
        json: a file for the facts of every run, or None.
        plots: a folder for a picture of every run, or None.

    Raises:
        UnknownName: no such contract or optimiser.
        OptionError: the steps are not what they must be.
    """
    from rich.console import Console  # noqa: PLC0415 - frameworks are imported by the command that needs them
    from rich.text import Text  # noqa: PLC0415

    from attention.parity.results.report import write  # noqa: PLC0415
    from attention.parity.training import optimizer_names  # noqa: PLC0415
    from attention.spec import cases  # noqa: PLC0415

    step = optimizer_names.find(optimizer)
    chosen = [cases.find(name) for name in (cases.CASES if "all" in contracts else contracts)]
    console = Console()
    runs = _trained({case.name: case.contract for case in chosen}, step, steps, seed)
    console.print(_table(runs))
    for name, training in runs.items():
        if not training.ok:
            console.print(Text(f"{name}: {training}"), soft_wrap=True)
        if plots is not None:
            training.plot(Path(plots) / f"{name}.png")
    if json is not None:
        from json import dumps  # noqa: PLC0415

        write(json, dumps({name: training.facts() for name, training in runs.items()}, indent=1))
    apart = sum(not training.ok for training in runs.values())
    told = f"{len(runs)} contracts trained for {steps} steps with {optimizer} in both frameworks"
    console.print(f"{told}, {apart} outside the envelope.", soft_wrap=True)
    return not apart


def _trained(contracts: dict[str, Any], optimizer: Any, steps: int, seed: int) -> dict[str, Training]:
    """Return the run of each contract, with a bar that counts steps."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    from attention.parity.training import recipe_for, train  # noqa: PLC0415

    recipes = {name: recipe_for(contract, optimizer=optimizer, steps=steps, seed=seed) for name, contract in contracts.items()}
    runs: dict[str, Training] = {}
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=steps * len(recipes))

        def told(count: int, loss: float) -> None:
            progress.update(task, completed=len(runs) * steps + count, description=f"{name} loss {loss:.3f}")

        for name, recipe in recipes.items():
            runs[name] = train(recipe, progress=told)
    return runs


def _table(runs: dict[str, Training]) -> Any:
    """Return the table: of each contract, the losses and the result that is nearest to its envelope."""
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from attention.parity.rendering import training_text  # noqa: PLC0415

    made = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), caption="ratio = |torch - JAX| / envelope; differs above 1")
    for heading in ("contract", "first loss", "last loss", "ratio", "of", "at step", "verdict"):
        number = heading in ("first loss", "last loss", "ratio", "at step")
        made.add_column(heading, no_wrap=heading != "of", overflow="fold", justify="right" if number else "left")
    for name, training in runs.items():
        worst, losses = training.worst[0], training.losses["torch"]
        numbers = (f"{losses[0]:.3g}", f"{losses[-1]:.3g}", f"{worst.ratio:.3g}", worst.what, str(worst.step))
        made.add_row(name, *numbers, training_text.word(training))
    return made
