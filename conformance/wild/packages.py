"""Modules of published packages: as they are, or with a mistake planted in their own source text.

    (model,) = imported("ablang_jax.model", edits=(("ablang_jax.model", "/ HEAD_DIM", "/ HEAD_DIM**0.5"),))

The edited source stands in a temporary folder under its own file name and is imported in the place of the original, so that
lines are those of a file that can be read. Packages are taken as folders: their `__init__`, which often imports everything that
a package can do, is not run, and packages that are not installed are needed only by the modules that are asked for.
"""

import atexit
import importlib
import importlib.util
import itertools
import sys
import tempfile
import types
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path

Edit = tuple[str, str, str]

_FOLDER = tempfile.TemporaryDirectory(prefix="wild_")
_ = atexit.register(_FOLDER.cleanup)
_COPIES = itertools.count()


class Missing(ImportError):
    """A package that a pair needs is not installed."""


def require(**packages: str) -> None:
    """Raise Missing unless every module is there; `packages` are the names to install, by module."""
    for module, package in packages.items():
        if importlib.util.find_spec(module) is None:
            raise Missing(f"{module} is not installed: pip install --no-deps {package}")


def source(module: str) -> Path:
    """Return the file of a module, without importing anything."""
    top, *inner = module.split(".")
    return _root(top).joinpath(*inner).with_suffix(".py")


def replaced(text: str, old: str, new: str) -> str:
    """Return the text with `old`, which must occur once, replaced by `new`."""
    found = text.count(old)
    if found != 1:
        raise ValueError(f"{old!r} occurs {found} times; wanted once")
    return text.replace(old, new)


def imported(*names: str, edits: Iterable[Edit] = ()) -> list[types.ModuleType]:
    """Import modules of one package afresh, with the edits (module, old, new) that are made to its source."""
    top = names[0].partition(".")[0]
    for name in [n for n in sys.modules if n == top or n.startswith(f"{top}.")]:
        del sys.modules[name]
    finder = _Finder(top, edits)
    sys.meta_path.insert(0, finder)
    try:
        return [importlib.import_module(name) for name in names]
    finally:
        sys.meta_path.remove(finder)


class _Finder:
    """Finds the modules of one package: folders as empty packages, edited modules in their copies."""

    def __init__(self, top: str, edits: Iterable[Edit]) -> None:
        self.top = top
        self.copies: dict[str, Path] = {}
        for module, old, new in edits:
            if module.startswith(f"{top}."):
                self._edit(module, old, new)

    def _edit(self, module: str, old: str, new: str) -> None:
        if module not in self.copies:
            copy = Path(_FOLDER.name, str(next(_COPIES)), source(module).name)
            copy.parent.mkdir()
            _ = copy.write_text(source(module).read_text())
            self.copies[module] = copy
        copy = self.copies[module]
        _ = copy.write_text(replaced(copy.read_text(), old, new))

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        """Return the spec of a module of this package, None for any other."""
        top, *inner = name.split(".")
        if top != self.top:
            return None
        folder = _root(top).joinpath(*inner)
        if folder.is_dir():
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [str(folder)]
            return spec
        file = self.copies.get(name, source(name))
        return importlib.util.spec_from_file_location(name, file) if file.exists() else None


def _root(top: str) -> Path:
    """Return the folder of a package."""
    for place in sys.path:
        if Path(place, top).is_dir():
            return Path(place, top)
    raise Missing(f"{top} is not installed")
