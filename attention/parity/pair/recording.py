"""Recordings: what one side made, in a file, so that the other side may run on another machine.

    write(path, Recording(kind, facts, arrays))        read(path).arrays == arrays, bit for bit

One safetensors file: arrays by name, and in its header the format, its version and the facts as JSON. A file is written beside
its target and then moved onto it; it is read whole and checked whole before anything is compared.
"""

# safetensors says nothing of its types, and a file may hold anything.
# pyright: standard

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from attention.parity import certificate
from attention.spec import files
from attention.spec.errors import FileError, shown

FORMAT, VERSION = "attention recording", "1"
KINDS = ("contracts", "program")


@dataclass(frozen=True, eq=False)
class Recording:
    """What a side made.

    Attributes:
        kind: "contracts" for a backend on the probes of named contracts, "program" for a user's own.
        facts: JSON-ready: what ran, and what it was asked.
        arrays: by name.
        environment: of the machine that it ran on: versions, devices, precision flags.
    """

    kind: str
    facts: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray] = field(repr=False)
    environment: Mapping[str, str] = field(default_factory=certificate.environment)

    @property
    def note(self) -> str:
        """A line for the report: where the recording was made, and what is another version here."""
        here = certificate.environment()
        # A framework that is not imported here has no flags here.
        both = [(name, value, here[name]) for name, value in self.environment.items() if name in here]
        other = [f"{name} {there} (here {value})" for name, there, value in both if there != value]
        told = f", otherwise than here: {', '.join(other)}" if other else ", in an environment like this one"
        return f"{self.facts['side']} was recorded on {self.environment.get('machine', 'an unknown machine')}{told}"


def write(path: str | os.PathLike[str], recording: Recording) -> None:
    """Write a recording.

    Raises:
        FileError: the path cannot be written.
    """
    told = {"kind": recording.kind, "facts": recording.facts, "environment": dict(recording.environment)}
    header = {"format": FORMAT, "version": VERSION, "recording": json.dumps(told)}
    files.write(path, recording.arrays, header)


def read(path: str | os.PathLike[str]) -> Recording:
    """Return the recording in a file.

    Raises:
        FileError: the file is missing, cut short, corrupt, not a recording, or of another version.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            # safetensors gives a scalar as NumPy's own, which is no array.
            arrays = {name: np.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, ValueError, SafetensorError) as error:
        raise FileError(f"path {shown(str(path))} must be a whole safetensors file: {error}") from error
    if header.get("format") != FORMAT:
        told = header.get("format", "no format")
        raise FileError(f"path {str(path)!r} holds {told!r} and must be a recording, as 'attention parity record' writes it")
    if header.get("version") != VERSION:
        raise FileError(f"path {str(path)!r} has version {header.get('version')} and must have {VERSION}: record it again")
    try:
        told = json.loads(header["recording"])
        found = Recording(told["kind"], told["facts"], arrays, told["environment"])
        _ = found.note
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, RecursionError) as error:
        raise FileError(f"path {shown(str(path))} must hold what was recorded as JSON: {error!r}") from error
    if found.kind not in KINDS:
        raise FileError(f"path {str(path)!r} records {found.kind!r} and must record one of {', '.join(KINDS)}")
    return found
