"""The GGUF format, byte by byte: options and tensors, each checked against the size of the file before it is read.

    file    =  "GGUF"    u32 version    u64 tensors    u64 options    options    infos    padding    data
    option  =  text name    u32 kind    value          a value is a number, a text, or an array: u32 kind    u64 n    n values
    info    =  text name    u32 axes    u64 for each size, the last axis first    u32 type    u64 offset in the data
    text    =  u64 length    UTF-8

Data are dequantised to float32. A tensor that overlaps another is refused, so that no small file makes many large arrays.

References:
    ggml-org/ggml, docs/gguf.md, versions 2 and 3, little-endian.
"""

# The library that knows the quantised types has no types.
# pyright: standard

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from attention._extras import require
from attention.spec.errors import FileError
from attention.spec.storage.disk import brief

MAGIC, VERSIONS = b"GGUF", (2, 3)
MOST_ENTRIES = 2**16
"""Options, and tensors."""
MOST_VALUES = 2**22
"""Values of an array: the largest vocabularies have 2**18 texts."""

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""The `struct` code of each kind of number."""
TEXT, ARRAY = 8, 9

PLAIN = {0: np.dtype("<f4"), 1: np.dtype("<f2"), 28: np.dtype("<f8"), 30: np.dtype(ml_dtypes.bfloat16)}
"""The types that are not quantised. Of the others the library `gguf` knows how they are."""
_MOST_AXES = 4


@dataclass
class Reader:
    """A place in the bytes of a file, which moves on as they are read."""

    data: np.ndarray
    said: str
    at: int = 0

    def take(self, n: int) -> bytes:
        """Return the next bytes."""
        return self.span(n).tobytes()

    def span(self, n: int) -> np.ndarray:
        """Return a view of the next bytes."""
        if n > len(self.data) - self.at:
            raise FileError(f"{self.said}: its {len(self.data)} bytes must be {self.at + n} or more; it is cut short")
        self.at += n
        return self.data[self.at - n : self.at]

    def number(self, kind: int) -> Any:
        """Return the next number."""
        code = f"<{NUMBERS[kind]}"
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def count(self, what: str, most: int, kind: int = 10) -> int:
        """Return the next number, which counts what follows."""
        n = self.number(kind)
        if n > most:
            raise FileError(f"{self.said}: {n} {what} must be at most {most}")
        return n

    def text(self) -> str:
        """Return the next text."""
        raw = self.take(self.number(10))
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise FileError(f"{self.said}: text {brief(repr(raw[:24]))} at byte {self.at - len(raw)} must be UTF-8") from None

    def value(self, kind: int) -> Any:
        """Return the next value of an option."""
        if kind in NUMBERS:
            return self.number(kind)
        if kind == TEXT:
            return self.text()
        if kind != ARRAY:
            raise FileError(f"{self.said}: kind {kind} of an option must be 0 to 12")
        inner, n = self.number(4), self.count("values of an array", MOST_VALUES)
        if inner == TEXT:
            return [self.text() for _ in range(n)]
        if inner not in NUMBERS:
            raise FileError(f"{self.said}: kind {inner} of an array's values must be a number's or a text's")
        code = np.dtype(f"<{NUMBERS[inner]}")
        return np.frombuffer(self.take(n * code.itemsize), code)

    def options(self, n: int) -> dict[str, Any]:
        """Return the next options, by name."""
        found: dict[str, Any] = {}
        for _ in range(n):
            name = self.text()
            if name in found:
                raise FileError(f"{self.said}: option {brief(repr(name), 60)} must stand once")
            found[name] = self.value(self.number(4))
        return found


@dataclass(frozen=True)
class Info:
    """Where a tensor is, and what it is made of: bytes from the first of the data."""

    name: str
    shape: tuple[int, ...]
    kind: int
    start: int
    size: int
    """In bytes."""


def parse(data: np.ndarray, said: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the options of a file, and its tensors in float32.

    Args:
        data: its bytes, uint8.
        said: what errors begin with.

    Raises:
        FileError: it is no GGUF file, cut short, or damaged.
        MissingExtra: it is quantised and `gguf` is not installed.
    """
    file = Reader(data, said)
    if len(data) < len(MAGIC) or file.take(len(MAGIC)) != MAGIC:
        raise FileError(f"{said}: it must begin with {MAGIC.decode()}")
    if (version := file.number(4)) not in VERSIONS:
        raise FileError(f"{said}: version {version} must be one of {', '.join(map(str, VERSIONS))}, little-endian")
    tensors, options = (file.count(what, MOST_ENTRIES) for what in ("tensors", "options"))
    found = file.options(options)
    infos = [_info(file) for _ in range(tensors)]
    alignment = found.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise FileError(f"{said}: general.alignment {brief(repr(alignment), 60)} must be a power of two")
    rest = data[file.at + -file.at % alignment :]
    _check_places(infos, len(rest), said)
    return found, {info.name: _tensor(rest, info, said) for info in infos}


