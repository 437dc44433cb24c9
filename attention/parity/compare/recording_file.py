"""Recordings: the results of a program in a file, for a comparison on another machine.

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

from attention.parity.results import provenance
from attention.spec.errors import FileError
from attention.spec.storage import safetensors_format as tensors
from attention.spec.storage.disk import brief, parsed

FORMAT, VERSION = "attention recording", "1"
KINDS = ("contracts", "program", "model")


@dataclass(frozen=True, eq=False)
class Recording:
    """The results of a program.

    Attributes:
        kind: "contracts" for a backend on the probes of named contracts, "program" for a user's own, "model" for one with
            its blocks, logits and decoding.
        facts: JSON-ready: what ran, and on which calls.
        arrays: by name.
        environment: of the machine that it ran on: versions, devices, precision flags.
    """

    kind: str
    facts: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray] = field(repr=False)
    environment: Mapping[str, str] = field(default_factory=provenance.environment)

    @property
    def note(self) -> str:
        """A line for the report: where the recording was made, and what is another version here."""
        here = provenance.environment()
        # A framework that is not imported here has no flags here.
        both = [(name, value, here[name]) for name, value in self.environment.items() if name in here]
        other = [f"{name} {there} (here {value})" for name, there, value in both if there != value]
        told = (
            f", where other versions are installed: {brief(', '.join(other))}" if other else ", in an environment like this one"
        )
        machine = self.environment.get("machine", "an unknown machine")
        return f"{brief(self.facts['side'], 60)} was recorded on {brief(machine)}{told}"


def write(path: str | os.PathLike[str], recording: Recording) -> None:
    """Write a recording.

    Raises:
        FileError: the path cannot be written.
    """
    told = {"kind": recording.kind, "facts": recording.facts, "environment": dict(recording.environment)}
    header = {"format": FORMAT, "version": VERSION, "recording": json.dumps(told)}
    tensors.write(path, recording.arrays, header)


def read(path: str | os.PathLike[str], *, lazily: bool = False) -> Recording:
    """Return the recording in a file.

    Args:
        path: of the file.
        lazily: whether arrays are read when they are looked at; the file must then stay as it is.

    Raises:
        FileError: the file is missing, cut short, corrupt, not a recording, or of another version.
    """
    head, arrays = tensors.read(path, "a whole safetensors file, as 'attention record' writes it", lazily=lazily)
    header, said = head.metadata, f"path {brief(repr(str(path)))}"
    if header.get("format") != FORMAT:
        told = brief(repr(header.get("format", "no format")), 60)
        raise FileError(f"{said} holds {told} and must be a recording, as 'attention record' writes it")
    if header.get("version") != VERSION:
        got = brief(header.get("version"), 60)
        raise FileError(f"{said} has version {got} and must have {VERSION}: record it again")
    told = parsed(header.get("recording", ""), f"{said} must hold what was recorded as JSON")
    kinds = {"kind": str, "facts": dict, "environment": dict}
    wrong = [name for name, kind in kinds.items() if not isinstance(told, dict) or not isinstance(told.get(name), kind)]
    if wrong:
        raise FileError(f"{said} must hold what was recorded as JSON: {wrong[0]} is missing or wrong")
    found = Recording(told["kind"], told["facts"], arrays, told["environment"])
    if found.kind not in KINDS:
        raise FileError(f"{said} records {brief(repr(found.kind), 60)} and must record one of {', '.join(KINDS)}")
    texts = [found.facts.get("side"), *(text for pair in found.environment.items() for text in pair)]
    if not all(isinstance(text, str) for text in texts):
        raise FileError(f"{said} must say as texts what ran, and in which environment")
    return found
