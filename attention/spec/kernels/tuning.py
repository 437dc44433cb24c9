"""Tuned tile sizes: measured on this machine, kept in a file on disk, and only used for speed.

    tile_for(kernel, device, dtype, width, mask, default) = the fastest that was measured here, or the default

One JSON file in the user's cache folder holds a tile for each (kernel, device's name, dtype, width, kind of mask), with the
versions that it was measured with: another version of the framework, or another device, finds nothing and takes the default.
`ATTENTION_TUNING` names another file, or is "off". A corrupt or foreign file is ignored with a warning.
"""

# JSON has no types, so values are checked before use.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import json
import os
import platform
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import metadata
from math import inf, isfinite
from pathlib import Path
from typing import Any, TypeVar

from attention.spec.errors import FileError, OptionError
from attention.spec.masks.fields import MOST, is_count
from attention.spec.storage.disk import brief, read_json, write_text

Tile = tuple[int, int]
"""Queries and keys of a tile."""

Default = TypeVar("Default")

FORMAT = {"format": "attention tiles", "version": 1}
VARIABLE = "ATTENTION_TUNING"


@dataclass(frozen=True)
class Key:
    """What a tile is measured for.

    Attributes:
        kernel: backend and name, as "torch.blockwise"; the framework whose version counts is the backend's.
        device: "cpu", or an accelerator's name; kept by its `device_name`.
        dtype: of q, k and v.
        width: D.
        mask: one of `rules.STRUCTURES`.
    """

    kernel: str
    device: str
    dtype: str
    width: int
    mask: str

    def __str__(self) -> str:
        return f"{self.kernel}, {self.device}, {self.dtype}, D {self.width}, mask {self.mask}"


def tile_for(kernel: str, device: str, dtype: str, width: int, mask: str, default: Default) -> Tile | Default:
    """Return the tile that was measured for a key on this machine, or the default.

    It reads the file once in a process, measures nothing and never fails. Under a compiler that follows Python itself, ask
    before tracing, or behind what makes the answer a constant.

    Args:
        kernel: as in `Key`; so are the others.
        device: "cpu", or an accelerator's name.
        dtype: of q, k and v.
        width: D.
        mask: one of `rules.STRUCTURES`.
        default: the kernel's own choice, or None where it makes it later.
    """
    return _known(os.environ.get(VARIABLE), Key(kernel, device, dtype, width, mask)) or default


@lru_cache(maxsize=1024)
def _known(said: str | None, key: Key) -> Tile | None:
    """Return the stored tile, or None; `said` is the value of the environment variable."""
    path = place(said)
    return None if path is None else _tiles(path).get(str(replace(key, device=device_name(key.device))))


def tuned(key: Key, candidates: Iterable[Tile], measure: Callable[[Tile], float], path: Path | None = None) -> Tile:
    """Return the tile that is kept for a key, or measure all candidates and keep the fastest.

    Args:
        key: what it is for.
        candidates: tiles.
        measure: gives the seconds of a call with a tile; infinity where the kernel cannot.
        path: the file; None: that of `place`, and where that is off, nothing is kept.

    Raises:
        OptionError: no candidate can.
        FileError: the file cannot be written.
    """
    path = place(os.environ.get(VARIABLE)) if path is None else path
    key = replace(key, device=device_name(key.device))
    kept = None if path is None else _tiles(path).get(str(key))
    if kept is not None:
        return kept
    times = {tile: measure(tile) for tile in candidates}
    if not any(isfinite(seconds) for seconds in times.values()):
        raise OptionError(f"candidates {list(times)} must hold a tile with which {key} runs")
    best = min(times, key=lambda tile: times.get(tile, inf))
    if path is not None:
        keep(path, key, best, times[best])
    return best


def keep(path: Path, key: Key, tile: Tile, seconds: float) -> None:
    """Add a tile to the file; the file is replaced atomically.

    Raises:
        FileError: it cannot be written.
    """
    entries = {**_entries(path), str(key): {"tile": list(tile), "seconds": seconds, "versions": versions(key.kernel)}}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"path {brief(repr(str(path)))} must be writable: {brief(error)}") from error
    write_text(path, json.dumps({**FORMAT, "entries": entries}, indent=1) + "\n")
    forget()


def forget() -> None:
    """Read the file again at the next use."""
    _tiles.cache_clear()
    _known.cache_clear()


def place(said: str | None) -> Path | None:
    """Return the file named by the variable: the user's default if unset, None if "off"."""
    if said and said.lower() == "off":
        return None
    return Path(said) if said else _folder() / "attention" / "tiles.json"


def _folder() -> Path:
    """Return the folder in which this platform's programs keep what they can make again."""
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"])
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path.home() fails where there is no home
    if sys.platform == "darwin":
        return home / "Library" / "Caches"
    return Path(os.environ["LOCALAPPDATA"]) if os.environ.get("LOCALAPPDATA") else home / ".cache"


@lru_cache(maxsize=8)
def _tiles(path: Path) -> dict[str, Tile]:
    """Return the tiles of a file that the versions installed here have measured, by the text of their key."""
    found: dict[str, Tile] = {}
    for name, entry in _entries(path).items():
        if entry["versions"] == versions(name.partition(",")[0]):
            found[name] = (entry["tile"][0], entry["tile"][1])
    return found


def _entries(path: Path) -> dict[str, dict[str, Any]]:
    """Return the entries of a file; of one that is not there, corrupt or not ours, none."""
    try:
        content: Any = read_json(path, "JSON")
    except FileError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return {}
        return _ignored(path, f"is no readable JSON: {error}")
    if not isinstance(content, dict) or {name: content.get(name) for name in FORMAT} != FORMAT:
        return _ignored(path, f"has no header {FORMAT}")
    entries: Any = content.get("entries")
    if not isinstance(entries, dict) or not all(_is_entry(entry) for entry in entries.values()):
        return _ignored(path, "holds entries without a tile of two counts and its versions")
    return entries


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("versions"), dict):
        return False
    tile: Any = entry.get("tile")
    return isinstance(tile, list) and len(tile) == 2 and all(is_count(n, 1) and n <= MOST for n in tile)


def _ignored(path: Path, reason: str) -> dict[str, dict[str, Any]]:
    text = f"tile sizes in {str(path)!r} are ignored, for the file {reason}; `attention kernels tune` writes it anew"
    warnings.warn(text, stacklevel=2)
    return {}


@lru_cache(maxsize=8)
def versions(kernel: str) -> dict[str, str]:
    """Return the versions on which a tile depends: ours, and that of the framework of the kernel's backend."""
    framework = kernel.partition(".")[0]
    return {"attention": _version("attention-parity"), framework: _version(framework)}


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


@lru_cache(maxsize=8)
def device_name(device: str) -> str:
    """Return an accelerator's name as it is, and for "cpu" the processor's model and how many of its cores may be used."""
    if device != "cpu":
        return device
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{models[0] if models else platform.processor() or platform.machine()} x {cores}"
