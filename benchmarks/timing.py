"""Timing: programs take turns, so that background load affects all alike.

    round 1: A B C    round 2: B C A    round 3: C A B ...        each call with the next of its copies of the inputs
    time  = median over rounds              spread = its quartiles
    ratio = median over rounds of time(A) / time(B)               what slows a whole round cancels

Times are in milliseconds: of the clock on the wall, or of the process' own use of the processor, which other processes
do not lengthen; the latter means something where the process is pinned to one core.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

Calls = Sequence[Callable[[], Any]]
"""The same program on each copy of its inputs; a call returns when its work is done."""
Samples = dict[str, list[float]]

LEAST, LONG = 5.0, 250.0
"""Milliseconds: a shorter sample holds several calls, and a longer one needs no call before it to warm the caches."""


@dataclass(frozen=True)
class Clock:
    """What is read before and after: seconds that rise."""

    name: str
    read: Callable[[], float]


WALL, CPU = Clock("wall", time.perf_counter), Clock("cpu", time.process_time)


def pin() -> int:
    """Keep this process, and the threads that it will start, on one core; return which.

    Call it before a framework makes its threads. Where the system cannot pin, nothing is done and -1 returned.
    """
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    if not hasattr(os, "sched_setaffinity"):
        return -1
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return core


def interleave(programs: Mapping[str, Calls], rounds: int, clock: Clock = WALL) -> Samples:
    """Return the milliseconds per call of every program in every round.

    Args:
        programs: by name.
        rounds: how often each is timed.
        clock: `WALL` or `CPU`.
    """
    turns = {name: _Turn(calls) for name, calls in programs.items()}
    samples: Samples = {name: [] for name in programs}
    names = list(programs)
    for n in range(rounds):
        first = n % len(names) if names else 0
        for name in names[first:] + names[:first]:
            samples[name].append(turns[name].sample(clock))
    return samples


class _Turn:
    """One program's place in the rotation: which copy is next, and how many calls make a sample."""

    def __init__(self, calls: Calls) -> None:
        self.calls, self.next, self.estimate = calls, 0, 0.0

    def sample(self, clock: Clock) -> float:
        if self.estimate < LONG:
            # Fills the caches anew, and lets the threads of the program before fall asleep.
            start = clock.read()
            self.call()
            self.estimate = (clock.read() - start) * 1e3
        loops = min(1000, math.ceil(LEAST / max(self.estimate, 1e-3)))
        start = clock.read()
        for _ in range(loops):
            self.call()
        self.estimate = (clock.read() - start) * 1e3 / loops
        return self.estimate

    def call(self) -> None:
        _ = self.calls[self.next]()
        self.next = (self.next + 1) % len(self.calls)


def quartiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """Return the first quartile, the median and the third quartile.

    >>> quartiles([4.0, 1.0, 3.0, 2.0, 5.0])
    (2.0, 3.0, 4.0)
    """
    if len(samples) == 1:
        return samples[0], samples[0], samples[0]
    low, _, high = quantiles(samples, n=4, method="inclusive")
    return low, median(samples), high


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Return the ratio of two programs in each round.

    >>> ratios([1.0, 4.0], [2.0, 2.0])
    [0.5, 2.0]
    """
    return [a / b for a, b in zip(above, below, strict=True)]
