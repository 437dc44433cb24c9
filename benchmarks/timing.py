"""Timing: programs take turns, so that what else the machine does falls on all of them alike.

time = median of (A, B, C, A, B, C, ...)        in milliseconds
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

Samples = dict[str, list[float]]


def interleave(calls: Mapping[str, Callable[[], Any]], rounds: int) -> Samples:
    """Return the milliseconds of every call in every round.

    Args:
        calls: by name; each returns when its work is done.
        rounds: how often each is timed.
    """
    samples: Samples = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            # Compiles, and fills the caches anew, and lets the threads of the program before fall asleep.
            _ = call()
            samples[name].append(milliseconds(call))
    return samples


def milliseconds(call: Callable[[], Any]) -> float:
    """Return how long one call takes, in milliseconds."""
    start = time.perf_counter()
    _ = call()
    return (time.perf_counter() - start) * 1e3
