"""The file format of an export: an index, and two files for each call.

    folder/index.json                              all cases, and the SHA-256 of every file
    folder/<case>/<probe>.<dtype>.json             the contract and everything that is no array
    folder/<case>/<probe>.<dtype>.safetensors      every array, as "<group>.<name>"

The index is written last and removed first, so that a folder with an index is a complete export.
"""

# JSON may hold anything and is validated first.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from attention.spec.errors import FileError, UnknownName, shown
from attention.spec.storage import disk
from attention.spec.storage.disk import brief, read_json

FORMAT, VERSION = "attention-cases", "1"
INDEX = "index.json"
SUFFIXES = ("json", "safetensors")

GROUPS = ("inputs", "weights", "cotangents", "masks", "positions", "rotary", "keep", "oracle", "sigma")
"""The prefixes of array names."""


@dataclass(frozen=True)
class Entry:
    """One call of an export.

    Args:
        case: the contract's name.
        probe: what the call is there to catch.
        dtype: of weights and inputs.
        sha256: of the two files, by suffix.
    """

    case: str
    probe: str
    dtype: str
    sha256: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def path(self) -> str:
        """The two files, without their suffixes: relative to the folder, with slashes.

        >>> Entry("self", "few keys", "float32").path
        'self/few_keys.float32'
        """
        return f"{self.case}/{self.probe.replace(' ', '_')}.{self.dtype}"

    @property
    def files(self) -> tuple[str, ...]:
        """Both files, relative to the folder."""
        return tuple(f"{self.path}.{suffix}" for suffix in SUFFIXES)

    def __str__(self) -> str:
        return f"{self.case}, {self.dtype}: {self.probe}"


@dataclass(frozen=True)
class Index:
    """The contents of an export.

    Attributes:
        entries: the calls, in the order in which they were written.
        cases: of each contract by name: "about", "source" and "contract".
        made_with: versions of the libraries.
        seed: of all numbers.
        rounds: what the budgets let a kernel round besides: see `Kernel.rounds`.
    """

    entries: tuple[Entry, ...]
    cases: Mapping[str, Mapping[str, Any]]
    made_with: Mapping[str, str]
    seed: int = 0
    rounds: tuple[str, ...] = ()

    def chosen(self, cases: tuple[str, ...] = (), dtypes: tuple[str, ...] = ()) -> list[Entry]:
        """Return the calls of these contracts and dtypes; none given means all of them.

        Raises:
            UnknownName: the export has no such contract or dtype.
        """
        held = {"contract": tuple(self.cases), "dtype": tuple(dict.fromkeys(entry.dtype for entry in self.entries))}
        for kind, names in (("contract", cases), ("dtype", dtypes)):
            for name in names:
                if name not in held[kind]:
                    raise UnknownName(f"{kind} {shown(name)} must be one of those exported: {', '.join(held[kind])}")
        return [e for e in self.entries if (not cases or e.case in cases) and (not dtypes or e.dtype in dtypes)]

    def to_json(self) -> str:
        """Return the text of the index file."""
        calls = [
            {"case": e.case, "probe": e.probe, "dtype": e.dtype, "path": e.path, "sha256": {**e.sha256}} for e in self.entries
        ]
        about = {"made_with": self.made_with, "seed": self.seed, "rounds": self.rounds, "cases": self.cases}
        return json.dumps({"format": FORMAT, "version": VERSION, **about, "calls": calls}, indent=1) + "\n"


def sha256(content: bytes) -> str:
    """Return the checksum of a file's content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def is_export(folder: Path) -> bool:
    """Return whether the folder holds an export of any version."""
    try:
        return _read(folder).get("format") == FORMAT
    except (FileError, AttributeError):
        return False


def read_index(folder: Path) -> Index:
    """Return the index of an export.

    Raises:
        FileError: there is none, or it is not ours, or of another version.
    """
    data, path = _read(folder), folder / INDEX
    check_header(path, data)
    try:
        return _index(data)
    except (KeyError, TypeError, ValueError) as error:
        said = f"path {brief(repr(str(path)))} must list its calls as version {VERSION} does"
        raise FileError(f"{said}: {brief(repr(error))}") from error


def _index(data: Mapping[str, Any]) -> Index:
    entries = tuple(_entry(call) for call in data["calls"])
    cases, made_with, seed, rounds = (data[name] for name in ("cases", "made_with", "seed", "rounds"))
    if not (_named(cases, dict) and _named(made_with, str) and isinstance(seed, int) and _texts(rounds)):
        raise ValueError("cases, made_with, seed and rounds must be objects and texts by name, an int, and texts")
    return Index(entries, cases, made_with, seed, tuple(rounds))


def _read(folder: Path) -> Any:
    try:
        return read_json(folder / INDEX, "JSON")
    except FileError as error:
        said = f"folder {brief(repr(str(folder)))} must hold {INDEX}, as `attention cases export` writes it"
        raise FileError(f"{said}: {brief(error, 180)}") from error


def _named(found: Any, kind: type) -> bool:
    return isinstance(found, dict) and all(isinstance(value, kind) for value in found.values())


def _texts(found: Any) -> bool:
    return isinstance(found, list) and all(isinstance(text, str) for text in found)


def check_header(path: Path, data: Any) -> None:
    """Raise FileError unless a JSON file is ours, and of the version that is read here."""
    found = {name: data.get(name) for name in ("format", "version")} if isinstance(data, dict) else data
    wanted = {"format": FORMAT, "version": VERSION}
    if found != wanted:
        raise FileError(f"path {brief(repr(str(path)))} has {brief(found)} but must have {wanted}")


def _entry(call: Any) -> Entry:
    names = tuple(call[name] for name in ("case", "probe", "dtype"))
    if not _texts(list(names)) or not _named(call["sha256"], str):
        raise TypeError("case, probe and dtype must be texts, and sha256 texts by name")
    entry = Entry(*names, sha256=call["sha256"])
    path = PurePosixPath(entry.path)
    # An index from elsewhere must not make us read, or remove, what lies outside its folder.
    if len(path.parts) != 2 or ".." in path.parts or call["path"] != entry.path or set(entry.sha256) != set(SUFFIXES):
        raise ValueError(f"call {shown(call['path'])} must lie at {entry.path!r}, with a checksum each of {SUFFIXES}")
    return entry


def verified(folder: Path, entry: Entry) -> dict[str, bytes]:
    """Return the content of both files of a call, by suffix.

    Raises:
        FileError: a file is missing, or is not the one that was exported.
    """
    content: dict[str, bytes] = {}
    for suffix, name in zip(SUFFIXES, entry.files, strict=True):
        path = folder / name
        content[suffix] = disk.content(path, "readable")
        got, wanted = sha256(content[suffix]), entry.sha256[suffix]
        if got != wanted:
            said = f"path {brief(repr(str(path)))} has SHA-256 {got} but must have {brief(wanted, 80)}"
            raise FileError(f"{said} as {INDEX} says: export it anew")
    return content
