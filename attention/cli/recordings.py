"""Recordings on the command line: a .safetensors file of `attention record` stands in the place of a program."""

from __future__ import annotations

from typing import Any

FILE = ".safetensors"


def program_or_recording(spec: str) -> Any:
    """Return the program that a spec names, or the recorded model in a file.

    Raises:
        FileError: the file is no recording of a model.
    """
    from attention.cli.loading import program  # noqa: PLC0415 - NumPy is imported by the command that needs it

    if not spec.endswith(FILE):
        return program(spec)
    from attention.parity.compare.recorded_model import recorded_model  # noqa: PLC0415

    return recorded_model(spec)


def is_recording(spec: str) -> bool:
    """Return whether a file is a recording and not one of arrays.

    Raises:
        FileError: it cannot be read.
    """
    if not spec.endswith(FILE):
        return False
    from attention.parity.compare.recording_file import FORMAT  # noqa: PLC0415
    from attention.spec.storage.disk import opened  # noqa: PLC0415
    from attention.spec.storage.safetensors_format import header  # noqa: PLC0415

    with opened(spec, "a safetensors file") as file:
        return header(file, f"file {spec!r} must be a safetensors file").metadata.get("format") == FORMAT
