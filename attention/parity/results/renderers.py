"""Registry of renderers: results look up the function that shows them, and import none.

    register("report as text", "attention.parity.rendering.text:text")         by the package that draws
    renderer("report as text")(report)                                         by the result that is shown

A renderer is imported when it is first used: plots and pages need packages that a comparison does not.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

_RENDERERS: dict[str, str] = {}


def register(kind: str, path: str) -> None:
    """Let a kind of result be shown by a function.

    Args:
        kind: such as "report as text".
        path: "module:function".
    """
    _RENDERERS[kind] = path


def renderer(kind: str) -> Callable[..., Any]:
    """Return the function that shows a kind of result.

    Raises:
        MissingExtra: the packages that it needs are not installed.
    """
    module, _, name = _RENDERERS[kind].partition(":")
    return getattr(importlib.import_module(module), name)
