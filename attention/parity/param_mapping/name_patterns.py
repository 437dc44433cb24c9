r"""Names that stand for several parameters: numbers in braces, regular expressions, and paths however they are spelt.

"layers.{i}.fc.weight"        every layer's, with its number i
r"layers\.(\d+)\.weight"      what matches, with what its groups hold
layers[0].kernel = layers.0.kernel = layers/0/kernel
"""

# A key of a given map may be anything.
# pyright: standard

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial
from itertools import zip_longest
from typing import Any

import numpy as np

from attention.parity.adapters import Program
from attention.spec.errors import ParamError, shown

Found = Callable[[str], str]
"""Fills what a key matched into a name of the other program."""


def matches(program: Program, key: Any) -> list[tuple[str, Found]]:
    """Return the parameters that a key names, each with what fills the numbers that it matched into another name."""
    if not isinstance(key, str):
        return [found for each in key for found in matches(program, each)] if isinstance(key, tuple) else []
    known = _canonical(program)
    if _plain(key) in known:
        return [(known[_plain(key)], lambda text: text)]
    braces = re.findall(r"\{(\w+)\}", key)
    pattern = key
    if braces:
        pieces = re.split(r"\{\w+\}", _plain(key))
        names = [f"(?P<{name}>\\d+)" if name not in braces[:at] else f"(?P={name})" for at, name in enumerate(braces)]
        pattern = "".join(re.escape(piece) + name for piece, name in zip_longest(pieces, names, fillvalue=""))
    try:
        hits = [(name, hit) for plain, name in known.items() if (hit := re.fullmatch(pattern, plain))]
    except re.error:
        return []
    return [(name, partial(_filled, hit, braces)) for name, hit in sorted(hits, key=lambda each: _order(each[1]))]


def _order(hit: re.Match[str]) -> tuple[int, ...]:
    return tuple(int(group) for group in hit.groups() if group and group.isdigit())


def _filled(hit: re.Match[str], braces: Sequence[str], text: str) -> str:
    if braces:
        for name in braces:
            text = text.replace(f"{{{name}}}", hit[name])
        return text
    try:
        return hit.expand(text)
    except (re.error, IndexError) as error:
        raise ParamError(f"{shown(text)} must be filled by what {shown(hit.re.pattern)} matches: {error}") from None


def _plain(name: str) -> str:
    """Return a name as it is spelt with dots alone: layers[0].kernel and layers/0/kernel are layers.0.kernel."""
    return re.sub(r"[\[\]/']+", ".", name).strip(".").replace("..", ".") if not set("\\(*+^$") & {*name} else name


def _canonical(program: Program) -> dict[str, str]:
    return {_plain(name): name for name in program.params}


def named(program: Program, key: Any) -> list[tuple[str, Found]]:
    """Return what a key names.

    Raises:
        ParamError: it names nothing.
    """
    several: tuple[Any, ...] = key if isinstance(key, tuple) else (key,)
    found = [matches(program, each) for each in several]
    for each, hits in zip(several, found, strict=True):
        if not hits:
            _ = known(program, each)
    return [hit for hits in found for hit in hits]


def spelt_as(program: Program, name: str) -> str:
    """Return a name as the program spells it."""
    return _canonical(program).get(_plain(name), name)


def known(program: Program, name: str) -> np.ndarray:
    """Return the parameter of a name.

    Raises:
        ParamError: there is none.
    """
    if name not in program.params:
        close = get_close_matches(str(name), program.params, n=3) or list(program.params)[:3]
        raise ParamError(
            f"{shown(name)} must be a parameter of {program.name}, such as {', '.join(close) or 'none: it has none'}"
        )
    return program.params[name]
