"""A training run as text: the verdict, the worst parameters, where they leave the envelope, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attention.parity.training.result import Training

MOST_ROWS = 8
"""Of the table; the rest is nearer."""
WIDTH = 100


def text(training: Training) -> str:
    """Return the report as plain text."""
    console = Console(width=WIDTH, no_color=True, highlight=False)
    with console.capture() as captured:
        show(training, console)
    return captured.get().rstrip()


def show(training: Training, console: Console) -> None:
    """Print the report."""
    console.print(Text(verdict(training)), soft_wrap=True)
    if not training.failure:
        console.print(table(training))
    for line in advice(training):
        console.print(Text(line), soft_wrap=True)


def word(training: Training) -> str:
    """Return the verdict in a word: a run that failed compares nothing."""
    return "agrees" if training.ok else "cannot tell" if training.failure else "differs"


def verdict(training: Training) -> str:
    """Return the verdict in one line."""
    steps, count = len(training.losses["torch"]), sum(training.runs.counts.values())
    run = f"{steps} steps, {count:,} parameters, losses {training.losses['torch'][-1]:.3g} and {training.losses['jax'][-1]:.3g}"
    if training.failure:
        return f"cannot tell: {training.failure} ({run})"
    if training.outside:
        return f"differs: {training.outside[0]} ({run})"
    worst = training.worst[0]
    return f"agrees: nearest to the envelope is {worst.what}, {worst.ratio:.2f} of it at step {worst.step} ({run})"


def table(training: Training) -> Table:
    """Return the table of what is farthest outside, or nearest to its envelope."""
    replicas = len(training.losses) - 2
    caption = f"torch - jax, root mean square; the envelope is made by {replicas} replicas that began one rounding unit away"
    made = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=caption)
    for heading in ("parameter", "distance", "envelope", "ratio", "at step", "outside from step"):
        made.add_column(heading, no_wrap=True, justify="left" if heading == "parameter" else "right")
    first = {found.what: found.step for found in training.outside}
    for found in training.worst[:MOST_ROWS]:
        numbers = (f"{found.distance:.2e}", f"{found.most:.2e}", f"{found.ratio:.3g}", str(found.step))
        made.add_row(Text(found.what), *numbers, str(first.get(found.what, "-")))
    if len(training.worst) > MOST_ROWS:
        made.add_row(f"and {len(training.worst) - MOST_ROWS} nearer ones", *[""] * 5)
    return made


def advice(training: Training) -> Iterator[str]:
    """Yield what to do next, if anything is wrong."""
    if training.ok:
        return
    forward = bool(training.outside) and (training.outside[0].step, training.outside[0].what) == (1, "loss")
    if forward or training.failure:
        yield "next: before the first step both programs hold the same bits;"
        yield "      parity.full_comparison(torch_model, jax_model, inputs) names the operation at which the models part;"
        yield "      compare dropout seeds and what the losses make of a batch"
    elif training.diagnosis is None:
        yield "next: parity.diagnose_step(torch_optimizer, optax_optimizer, recipe.optimizer) names a wrong optimiser;"
        yield "      parity.full_comparison(torch_model, jax_model, inputs) compares the gradients"
    elif training.diagnosis.ok:
        yield "next: both optimisers do as the recipe says;"
        yield "      parity.full_comparison(torch_model, jax_model, inputs) compares the gradients"
    else:
        yield "diagnosis of the optimisers:"
        yield from (f"    {line}" for line in str(training.diagnosis).splitlines())
