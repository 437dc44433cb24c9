"""Generators of random values: one of several, a number, a size, an instance of a dataclass of options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields
from typing import Any

from attention.spec.errors import OptionError
from tools.evaluation.random_contracts import Frame, Pick

Value = Callable[[Pick, Frame], Any]

VALUES: dict[type, Mapping[str, Value]] = {}
"""The generator of each field, by class and name; `values.py` fills it."""


def make(pick: Pick, frame: Frame, kind: type, **fixed: Any) -> Any:
    """Return a random instance of a dataclass of options.

    Args:
        pick: chances.
        frame: the sizes of the call.
        kind: a key of `VALUES`.
        fixed: fields that are not drawn.

    Raises:
        OptionError: options that exclude each other were drawn.
    """
    table = VALUES[kind]
    return kind(**{f.name: fixed[f.name] if f.name in fixed else table[f.name](pick, frame) for f in fields(kind)})


def either(*choices: Any) -> Value:
    """Return a generator of one of these values."""
    return lambda pick, _: pick.one(choices)


def each(*kinds: type | None) -> Value:
    """Return a generator of an instance of one of these kinds, None among them perhaps."""

    def value(pick: Pick, frame: Frame) -> Any:
        kind = pick.one(kinds)
        while kind is not None:
            # Options that exclude each other are drawn again.
            with suppress(OptionError):
                return make(pick, frame, kind)
        return None

    return value


def number(low: float, high: float, *others: Any) -> Value:
    """Return a generator of a number between two, or half of the time of one of the others."""
    return lambda pick, _: pick.one(others) if others and pick.chance(0.5) else pick.between(low, high)


def size(*names: str, none: bool = True) -> Value:
    """Return a generator of a size of the frame, or None."""
    return lambda pick, frame: pick.one(((None,) if none else ()) + tuple(getattr(frame, name) for name in names))


def switch(probability: float = 0.5) -> Value:
    """Return a generator of True as often as that."""
    return lambda pick, _: pick.chance(probability)
