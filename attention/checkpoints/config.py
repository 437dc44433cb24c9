"""Read values from a parsed `config.json` or a layer's arguments, checked for type and range.

    count(config, "hidden_size")        an int of at least 1, or OptionError with the value

An absent or null value gives the default, if there is one.
"""

# A parsed file may hold any type.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from attention.spec.errors import OptionError, shown
from attention.spec.layers.stack import MOST_BLOCKS
from attention.spec.masks.fields import MOST
from attention.spec.numbers import is_count, is_finite

Config = Mapping[str, Any]


def get(config: Config, name: str, absent: Any = None) -> Any:
    """Return a value of a config, or `absent`.

    Raises:
        OptionError: it is no mapping.
    """
    if not isinstance(config, Mapping):
        raise OptionError(f"config {shown(config)} must be a mapping of names to values")
    return config.get(name, absent)


def need(config: Config, name: str) -> Any:
    """Return a required value of a config.

    Raises:
        OptionError: it gives nothing.
    """
    if get(config, name) is None:
        raise OptionError(f"config {name} None must be given")
    return config[name]


def count(config: Config, name: str, *, most: int = MOST) -> int:
    """Return a required int of at least 1.

    Raises:
        OptionError: it is absent, or no such int.
    """
    return _counted(name, need(config, name), most)


def any_count(config: Config, name: str, absent: int | None = None) -> int | None:
    """Return an int of at least 1; None for null, `absent` if there is none.

    Raises:
        OptionError: it is no such int.
    """
    value = get(config, name, absent)
    return None if value is None else _counted(name, value, MOST)


def depth(config: Config, name: str) -> int:
    """Return the number of layers; errors as `count`."""
    return count(config, name, most=MOST_BLOCKS)


def number(config: Config, name: str) -> float:
    """Return a required finite number.

    Raises:
        OptionError: it is absent, or no such number.
    """
    return _finite(name, need(config, name))


def any_number(config: Config, name: str, absent: float | None = None) -> float | None:
    """Return a finite number; None for null, `absent` if there is none.

    Raises:
        OptionError: it is no such number.
    """
    value = get(config, name, absent)
    return None if value is None else _finite(name, value)


def number_or(config: Config, name: str, absent: float) -> float:
    """Return a finite number, `absent` for null or none; errors as `any_number`."""
    value = any_number(config, name)
    return absent if value is None else value


def numbers(config: Config, name: str) -> tuple[float, ...]:
    """Return a required list of finite numbers.

    Raises:
        OptionError: it is absent, or no such list.
    """
    value = need(config, name)
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise OptionError(f"config {name} {shown(value)} must be a list of numbers")
    return tuple(_finite(name, x) for x in cast("Sequence[Any]", value))


def switch(config: Config, name: str, absent: bool) -> bool:
    """Return a bool, `absent` for null or none.

    Raises:
        OptionError: it is neither.
    """
    value = get(config, name)
    if not isinstance(value, (bool, type(None))):
        raise OptionError(f"config {name} {shown(value)} must be true or false")
    return absent if value is None else value


def word(config: Config, name: str, known: Sequence[str], absent: str | None = None) -> str:
    """Return one of the known strings, `absent` for null or none.

    Raises:
        OptionError: it is none of them.
    """
    value = absent if get(config, name) is None else config[name]
    if not isinstance(value, str) or value not in known:
        raise OptionError(f"{name} {shown(value)} must be one of {', '.join(map(repr, known))}")
    return value


def inner(config: Config, name: str) -> Config:
    """Return a mapping inside the config; empty for null or none.

    Raises:
        OptionError: it is no mapping.
    """
    value = get(config, name)
    if not isinstance(value, (Mapping, type(None))):
        raise OptionError(f"config {name} {shown(value)} must be a mapping of names to values")
    return value or {}


def check_depth(depth: object) -> None:
    """Raise OptionError unless `depth` is a number of layers that a stack may have."""
    _ = count({"depth": depth}, "depth", most=MOST_BLOCKS)


def check_layer(layer: object) -> None:
    """Raise OptionError unless `layer` is an int of 0 or more."""
    if not is_count(layer, 0):
        raise OptionError(f"layer {shown(layer)} must be an int >= 0")


def divided(width: int, heads: int, names: tuple[str, str]) -> int:
    """Return the width of each head.

    Raises:
        OptionError: the heads do not divide the width.
    """
    if width % heads:
        raise OptionError(f"{names[1]} {heads} must divide {names[0]} = {width}")
    return width // heads


def _counted(name: str, value: Any, most: int) -> int:
    if not is_count(value) or value > most:
        raise OptionError(f"config {name} {shown(value)} must be an int from 1 to {most}")
    return value


def _finite(name: str, value: Any) -> float:
    try:
        finite = is_finite(value)
        made = float(value) if finite else 0.0
    except OverflowError:
        finite, made = False, 0.0
    if not finite:
        raise OptionError(f"config {name} {shown(value)} must be a finite number")
    return made
