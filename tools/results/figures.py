"""Figures: what is measured by which command, and what of it a page shows.

measurement    command -> what it wrote -> collect -> results/<name>.json
figure         results -> render -> the Markdown of a block
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tools.results.recorded import Recorded

Results = Callable[[str], Recorded | None]
"""The results of a measurement by its name; None where nothing is recorded."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What is measured.

    Args:
        name: of its results file, and of the target `make results-<name>`.
        command: the arguments of `python -m`.
        collect: given the text that the command wrote, what the pages need of it.
        wrote: the file that the command writes, relative to the repository; "" is its standard output.
        pictures: by the path of each that a page shows, the path at which the command draws it.
        stamp: given the same text, what it says itself of date, machine and versions, in place of what is found here.
    """

    name: str
    command: tuple[str, ...]
    collect: Callable[[str], Any]
    wrote: str = ""
    pictures: Mapping[str, str] = field(default_factory=dict[str, str])
    stamp: Callable[[str], Mapping[str, Any]] = field(default=lambda _: {})

    @property
    def line(self) -> str:
        """The command as somebody would type it."""
        return " ".join(("python -m", *(f'"{word}"' if " " in word else word for word in self.command)))


@dataclass(frozen=True)
class Figure:
    """What a page shows.

    Args:
        name: of the block.
        render: the Markdown, given the results.
        measured: whether it needs results; what does not is read from the repository itself.
    """

    name: str
    render: Callable[[Results], str]
    measured: bool = True


def fenced(text: str) -> str:
    """Return a text that keeps its columns."""
    return f"```text\n{text.rstrip()}\n```"


def table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    every = [headings, ("---",) * len(headings), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in every)


def measured(*found: Recorded) -> str:
    """Return the line below a figure: when, on what, with what, and how to do it again."""
    said = "; ".join(dict.fromkeys(each.conditions for each in found))
    again = ", ".join(f"`make results-{each.name}`" for each in found)
    return f"Measured {said}: {again}."