def _info(file: Reader) -> Info:
    name = file.text()
    axes = file.count("axes of a tensor", _MOST_AXES, kind=4)
    shape = tuple(file.number(10) for _ in range(axes))[::-1]
    kind, start = file.number(4), file.number(10)
    said = f"{file.said}: tensor {brief(repr(name), 60)}"
    elements = math.prod(shape)
    if not 0 < elements < 2**62:
        raise FileError(f"{said} {shape} must have sizes of 1 or more, less than 2**62 elements together")
    block, size = (1, PLAIN[kind].itemsize) if kind in PLAIN else _block(kind, said)
    if not shape or shape[-1] % block:
        raise FileError(f"{said} {shape} must have rows of a multiple of {block} elements")
    return Info(name, shape, kind, start, elements // block * size)


def _block(kind: int, said: str) -> tuple[int, int]:
    """Return how many elements of a quantised type are stored together, in how many bytes."""
    require("gguf", extra="examples", wanted_by="examples.checkpoint_readers.gguf")
    from gguf import GGML_QUANT_SIZES  # noqa: PLC0415 - an extra

    sizes = {int(known): pair for known, pair in GGML_QUANT_SIZES.items()}
    if kind not in sizes:
        raise FileError(f"{said} type {kind} must be one that `gguf` knows")
    return sizes[kind]


def _check_places(infos: list[Info], size: int, said: str) -> None:
    """Raise FileError where two tensors overlap or have one name, or one leaves the file."""
    end, names = 0, set[str]()
    for info in sorted(infos, key=lambda info: info.start):
        if info.start < end or info.name in names:
            raise FileError(f"{said}: tensor {brief(repr(info.name), 60)} must be there once, and overlap no other")
        names.add(info.name)
        end = info.start + info.size
        if end > size:
            raise FileError(f"{said}: tensor {brief(repr(info.name), 60)} ends at byte {end} of {size}; it is cut short")


def _tensor(data: np.ndarray, info: Info, said: str) -> np.ndarray:
    raw = np.ascontiguousarray(data[info.start : info.start + info.size])
    if info.kind in PLAIN:
        with np.errstate(over="ignore", invalid="ignore"):
            return raw.view(PLAIN[info.kind]).astype(np.float32).reshape(info.shape)
    from gguf import GGMLQuantizationType, dequantize  # noqa: PLC0415 - an extra

    block, size = _block(info.kind, said)
    rows = raw.reshape(*info.shape[:-1], info.shape[-1] // block * size)
    try:
        # What a damaged scale makes of its block is no number, and no warning.
        with np.errstate(all="ignore"):
            return np.asarray(dequantize(rows, GGMLQuantizationType(info.kind)), np.float32).reshape(info.shape)
    except NotImplementedError:
        name = f"tensor {brief(repr(info.name), 60)}"
        raise FileError(f"{said}: {name} type {GGMLQuantizationType(info.kind).name} must be one that `gguf` reads") from None
