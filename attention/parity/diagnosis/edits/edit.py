"""An edit: one change of the JAX program, and the text that describes it."""

# What an edit makes of arrays are small functions whose types strict mode cannot know.
# pyright: standard

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Make = Callable[..., Any]
Change = dict[int, tuple[tuple[int, ...], Make]]
"""What each event is made of instead, and how: of its own number, what the step makes as it is."""
Changing = Callable[[int], Change | None]
"""From an event to the change that makes it otherwise; None where it cannot be."""


@dataclass(frozen=True, eq=False)
class Edit:
    """One change of the JAX program.

    Attributes:
        name: what is said of it, of both sides.
        at: the event that is made otherwise.
        change: the events that are, for the event or for another run of its line; None where it cannot be.
        torch, jax: what to write there to have what the other side has.
        evidence: what was done, beside that it repairs the outputs.
        near: whether what it makes must itself be an array of torch.
    """

    name: str
    at: int
    change: Changing
    torch: str = ""
    jax: str = ""
    evidence: str = ""
    near: bool = False
