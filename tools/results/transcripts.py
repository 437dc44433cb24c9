"""Transcripts: what a command prints, of which a page shows some lines."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from tools.results.figures import Figure, Measurement, Results, fenced, measured

PORT = ("examples/port/model_torch.py:Block", "examples/port/model_jax.py:Block")
MASK = ("--mask", "causal & window:256", "--size", "4096", "--heads", "8", "--width", "64", "--batch", "1")
LEFT_OUT = {
    # What the sides are, how the budget was made, and a line for each array.
    "compare": r"(torch|jax) is |parameters: |budget: |the reference is |torch .* torch:$| +(z = error|d |output: z)",
    # Of the same, what a first look needs: verdict, place and name.
    "compare-short": r"(torch|jax) is |parameters: |budget: |the reference is |d |torch .* torch:$| +z = error"
    r"|last in agreement|lines that may hold|outputs that differ|matched: ",
    # Kernels that are not chosen here.
    "explain": r"torch  kernel '(reference|decode|flex|varlen)'",
}
"""Lines that a page has no room for, each with the indented lines below it; the results file has them."""


def collect(text: str) -> list[str]:
    """Return the lines, without the spaces at their ends and the empty lines around them."""
    return [line.rstrip() for line in text.rstrip().splitlines()]


def transcript(name: str, measurement: str) -> Callable[[Results], str]:
    """Return what renders a transcript: the command as a user types it, and lines of what it printed."""

    def render(results: Results) -> str:
        found = results(measurement)
        if found is None:
            return ""
        command = found.command.replace("python -m attention.cli", "attention")
        shown = "\n".join([f"$ {command}", *_cut(found.data, LEFT_OUT[name])])
        return f"{fenced(shown)}\n\n{measured(found)}"

    return render


def _cut(lines: Sequence[str], left_out: str) -> Iterator[str]:
    """Yield the lines but for those that are left out, whose place is taken by dots."""
    skipping = False
    for line in lines:
        if re.match(left_out, line):
            if not skipping:
                yield "..."
            skipping = True
        elif line and not (skipping and line.startswith("  ")):
            yield line
            skipping = False


MEASUREMENTS = (
    Measurement(
        name="compare", command=("attention.cli", "compare", *PORT, "--inputs", "2,7,24", "--values", "first"), collect=collect
    ),
    Measurement(name="explain", command=("attention.cli", "kernels", "explain", "--backend", "torch", *MASK), collect=collect),
)
FIGURES = tuple(Figure(name, transcript(name, name.removesuffix("-short"))) for name in LEFT_OUT)
