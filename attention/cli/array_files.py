"""Readers of .npy and .npz files, which check each header against the file's size before they allocate.

read(path) = array        read(path) = {name: array}
"""

from __future__ import annotations

import math
import os
import zipfile
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from attention.spec.errors import FileError
from attention.spec.storage.disk import brief, opened

MOST_PACKED, MOST_TIMES = 2**26, 20
"""Bytes that a compressed file may unpack to; if it is more, so many times its own size."""

HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    """Return the array of a .npy file, or those of a .npz file by name.

    Raises:
        FileError: it is neither, is cut short, or would unpack to far more than it holds.
        ValueError, OSError, zipfile.BadZipFile: what NumPy and zipfile raise for a damaged file.
    """
    with opened(path, "a file of arrays") as file:
        size = os.fstat(file.fileno()).st_size
        if path.suffix == ".npy":
            return _array(file, size, path.name)
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            unpacked = sum(member.file_size for member in members)
            if unpacked > max(MOST_PACKED, MOST_TIMES * size):
                raise FileError(f"{size} bytes unpack to {unpacked}, which must be at most {MOST_TIMES} times as many")
            found: dict[str, np.ndarray] = {}
            for member in members:
                with archive.open(member) as inner:
                    found[member.filename.removesuffix(".npy")] = _array(inner, member.file_size, member.filename)
            return found


def _array(file: IO[bytes], size: int, name: str) -> np.ndarray:
    """Return the array of an open .npy file of so many bytes."""
    version = npy.read_magic(file)
    if version not in HEADERS:
        raise FileError(f"{brief(name, 60)} version {version} must be one of {', '.join(map(str, HEADERS))}")
    shape, by_column, dtype = HEADERS[version](file)
    if dtype.hasobject or min(shape, default=0) < 0:
        raise FileError(f"{brief(name, 60)} {dtype} {brief(shape, 60)} must hold numbers")
    wanted, there = math.prod(shape) * dtype.itemsize, size - file.tell()
    if wanted != there or math.prod(n or 1 for n in shape) >= 2**62:
        raise FileError(f"{brief(name, 60)} {brief(shape, 60)} must have {brief(wanted, 60)} bytes, not {there}")
    if not wanted:
        return np.zeros(shape, dtype)
    return np.frombuffer(bytearray(file.read(wanted)), dtype).reshape(shape, order="F" if by_column else "C")
