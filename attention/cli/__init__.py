"""The command line: `attention COMMAND`, or `python -m attention.cli COMMAND`.

    attention verify      both backends against the float64 oracle, contract by contract
    attention compare     two programs: whether they differ, where, and which known mistake it is
    attention layers      two models block by block, each block on what it really received
    attention decoding    decoding with a cache beside the whole pass
    attention logits      the logits of two language models, position by position
    attention record      what a program makes, in a file for another machine
    attention replay      a recording compared with what runs here
    attention cases       the named cases as files, for an implementation in any language
    attention kernels     which kernel a call takes, what each costs, and tile sizes for this machine
    attention bench       how fast attention is, beside its peers; in a checkout of the repository

Exit codes: 0 agrees (or done), 1 differs, 2 cannot tell or bad usage, 130 interrupted.
Each command has a file of its own, and imports a framework only when it runs.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attention.cli.application import app as app

IMPORTING = "<frozen importlib._bootstrap>"
"""The file name of Python's own frames while a module is imported."""
PATIENCE = 5.0
"""Seconds after which an interrupt ends the process, should a callback of a framework have swallowed the exception."""


def main() -> None:
    """Run the command line."""
    _ = signal.signal(signal.SIGINT, _interrupt)
    from attention.cli.commands import run  # noqa: PLC0415 - an interrupt during these imports is handled too

    run()


def _interrupt(_number: int, frame: FrameType | None) -> None:
    """End at once while a module is imported, where extension modules swallow exceptions; else raise KeyboardInterrupt."""
    while frame is not None:
        if frame.f_code.co_filename == IMPORTING:
            _end()
        frame = frame.f_back
    if hasattr(signal, "setitimer"):
        _ = signal.signal(signal.SIGALRM, _end)
        _ = signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    raise KeyboardInterrupt


def _end(*_signal: object) -> None:
    """End this process and those that it started."""
    _ = os.write(2, b"attention: interrupted\n")
    if "multiprocessing" in sys.modules:
        for process in sys.modules["multiprocessing"].active_children():
            process.terminate()
    os._exit(130)


def __getattr__(name: str) -> Any:
    """Return the application when it is asked for: its import takes longer than this file's."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from attention.cli.commands import app as found  # noqa: PLC0415

    return found
