"""An optimiser step as a line of code of one framework, with the options that the framework lacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attention.spec.optimizers.optimizer import Step

Lacks = list[tuple[bool, str]]
"""Whether an option is used that the framework lacks, and its description."""


@dataclass(frozen=True)
class Code:
    """A step as code of one framework.

    Attributes:
        text: an expression; of torch a tuple, if something is called or stepped beside the optimiser.
        lacks: what the framework's own optimisers cannot do; the text omits it.
        backend: our backend, whose `optimizer(step, layer)` supports all of it.
    """

    text: str
    lacks: tuple[str, ...] = ()
    backend: str = "torch_impl"

    def __str__(self) -> str:
        return self.text + (f"    # but not {', '.join(self.lacks)}: {self.backend}.optimizer has it" if self.lacks else "")


def schedule_name(step: Step) -> str:
    """Return the schedule as an expression, shifted to the first count of the step."""
    return f"lambda n: schedule(n + {step.first_count})" if step.first_count else "schedule"


def keywords(options: dict[str, Any]) -> str:
    """Return options as the text of keyword arguments."""
    return ", ".join(f"{name}={value!r}" for name, value in options.items())


def finished(text: str, lacks: Lacks, backend: str = "torch_impl") -> Code:
    """Return the code with the options in `lacks` that the step uses."""
    return Code(text, tuple(words for lacking, words in lacks if lacking), backend)
