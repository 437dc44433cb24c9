"""Checks of output paths before the work begins."""

from __future__ import annotations

import os
from pathlib import Path

from attention.spec.errors import FileError
from attention.spec.storage.disk import brief


def make_folder(path: str | os.PathLike[str]) -> None:
    """Make the folder of a file that is about to be written.

    Raises:
        FileError: it cannot be made.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"path {brief(repr(str(path)))} must be writable: {brief(error)}") from None


def check_writable(path: str | os.PathLike[str], *, folder: bool = False) -> None:
    """Check that a file, or files in a folder, can be written; nothing is created.

    Args:
        path: of the file, whose folders may be absent, or of the folder.
        folder: whether it is a folder.

    Raises:
        FileError: something else is there, or the nearest folder that exists is not writable.
    """
    place = Path(path)
    try:
        if not folder and place.is_dir():
            raise FileError(f"path {brief(repr(str(path)))} must be a file, and is a folder")
        if not folder and place.exists() and not os.access(place, os.W_OK):
            raise FileError(f"path {brief(repr(str(path)))} must be writable")
        # A file is written beside its place and moved there, so the folder must be writable too.
        nearest = place if folder else place.parent
        while not nearest.exists() and nearest != nearest.parent:
            nearest = nearest.parent
    except (OSError, ValueError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"path {brief(repr(str(path)))} must be writable: {brief(error)}") from None
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise FileError(f"path {brief(repr(str(path)))} must be writable: {brief(repr(str(nearest)))} is no writable folder")
