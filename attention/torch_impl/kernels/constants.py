"""A result treated as constant at trace time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer", bound=Callable[..., object])


def constant(function: Answer) -> Answer:
    """Return the function, marked as `torch.compiler.assume_constant_result` marks it.

    That one loads torch's whole compiler, which takes as long as torch itself.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]  # noqa: SLF001
    return function
