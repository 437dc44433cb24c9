"""Sweeping: what an odd argument made of a call: an answer, one of our errors, or something that is neither."""

from __future__ import annotations

import math
import signal
import traceback
from typing import Any

import jax
import numpy as np
import torch

from attention.spec.errors import AttentionError
from parity_tests.odd_values import Odd
from parity_tests.public_calls import Public

LONGEST = 500
"""The most characters of a message."""
SECONDS = 3.0
"""The longest that a call may take."""


class Slow(BaseException):
    """A call took too long."""


def _late(*_: object) -> None:
    raise Slow


def fault(call: Public, argument: str, odd: Odd) -> str:
    """Return what is wrong with a call one of whose arguments is odd, or "" if nothing is."""
    arguments = call.arguments()
    arguments[argument] = odd.make()
    before = signal.signal(signal.SIGALRM, _late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        made = call.run(arguments)
        jax.block_until_ready(made) if isinstance(made, jax.Array) else None
    except AttentionError as error:
        signal.setitimer(signal.ITIMER_REAL, 0)
        return _message_fault(str(error))
    except Slow:
        return f"more than {SECONDS} s"
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is the fault that is looked for
        signal.setitimer(signal.ITIMER_REAL, 0)
        frame = traceback.extract_tb(error.__traceback__)[-1]
        ours = [f for f in traceback.extract_tb(error.__traceback__) if "/attention/" in f.filename]
        where = f"{ours[-1].filename.rpartition('/attention/')[2]}:{ours[-1].lineno}" if ours else frame.filename
        return f"{type(error).__module__}.{type(error).__name__}: {str(error)[:80]!r} at {where}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        _ = signal.signal(signal.SIGALRM, before)
    if odd.kind == "not finite" and not finite(made):
        return "a result that is not finite"
    return ""


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
