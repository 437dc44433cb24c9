"""Exceptions of a user's program: reported with the user's file and line, without the traceback of this package.

torch model.py:Block failed at model.py:12, `return x @ self.weight`: RuntimeError: mat1 and mat2 ...
"""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

from attention.spec.errors import SideFailed

FRAMEWORKS = ("torch", "jax", "jaxlib", "flax", "numpy", "ml_dtypes", "equinox", "attention")
"""Packages whose lines no user wrote. A model that is installed, such as one of transformers, is the user's."""

LONGEST = 400


@contextmanager
def attributed_to(name: str) -> Generator[None]:
    """Turn every error inside, `sys.exit` included, into SideFailed, from None; an interrupt passes.

    Args:
        name: of the program.

    Raises:
        SideFailed: something was raised; the message names the program, the user's line, the error.
    """
    try:
        yield
    except SideFailed:
        raise
    # A script that ends in sys.exit(0) has not agreed with anything.
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's program may raise anything
        raise SideFailed(f"{name} failed{place(error.__traceback__)}: {described(error)}") from None


def described(error: BaseException) -> str:
    """Return the error's type and the first paragraph of its text."""
    text = " ".join(str(error).strip().partition("\n\n")[0].split())
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def place(trace: TracebackType | None) -> str:
    """Return " at FILE:LINE, `SOURCE`" of the innermost frame that a user wrote, or "" if there is none."""
    frames = [frame for frame in traceback.extract_tb(trace) if _is_users(frame.filename)]
    if not frames:
        return ""
    last = frames[-1]
    source = f", `{last.line}`" if last.line else ""
    return f" at {shown(last.filename)}:{last.lineno}{source}"


def shown(file: str) -> str:
    """Return a path as a user would type it: from the working directory if the file lies below it."""
    path = Path(file)
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _is_users(file: str) -> bool:
    if file.startswith("<"):
        # Lines of a notebook or of `python -c` are the user's; lines that the interpreter froze are not.
        return not file.startswith("<frozen")
    path = Path(file)
    if any(path.is_relative_to(folder) for folder in _folders()):
        return False
    standard = Path(sysconfig.get_path("stdlib"))
    return not path.is_relative_to(standard) or "site-packages" in path.parts


def _folders() -> Iterator[Path]:
    for package in FRAMEWORKS:
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            yield Path(folder)
