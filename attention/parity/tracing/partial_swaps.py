"""Partial swaps: if there are several mistakes and no swap repairs all outputs, the one that explains part of them.

replace j by t; what reads the array agrees now        the mistake behind (t, j) is explained, whatever follows
"""

from __future__ import annotations

from collections.abc import Sequence

from attention.parity.tracing.activation_patching import carry, replacements
from attention.parity.tracing.backward_slice import ancestors
from attention.parity.tracing.candidate_swaps import Trial
from attention.parity.tracing.trace import members
from attention.parity.tracing.trace_alignment import Alignment

ENOUGH = 0.6
"""Of the operations that the best swap brings into agreement, the share that a smaller one must bring."""
DEPTH = 3
"""Operations after an array that may be written in another way before the programs agree again."""


def most_explaining(alignment: Alignment, trials: Sequence[Trial]) -> Trial | None:
    """Return the swap of the smallest region that brings nearly as much into agreement as any."""
    after = [(trial, _after(alignment, trial)) for trial in trials]
    gains = [0 if made is None else _gain(alignment, made, trial[2]) for trial, made in after]
    most = max(gains, default=0)
    return next((trial for trial, gain in zip(trials, gains, strict=True) if gain and gain >= ENOUGH * most), None)


def local_repair(alignment: Alignment, trials: Sequence[Trial]) -> Trial | None:
    """Return the swap of the smallest region after which all that reads the array agrees: other mistakes may follow."""
    for n, trial in enumerate(trials):
        after = _after(alignment, trial)
        if (
            after is not None
            and _gain(alignment, after, trial[2]) > 0
            and all(_closes(after, i, DEPTH, trial[2]) for i in trial[3] or _readers(after, trial[2]))
        ):
            # Where both sides compute, a smaller region that was tried does not do.
            return trial if trial[0] == "different" else _earlier(alignment, trial, trials[:n])
    return None


def _earlier(alignment: Alignment, trial: Trial, smaller: Sequence[Trial]) -> Trial:
    """Return the swap of the same array of torch for one that the array of JAX was made from, if that was tried."""
    kind, t, j, _ = trial
    behind = ancestors(alignment.jax, j, frozenset(i for i, ok in enumerate(alignment.fine[1]) if not ok)) - {j}
    return next((each for each in smaller if each[:2] == (kind, t) and each[2] in behind), trial)


def _after(alignment: Alignment, trial: Trial) -> Alignment | None:
    """Return the programs after a swap, in the layout that brings most into agreement; None if none fits."""
    _, t, j, only = trial
    readers = None if only is None else frozenset(only)
    made = [carry(alignment, replaced, readers) for replaced in replacements(alignment, [(t, j)])]
    return max(made, key=lambda after: _gain(alignment, after, j), default=None)


def _readers(after: Alignment, j: int) -> list[int]:
    """Return the operations that read an array of JAX, as it is or laid out anew; a single -1 where nothing does."""
    events, found = after.jax.events, list[int]()
    for i in (n for k in members(after.jax, j) for n in after.jax.consumers[k]):
        found += _readers(after, i) if events[i].is_move else [i]
    return [i for i in found if events[i].is_float] or [-1]


def _closes(after: Alignment, i: int, depth: int, j: int) -> bool:
    """Return whether an event of JAX agrees with one of torch, or all that reads it does, after event `j` was replaced."""
    if i < 0 or not after.jax.events[i].is_operation:
        return False
    return _agrees(after, i, j) or (depth > 0 and all(_closes(after, n, depth - 1, j) for n in _readers(after, i)))


def _agrees(after: Alignment, i: int, j: int) -> bool:
    """Return whether an event of JAX agrees with one of torch that does not hold the replacement itself.

    What leaves the replacement as it is, such as a clip of numbers that lie between its limits, shows nothing.
    """
    return not {*after.partners[1][j]}.issuperset(after.partners[1][i])


def _gain(alignment: Alignment, after: Alignment, j: int) -> int:
    """Return how many operations of JAX agree with one of torch after a swap, and did not before."""
    moved = [i for i in after.changed if i != j and alignment.jax.events[i].is_operation and alignment.jax.events[i].is_float]
    return sum(_agrees(after, i, j) - bool(alignment.partners[1][i]) for i in moved)
