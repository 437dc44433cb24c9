"""The safetensors format: read and write, with the header checked before any tensor is read.

    file    =  u64 n    n bytes of JSON    data
    header  =  {"__metadata__": {text: text}, name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...}

The tensors fill the data without a hole and without an overlap, so a read never exceeds the file.

References:
    huggingface/safetensors, README, "Format".
"""

# JSON values are checked before use, and NumPy leaves types open.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownLambdaType=false

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BufferedReader, BytesIO
from typing import Any

import ml_dtypes
import numpy as np

from attention.spec.errors import FileError
from attention.spec.masks.fields import MOST
from attention.spec.numbers import is_count
from attention.spec.storage.disk import MOST_JSON, brief, opened, parsed, replaced

DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    **{f"{letter}{8 * size}": np.dtype(f"<{letter.lower()}{size}") for letter in "IU" for size in (1, 2, 4, 8)},
    "BOOL": np.dtype(bool),
}
"""The number types that NumPy has, by their names in the file."""

METADATA = "__metadata__"
_AXES = 32
_MARK = 8
"""Bytes of the header's length."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of a header: its number type, its sizes, and its bytes from the first of the data."""

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Header:
    """The header of a file, checked against its size.

    Attributes:
        metadata: texts by name.
        tensors: by name, in the order of the data.
        data: where in the file the data begins.
        said: what errors about the file begin with.
    """

    metadata: Mapping[str, str]
    tensors: Mapping[str, Tensor] = field(repr=False)
    data: int
    said: str


def header(file: BufferedReader | BytesIO, said: str) -> Header:
    """Return the checked header of a file.

    Args:
        file: open at its beginning.
        said: what errors begin with.

    Raises:
        FileError: it is no safetensors file, cut short, damaged, or has a number type that NumPy lacks.
    """
    size = file.seek(0, os.SEEK_END)
    _ = file.seek(0)
    mark = file.read(_MARK)
    length = int.from_bytes(mark, "little")
    if len(mark) < _MARK or not 2 <= length <= min(MOST_JSON, size - _MARK):
        if mark.startswith(b"{"):
            raise FileError(f"{said}: it is JSON, such as the index of a checkpoint in parts; give a file of weights")
        raise FileError(f"{said}: its {size} bytes have no header of 2 to {MOST_JSON} bytes; it is cut short, or foreign")
    entries = parsed(file.read(length), said)
    if not isinstance(entries, dict):
        raise FileError(f"{said}: its header must be a JSON object")
    metadata = entries.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise FileError(f"{said}: its metadata must be texts by name")
    found = {name: _tensor(entry, f"{said}: tensor {brief(repr(name), 60)}") for name, entry in entries.items()}
    tensors = dict(sorted(found.items(), key=lambda item: (item[1].start, item[1].stop)))
    end = 0
    for name, tensor in tensors.items():
        if tensor.start != end:
            raise FileError(f"{said}: tensor {brief(repr(name), 60)} begins at byte {tensor.start} and must begin at {end}")
        end = tensor.stop
    if _MARK + length + end != size:
        raise FileError(f"{said}: its {size} bytes must be {_MARK + length + end}, as its header says")
    return Header(metadata, tensors, _MARK + length, said)


def _tensor(entry: Any, said: str) -> Tensor:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise FileError(f"{said} must have dtype, shape and data_offsets")
    name, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(name, str) or name not in DTYPES:
        raise FileError(f"{said} has dtype {brief(repr(name), 40)} and must have one of {', '.join(DTYPES)}")
    for what, numbers, most in (("shape", shape, _AXES), ("data_offsets", offsets, 2)):
        if not isinstance(numbers, list) or len(numbers) > most or not all(is_count(n, 0) for n in numbers):
            raise FileError(f"{said} {what} {brief(repr(numbers), 60)} must be at most {most} ints >= 0")
    if any(size > MOST for size in shape):
        raise FileError(f"{said} shape {brief(repr(shape), 60)} must have sizes below 2**31")
    # NumPy multiplies the other axes even where one of them is 0.
    if math.prod(size or 1 for size in shape) * DTYPES[name].itemsize >= 2**63:
        raise FileError(f"{said} shape {brief(repr(shape), 60)} must have less than 2**63 bytes")
    wanted = math.prod(shape) * DTYPES[name].itemsize
    if len(offsets) != 2 or offsets[1] - offsets[0] != wanted:
        raise FileError(f"{said} data_offsets {brief(repr(offsets), 60)} must hold {wanted} bytes")
    return Tensor(DTYPES[name], tuple(shape), *offsets)


