"""Rewriting of messages: Python's argument names become the options of the command line.

renamed("load 'third' must be ...", {"values": "--values"})        "--values 'third' must be ..."
spoken("pass load='first' to copy it")                             "pass --values first to copy it"
"""

from __future__ import annotations

import re
from collections.abc import Mapping

ARGUMENTS = {"load": "values", "dtypes": "dtype", "suite": "suites"}
"""Arguments of Python functions whose option has another name."""
PHRASES = {"real model": "real"}
"""The same, of two words."""
KEYWORDS = (
    (re.compile(r"parity\.locate\(torch_side, jax_side, inputs(, load='\w+')?\)"), "attention compare, of both programs,"),
    (re.compile(r"parity\.locate of"), "attention compare of"),
    (re.compile(r"\bload='(first|second)'"), r"--values \1"),
    (re.compile(r"\bload="), "--values"),
    (re.compile(r"\bparams=(?=[\s,;.]|$)"), "--params"),
    (re.compile(r"\bparams="), "--params "),
    (re.compile(r"\bexact=(?=[\s,;.]|$)"), "--exact"),
    (re.compile(r"\boutputs=(?=[\s,;.]|$)"), "--outputs"),
    (re.compile(r": see budget='jax' and 'torch'"), ""),
    (re.compile(r"parity\.check\(contract, backends=\('jax_eager', 'torch'\)\)"), "attention verify --backend jax_eager"),
)
"""What a report says of Python's keyword arguments, and what the command line calls them."""


UNLOADED = re.compile(r"pass load='first' or load='second' to copy (it|those of one onto the other)")


def renamed(message: str, flags: Mapping[str, str]) -> str:
    """Return an error's message with the option in the place of the argument that it begins with.

    Args:
        message: argument, got, wanted.
        flags: how the command spells its parameters, by their names in Python.

    >>> renamed("dtype 'float23' must be one of float32", {"dtype": "--dtype"})
    "--dtype 'float23' must be one of float32"
    """
    for phrase, name in PHRASES.items():
        if message.startswith(f"{phrase} ") and name in flags:
            message = f"{name}{message[len(phrase) :]}"
    first, space, rest = message.partition(" ")
    flag = flags.get(ARGUMENTS.get(first, first))
    return spoken(f"{flag}{space}{rest}" if flag is not None else message)


def spoken(text: str, *, values: bool = True) -> str:
    """Return a text for people at a command line: Python's keyword arguments are the command's options.

    Args:
        text: of a report or an error.
        values: whether the command has the option --values.

    >>> spoken("pass load='first' or load='second' to copy those of one onto the other")
    'pass --values first or --values second to copy those of one onto the other'
    """
    if not values:
        text = UNLOADED.sub("give both the same values", text)
    for pattern, option in KEYWORDS:
        text = pattern.sub(option, text)
    return text
