"""Source lines of a custom_vjp backward pass, to which JAX assigns the line of the forward call.

@custom_vjp  f;  f.defvjp(forward, backward)        an operation of `backward` is at its line in `backward`
"""

# JAX's private modules have no types.
# pyright: standard

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from attention.parity.tracing.source_location import is_user

_OURS = __file__.rpartition("tracing")[0]


@contextmanager
def own_lines() -> Iterator[None]:
    """While it lasts, an operation that the user's code asks for has that line, whatever JAX takes it for.

    JAX has no public way to this. Where its private one is gone, lines are as JAX gives them.
    """
    try:
        module: Any = import_module("jax._src.source_info_util")
        current, trace = module.current, module.xla_client.Traceback.get_traceback
    except (ImportError, AttributeError):
        yield
        return

    def located() -> Any:
        found = current()
        return found.replace(traceback=trace()) if _is_asked() else found

    module.current = located
    try:
        yield
    finally:
        module.current = current


def _is_asked() -> bool:
    """Return whether the user's code is what runs, called by ours."""
    frame: Any = sys._getframe(2)  # noqa: SLF001 the fast way to the stack, which `inspect` reads too
    while frame is not None and not frame.f_code.co_filename.startswith(_OURS):
        if is_user(frame.f_code.co_filename):
            return True
        frame = frame.f_back
    return False