def arrays(file: BufferedReader | BytesIO, head: Header) -> dict[str, np.ndarray]:
    """Return the tensors of a file whose header is `head`, as arrays of their own.

    Raises:
        FileError: the file became shorter meanwhile, or has a bool that is neither 0 nor 1.
    """
    found: dict[str, np.ndarray] = {}
    for name, tensor in head.tensors.items():
        array = np.empty(tensor.shape, tensor.dtype)
        raw = array.reshape(-1).view(np.uint8)
        _ = file.seek(head.data + tensor.start)
        if file.readinto(raw.data) != raw.size:
            raise FileError(f"{head.said}: it was cut short while it was read")
        if tensor.dtype == bool and raw.size and raw.max() > 1:
            raise FileError(f"{head.said}: tensor {brief(repr(name), 60)} must hold bools, 0 or 1")
        found[name] = array
    return found


def mapped(file: BufferedReader, head: Header) -> dict[str, np.ndarray]:
    """Return the tensors of a file whose header is `head`, read-only, each read from disk at its first use.

    Raises:
        FileError: the file has a bool that is neither 0 nor 1.
    """
    whole = np.memmap(file, np.uint8, "r") if head.tensors else np.empty(0, np.uint8)
    found: dict[str, np.ndarray] = {}
    for name, tensor in head.tensors.items():
        raw = np.asarray(whole[head.data + tensor.start : head.data + tensor.stop])
        if tensor.dtype == bool and raw.size and raw.max() > 1:
            raise FileError(f"{head.said}: tensor {brief(repr(name), 60)} must hold bools, 0 or 1")
        # Frameworks refuse arrays with another alignment.
        raw = raw.copy() if (head.data + tensor.start) % tensor.dtype.itemsize else raw
        found[name] = raw.view(tensor.dtype).reshape(tensor.shape)
    return found


def write(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file whole or not at all; no more than one array is copied at a time.

    Args:
        path: of the file.
        arrays: by name, of the number types in `DTYPES`.
        metadata: texts by name.

    Raises:
        FileError: the path cannot be written, a number type is not known, or the header would be too long to be read.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    entries: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    end = 0
    # Wide numbers first, so that every array begins at a multiple of its own width.
    order = sorted(arrays, key=lambda name: -arrays[name].dtype.itemsize)
    for name in order:
        x = arrays[name]
        kind = names.get(_little(x.dtype))
        if kind is None:
            raise FileError(f"array {brief(repr(name), 60)} {x.dtype} must have one of {', '.join(DTYPES)}")
        entries[name] = {"dtype": kind, "shape": list(x.shape), "data_offsets": [end, end + x.nbytes]}
        end += x.nbytes
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MOST_JSON:
        raise FileError(f"header of {len(arrays)} arrays, {len(text)} bytes, must be at most {MOST_JSON}")
    with replaced(path) as partial, partial.open("wb") as file:
        _ = file.write(len(text).to_bytes(_MARK, "little") + text)
        for name in order:
            x = np.ascontiguousarray(arrays[name], _little(arrays[name].dtype))
            _ = file.write(x.reshape(-1).view(np.uint8).data)


def _little(dtype: np.dtype) -> np.dtype:
    return dtype.newbyteorder("<") if dtype.byteorder == ">" else dtype


def read(path: str | os.PathLike[str], wanted: str, *, lazily: bool = False) -> tuple[Header, dict[str, np.ndarray]]:
    """Return the header of a safetensors file, and its tensors.

    Args:
        path: of the file.
        wanted: what it must be, for the errors: "a recording".
        lazily: whether tensors are read at first use; the file must then not change.

    Raises:
        FileError: it cannot be read, or is no whole safetensors file.
    """
    with opened(path, wanted) as file:
        head = header(file, f"path {brief(repr(str(path)))} must be {wanted}")
        return head, mapped(file, head) if lazily else arrays(file, head)


def loaded(content: bytes, said: str = "content must be a whole safetensors file") -> dict[str, np.ndarray]:
    """Return the tensors in the bytes of a safetensors file.

    Raises:
        FileError: they are no whole safetensors file; its message begins with `said`.
    """
    file = BytesIO(content)
    return arrays(file, header(file, said))
