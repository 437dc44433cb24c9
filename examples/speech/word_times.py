"""Word times: when each word was spoken, read off the attention that chose its tokens.

    look[n, t, s]  = the weights of alignment head n over the sound's own states, its padding left out, as a distribution
    sharp[t, s]    = mean over n of median over 7 states of (look - mean over t) / (standard deviation over t)
    path           = the staircase from (0, 0) to (T - 1, S - 1), each step down, right or both, of greatest sum of sharp
    time of t      = 20 ms for each state before the step into row t

Punctuation is not spoken: what chooses it looks at where the next word begins, so it takes no step of the staircase. The token
that ends the text is chosen after the last word, and so its time is where that word ends.

References:
    Radford et al., arXiv:2212.04356, and `timing.py` of their code; Giorgino, J. Stat. Softw. 31 (2009): time warping.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SECONDS = 0.02
"""How long a state of the encoder lasts: two frames of 10 ms."""
MEDIAN = 7
"""States over whose median a weight is taken: 140 ms."""


@dataclass(frozen=True)
class Word:
    """A word and when it was spoken."""

    text: str
    begin: float
    """In seconds."""
    end: float


def word_times(pieces: Sequence[str], looks: np.ndarray, seconds: float) -> list[Word]:
    """Return each word with its times.

    Args:
        pieces: the text of each token, without the end token; a word begins at a space.
        looks: `(n, T, S)`, the weights of n alignment heads; T is one more than the pieces, the last row chose the end.
        seconds: how long the sound is, which the S states outlast.
    """
    # A text that was cut off at its longest has no row that chose the end.
    rows = [*spoken(pieces), min(len(pieces), looks.shape[1] - 1)]
    times = starts(sharpened(looks, states(seconds, looks.shape[-1]))[rows]) * SECONDS
    begins = [t for t, piece in enumerate(pieces) if t == 0 or piece.startswith(" ")]
    found: list[Word] = []
    for a, b in zip(begins, [*begins[1:], len(pieces)], strict=True):
        first, after = (next(i for i, t in enumerate(rows) if t >= at) for at in (a, b))
        if first < after:
            found.append(Word("".join(pieces[a:b]).strip(), float(times[first]), float(times[after])))
    return found


def spoken(pieces: Sequence[str]) -> list[int]:
    """Return which pieces of text are heard: those with a letter or a digit.

    >>> spoken([" Press", " 1", ".", " Now"])
    [0, 1, 3]
    """
    return [t for t, piece in enumerate(pieces) if any(map(str.isalnum, piece))]


def states(seconds: float, most: int) -> int:
    """Return how many states of the encoder a sound fills: at least enough for a median."""
    return min(max(round(seconds / SECONDS), MEDIAN), most)


def sharpened(looks: np.ndarray, count: int) -> np.ndarray:
    """Return where each token stands out, `(T, count)`, of weights `(n, T, S)`."""
    own = looks[..., :count].astype(np.float64)
    own = own / own.sum(-1, keepdims=True)
    spread = own.std(axis=-2, keepdims=True)
    # A state that every token sees alike tells them apart in nothing.
    own = (own - own.mean(axis=-2, keepdims=True)) / np.where(spread > 0, spread, 1.0)
    return smoothed(own).mean(axis=0)


def smoothed(x: np.ndarray, width: int = MEDIAN) -> np.ndarray:
    """Return the median of every `width` neighbours along the last axis, which is mirrored at both ends."""
    half = width // 2
    padded = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(half, half)], mode="reflect")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, width, axis=-1), axis=-1)


def starts(gain: np.ndarray) -> np.ndarray:
    """Return in which column the best staircase through `gain` `(T, S)` enters each row.

    >>> starts(np.array([[2, 2, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]])).tolist()
    [0, 2, 3]
    """
    rows, columns = gain.shape
    best = np.full((rows + 1, columns + 1), -np.inf)
    best[0, 0] = 0.0
    for t in range(1, rows + 1):
        # A row is entered from above or across the corner; the sum to the right of there is a running one.
        entered = gain[t - 1] + np.maximum(best[t - 1, :-1], best[t - 1, 1:])
        along = np.cumsum(gain[t - 1])
        best[t, 1:] = along + np.maximum.accumulate(entered - along)
    return _entered(best, gain)


def _entered(best: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Return the columns in which the path to the last corner enters each row, walking back from there."""
    found = np.zeros(len(gain), np.int64)
    t, s = gain.shape
    while t > 0:
        corner, above, left = best[t - 1, s - 1], best[t - 1, s], best[t, s - 1]
        if left > max(corner, above):
            s -= 1
            continue
        found[t - 1] = s - 1
        # Above, time stands still; across the corner, it moves on.
        t, s = (t - 1, s - 1) if corner >= above else (t - 1, s)
    return found
