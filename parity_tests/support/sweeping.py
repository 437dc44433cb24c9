"""Outcome of a call with an odd argument: a result, one of our errors, or anything else."""

from __future__ import annotations

import math
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
import torch

from attention.spec.errors import AttentionError
from parity_tests.support.odd_values import Odd
from parity_tests.support.public_calls import Public

LONGEST = 500
"""The most characters of a message."""
SECONDS = 10.0
"""The most time of a processor that a call may take: a refusal takes none, but a first call may import a library."""
PATIENCE = 12
"""A call is interrupted after so many times `SECONDS` of wall time, on a machine that other processes load."""

DATA = frozenset({"bias", "sinks", "q", "k", "v", "x"})
"""Arguments that are arrays, which may hold NaN."""
FUNCTIONS = frozenset({"score_mod", "constant", "progress", "program", "expected"})
"""Arguments that are functions, which may raise what they like."""


def fault(call: Public, argument: str, odd: Odd, *, briefly: bool = False) -> str:
    """Return what is wrong with a call one of whose arguments is odd, or "" if nothing is.

    Args:
        call: what is called.
        argument: which of its arguments is odd.
        odd: the value.
        briefly: whether a call of two programs may be over with the first.
    """
    arguments = call.briefly() if briefly else call.arguments()
    arguments[argument] = odd.make()
    begun = time.process_time()
    try:
        with _interrupted(int(SECONDS * PATIENCE)):
            made = call.run(arguments)
    except AttentionError as error:
        return _message_fault(str(error)) or _slow(begun)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is the fault that is looked for
        return "" if _is_theirs(argument, arguments[argument]) else _told(error)
    if late := _slow(begun):
        return late
    if odd.kind == "not finite" and argument not in DATA and not finite(made):
        return "a result that is not finite"
    return ""


@contextmanager
def _interrupted(seconds: int) -> Iterator[None]:
    """Raise a TimeoutError in a call that runs for longer, so that a size without a limit is a failure and no endless run."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"runs for more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    _ = signal.alarm(seconds)
    try:
        yield
    finally:
        _ = signal.alarm(0)
        _ = signal.signal(signal.SIGALRM, before)


def _is_theirs(argument: str, value: object) -> bool:
    """Return whether a call fails because it called what it was given as a function: a module of torch takes any arguments."""
    return argument in FUNCTIONS and isinstance(value, torch.nn.Module)


def _slow(begun: float) -> str:
    spent = time.process_time() - begun
    return f"{spent:.1f} s" if spent > SECONDS else ""


def _told(error: BaseException) -> str:
    """Return a foreign error in one line, with the line of ours that it passed last."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/attention/" in frame.filename] or frames
    where = f"{ours[-1].filename.rpartition('/attention/')[2]}:{ours[-1].lineno}"
    return f"{type(error).__module__}.{type(error).__name__}: {str(error)[:80]!r} at {where}"


def _message_fault(message: str) -> str:
    if len(message) > LONGEST:
        return f"a message of {len(message)} characters: {message[:80]!r}"
    return "" if message.strip() else "no message"


def finite(made: Any) -> bool:
    """Return whether a result holds no NaN."""
    if isinstance(made, (tuple, list)):
        return all(finite(each) for each in made)
    if isinstance(made, dict):
        return all(finite(each) for each in made.values())
    if isinstance(made, torch.Tensor):
        return not bool(torch.isnan(made).any())
    if isinstance(made, (np.ndarray, jax.Array)) and np.asarray(made).dtype.kind == "f":
        return not bool(np.isnan(np.asarray(made)).any())
    return not (isinstance(made, float) and math.isnan(made))
