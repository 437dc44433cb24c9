"""An example: one recipe trained in both backends from the same bits, and what came of it.

build/examples/<name>/numbers.json      scores of each backend on data held out, beside a trivial baseline; whether the two
                                        runs stayed as near each other as rounding allows; on what, and how long
                      losses.png        both loss curves, their difference, and the envelope
                      *.png             what the experiment draws: where the model looks
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from attention import spec
from attention.parity.training import Recipe, Training, train
from attention.spec.errors import AttentionError

FOLDER = Path("build/examples")
BACKENDS = ("torch", "jax")
PACKAGES = ("torch", "jax", "flax", "optax", "numpy")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What is taught.

    Attributes:
        name: of the folder.
        title: one line, what is learned from what.
        recipe: the training.
        score: given a backend and its trained model, the scores on data held out, by name.
        baseline: what something trivial scores, by the same names, and what it is: `{"copy the source": {"BLEU": 3.1}}`.
        figure: given the trained models by backend and a folder, draws where they look.
        replicas: runs that measure how far rounding alone makes the losses diverge.
        watch: every how many steps weights are compared.
    """

    name: str
    title: str
    recipe: Recipe
    score: Callable[[str, Any], Mapping[str, float]]
    baseline: Mapping[str, Mapping[str, float]]
    figure: Callable[[Mapping[str, Any], Path], object]
    replicas: int = 2
    watch: int = 10


def run_experiment(experiment: Experiment, folder: Path = FOLDER) -> dict[str, Any]:
    """Train, score and draw an example, and return its numbers, which are also written beside the figures.

    Raises:
        ParityError: the two runs parted by more than rounding drives them; the message is the report.
    """
    # Small recurrent products are slower on many threads than on one.
    torch.set_num_threads(1)
    place, console = folder / experiment.name, Console()
    place.mkdir(parents=True, exist_ok=True)
    console.print(f"[bold]{escape(experiment.title)}")
    started = time.perf_counter()
    training = _trained(experiment, console)
    seconds = time.perf_counter() - started
    scores = {backend: dict(experiment.score(backend, training.models[backend])) for backend in BACKENDS}
    numbers = _numbers(experiment, training, scores, seconds)
    _ = (place / "numbers.json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    training.plot(place / "losses.png")
    _ = experiment.figure(training.models, place)
    console.print(_table(experiment, scores))
    console.print(escape(str(training)), soft_wrap=True)
    console.print(f"{seconds:.0f} s of training; figures and numbers in {place}")
    # All is written by now, so that a run that fails can be looked at.
    training.assert_ok()
    return numbers


def run(main: Callable[[], object]) -> None:
    """Run an example as a command: what it lacks or refuses is said in one line."""
    try:
        _ = main()
    except AttentionError as error:
        raise SystemExit(str(error)) from None


def rates(most: float, steps: int) -> spec.optimizers.WarmUp:
    """Return the learning rates of an example: up to `most` in a twentieth of the steps, then half a cosine down to 0."""
    warm = max(steps // 20, 1)
    return spec.optimizers.WarmUp(warm, spec.optimizers.CosineRate(most, steps - warm))


def epoch(count: int, size: int, step: int, seed: int = 0) -> np.ndarray:
    """Return which of `count` examples a step takes: all once, in a new order each time, but for the few that fill no batch."""
    turn, place = divmod(step, count // size)
    return np.random.default_rng([seed, turn]).permutation(count)[place * size :][:size]


def _trained(experiment: Experiment, console: Console) -> Training:
    """Return the run, with a bar that counts its steps."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("compiling", total=experiment.recipe.steps)

        def told(step: int, loss: float) -> None:
            progress.update(task, completed=step, description=f"loss {loss:.3f}")

        return train(experiment.recipe, replicas=experiment.replicas, watch=experiment.watch, progress=told)


def _numbers(experiment: Experiment, training: Training, scores: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Return what is written down: enough to repeat the experiment, and to doubt it."""
    return {
        "experiment": experiment.title,
        "scores": scores,
        "baseline": experiment.baseline,
        "training": training.facts(),
        # The replicas are in it: `2 + replicas` runs were made.
        "seconds": round(seconds, 1),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {name: version(name) for name in PACKAGES},
    }


def _table(experiment: Experiment, scores: Mapping[str, Mapping[str, float]]) -> Table:
    """Return the table: a row for each score, a column for each backend and for each trivial baseline."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("held out", no_wrap=True)
    columns = {**scores, **experiment.baseline}
    for name in columns:
        table.add_column(escape(name), justify="right")
    for name in next(iter(scores.values())):
        table.add_row(escape(name), *(f"{found[name]:.4g}" if name in found else "" for found in columns.values()))
    return table
