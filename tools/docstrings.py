"""Docstrings of the API reference: an example in doctest's form becomes a fenced code block."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object  # pyright: ignore[reportMissingImports] - of the extra "docs"

EXAMPLE = re.compile(r"^( *)>>> .*(?:\n(?! *$).*)*", re.MULTILINE)
"""From a prompt to the next empty line."""


def fenced(text: str) -> str:
    r"""Return a docstring whose examples stand between fences, at the indentation of the first prompt.

    >>> print(fenced("One.\n\n    >>> f(1)\n    2\n"))
    One.
    <BLANKLINE>
    ```pycon
    >>> f(1)
    2
    ```
    <BLANKLINE>
    """
    return EXAMPLE.sub(_fence, text)


def _fence(found: re.Match[str]) -> str:
    lines = [line.removeprefix(found[1]) for line in found[0].splitlines()]
    return "\n".join(["```pycon", *lines, "```"])


class Examples(Extension):
    """Fence the examples of every docstring that is read."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Change the docstring of an object that was just read."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
